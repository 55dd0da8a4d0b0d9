"""The checks as a test class: an adapter's author subclasses it, and pytest runs it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from flowyml.errors import told
from flowyml.testing.checks import Check
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

__tracebackhide__ = True

CHECKS: tuple[Check, ...] = (
    check_the_adapter_is_registered,
    check_importing_is_free_of_the_framework,
    check_detection_needs_no_framework,
    check_the_right_objects_are_detected,
    check_the_description_is_complete,
    check_the_description_is_deterministic,
    check_describing_changes_nothing,
    check_a_saved_model_comes_back,
    check_load_heeds_what_it_accepts,
    check_an_unchanged_model_keeps_its_digest,
    check_a_changed_model_has_another_digest,
    check_digests_are_those_of_saving,
    check_seeds_reproduce,
    check_trust_is_respected,
    check_errors_are_clear,
    check_saving_writes_only_into_its_folder,
    check_loading_leaves_the_files_alone,
    check_flipped_bytes_are_refused,
    check_concurrent_savers_lose_nothing,
    check_a_killed_save_leaves_nothing_half_written,
    check_hostile_files_are_refused,
)
"""Every check, in the order in which an author wants to mend what fails."""


def name_of(check: Check) -> str:
    """Return the name of a check as `Subject.expected_failures` has it."""
    return check.__name__.removeprefix("check_")


def _as_test(check: Check) -> Callable[[Any], None]:
    name = name_of(check)

    def test(self: Subject) -> None:
        __tracebackhide__ = True  # the text of the error says it all
        reason = self.expected_failures.get(name)
        if reason is None:
            check(self)
            return
        try:
            check(self)
        except (ConformanceError, ProcessError) as error:
            import pytest

            pytest.xfail(f"{reason} ({told(error)})")
        raise ConformanceError(
            f"The check {name!r} is expected to fail ({reason}), and passes. Remove it from "
            f"`expected_failures` of {type(self).__name__}."
        )

    test.__name__ = test.__qualname__ = f"test_{name}"
    test.__doc__ = check.__doc__
    return test


class AdapterConformance(Subject):
    """The whole kit as a test class for pytest: subclass it, and fill in the methods of `Subject`.

    Each check is one test. A subclass that is itself a base of others sets ``__test__ = False``.

    Raises:
        TypeError: when a subclass lacks what it has to define, or `expected_failures` is no
            mapping.
        ValueError: when a subclass expects failures of checks that there are not, or gives no
            reason.
    """

    __test__: ClassVar[bool] = False

    def __init_subclass__(cls, **arguments: Any) -> None:
        super().__init_subclass__(**arguments)
        if "__test__" not in cls.__dict__:
            cls.__test__ = True
        _check_expected_failures(cls)
        if cls.__test__:
            _check_complete(cls)


def _check_expected_failures(cls: type[Subject]) -> None:
    expected: object = cls.expected_failures
    if not isinstance(expected, Mapping):
        raise TypeError(
            f"{cls.__name__}.expected_failures has to be a dict, the reason by name of the check; "
            f"it is {expected!r}."
        )
    known = [name_of(check) for check in CHECKS]
    for name, reason in expected.items():
        if name not in known:
            raise ValueError(
                f"{cls.__name__}.expected_failures names {name!r}, which is no check. There "
                f"are: {', '.join(known)}."
            )
        if not isinstance(reason, str) or not reason.strip():
            raise ValueError(f"{cls.__name__}.expected_failures gives no reason for {name!r}.")


def _check_complete(cls: type[Subject]) -> None:
    missing = [] if hasattr(cls, "framework") else ["framework"]
    for name in ("make_model", "change_model", "predict"):
        # Python notes what is abstract in a class only after this.
        if getattr(getattr(cls, name), "__isabstractmethod__", False):
            missing.append(f"{name}()")
    if missing:
        raise TypeError(
            f"{cls.__name__} doesn't define {', '.join(missing)}, so that pytest would pass it "
            f"over in silence. Define them; or, if it is only a base of others, set "
            f"__test__ = False."
        )


for _check in CHECKS:
    setattr(AdapterConformance, f"test_{name_of(_check)}", _as_test(_check))
