"""The conformance kit: what an adapter promises, as checks that its author runs.

Subclass `AdapterConformance` in a test module, and pytest runs every check on the adapter. Each
is also a function that takes a `Subject`, and works without pytest.
"""

from __future__ import annotations

from flowyml.testing.conformance import CHECKS, AdapterConformance
from flowyml.testing.description import (
    check_describing_changes_nothing,
    check_the_description_is_complete,
    check_the_description_is_deterministic,
)
from flowyml.testing.detection import (
    check_detection_needs_no_framework,
    check_the_right_objects_are_detected,
)
from flowyml.testing.digesting import check_digests_are_those_of_saving
from flowyml.testing.durability import (
    check_concurrent_savers_lose_nothing,
    check_errors_are_clear,
    check_flipped_bytes_are_refused,
)
from flowyml.testing.filling import check_load_heeds_what_it_accepts
from flowyml.testing.folders import (
    check_loading_leaves_the_files_alone,
    check_saving_writes_only_into_its_folder,
)
from flowyml.testing.hostility import check_hostile_files_are_refused
from flowyml.testing.identity import (
    check_a_changed_model_has_another_digest,
    check_an_unchanged_model_keeps_its_digest,
)
from flowyml.testing.killing import check_a_killed_save_leaves_nothing_half_written
from flowyml.testing.processes import ProcessError
from flowyml.testing.registration import (
    check_importing_is_free_of_the_framework,
    check_the_adapter_is_registered,
)
from flowyml.testing.restoring import check_a_saved_model_comes_back
from flowyml.testing.seeding import check_seeds_reproduce
from flowyml.testing.subject import ConformanceError, Subject
from flowyml.testing.trusting import check_trust_is_respected

__all__ = [
    "CHECKS",
    "AdapterConformance",
    "ConformanceError",
    "ProcessError",
    "Subject",
    "check_a_changed_model_has_another_digest",
    "check_a_killed_save_leaves_nothing_half_written",
    "check_a_saved_model_comes_back",
    "check_an_unchanged_model_keeps_its_digest",
    "check_concurrent_savers_lose_nothing",
    "check_describing_changes_nothing",
    "check_detection_needs_no_framework",
    "check_digests_are_those_of_saving",
    "check_errors_are_clear",
    "check_flipped_bytes_are_refused",
    "check_hostile_files_are_refused",
    "check_importing_is_free_of_the_framework",
    "check_load_heeds_what_it_accepts",
    "check_loading_leaves_the_files_alone",
    "check_saving_writes_only_into_its_folder",
    "check_seeds_reproduce",
    "check_the_adapter_is_registered",
    "check_the_description_is_complete",
    "check_the_description_is_deterministic",
    "check_the_right_objects_are_detected",
    "check_trust_is_respected",
]
