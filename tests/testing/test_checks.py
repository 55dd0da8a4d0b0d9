"""Each check catches the adapters that break its promise, and tells their authors what to do.

The toy framework and its adapters lie in the folder ``toy``.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
from toy_subject import Faulty

from flowyml import testing
from flowyml.testing import ConformanceError, Subject

REGISTERED = testing.check_the_adapter_is_registered
COLD = testing.check_importing_is_free_of_the_framework
UNIMPORTED = testing.check_detection_needs_no_framework
DETECTED = testing.check_the_right_objects_are_detected
COMPLETE = testing.check_the_description_is_complete
SAME_WORDS = testing.check_the_description_is_deterministic
UNTOUCHED = testing.check_describing_changes_nothing
BACK = testing.check_a_saved_model_comes_back
HEEDED = testing.check_load_heeds_what_it_accepts
SAME = testing.check_an_unchanged_model_keeps_its_digest
OTHER = testing.check_a_changed_model_has_another_digest
DIGESTED = testing.check_digests_are_those_of_saving
SEEDED = testing.check_seeds_reproduce
TRUSTED = testing.check_trust_is_respected
SAVED = testing.check_saving_writes_only_into_its_folder
STARVED = testing.check_a_killed_save_leaves_nothing_half_written
LOADED = testing.check_loading_leaves_the_files_alone

CAUGHT = [
    (REGISTERED, "nowhere_to_be_found", "can't be imported", "`plugin` has to name"),
    (REGISTERED, "faulty:returns_a_class", "returned the class", "return an instance of it"),
    (REGISTERED, "faulty:without_materializers", "brings no materializer", "Return one from"),
    (REGISTERED, "faulty:without_version", "doesn't say which version", "Put api_version = 3"),
    (REGISTERED, "faulty:foreign_key", "'toys.model'", "a key that starts with 'toy.'"),
    (REGISTERED, "faulty:odd_format", "format 'whole/numbers'", "Use letters, digits"),
    (REGISTERED, "faulty:no_types", "has to name the `types`", "such as ('package.Model',)"),
    (REGISTERED, "faulty:odd_conversion", "conversions of 'halves'", "its formats: 'whole'"),
    (REGISTERED, "faulty:accepts_dtype", "accepts 'dtype'", "there are 'class_map', 'device'"),
    (COLD, "eager_adapter:plugin", "imports toyframework", "Import the framework inside"),
    (COLD, "printing_adapter:plugin", "prints 'Welcome!'", "Take the print away"),
    (UNIMPORTED, "faulty:imports_to_detect", "imports toyframework when", "sys.modules.get()"),
    (UNIMPORTED, "faulty:asks_for_attributes", "answers every attribute", "Return False as long"),
    (DETECTED, "faulty:asks_for_attributes", "says True of an object that", "Compare its type"),
    (DETECTED, "faulty:detects_objects", "instead of a bool of the model", "put bool(...)"),
    (DETECTED, "faulty:detects_classes", "True of the model's class", "a type, it is no model"),
    (DETECTED, "faulty:detects_curves", "a toyframework.Curve, which other_", "Compare its type"),
    (DETECTED, "faulty:detects_nothing", "No extractor recognises", "has to return True for it"),
    (DETECTED, "faulty:raises_to_detect", "raises LookupError: no idea", "True or False of any"),
    (DETECTED, "faulty:names_other_modules", "never called for the model", "Name the framework's"),
    (DETECTED, "faulty:names_modules_of_old", "of 'toy.model' is never", "Name the framework's"),
    (DETECTED, "faulty:two_of_a_kind", "'toy.model' of", "Narrow detect() down to one"),
    (COMPLETE, "faulty:describes_tuples", "'settings' can't be stored", "lists and dicts of these"),
    (COMPLETE, "faulty:describes_objects", "object has no JSON form", "Return None, bool, int,"),
    (COMPLETE, "faulty:describes_text", "'parameters' has to be of the type int", "Convert it"),
    (COMPLETE, "faulty:describes_too_much", "3 are trainable and 1 frozen", "count each once"),
    (COMPLETE, "faulty:outlines_a_half", "The outline counts 1 where", "includes the layers in"),
    (COMPLETE, "faulty:outlines_too_few", "3 of them trainable, and one with 4", "in it"),
    (COMPLETE, "faulty:fails_to_describe", "failed with KeyError: 'coeff", "describe every model"),
    (COMPLETE, "faulty:nameless", "default_name() returned ''", "such as the name of the model"),
    (SAME_WORDS, "faulty:describes_times", "a second time", "Take out addresses, times"),
    (SAME_WORDS, "faulty:describes_addresses", "in another process", "Take out addresses"),
    (UNTOUCHED, "faulty:changes_the_model", "changes what it predicts", "may only read"),
    (UNTOUCHED, "faulty:notes_in_the_model", "changes what is saved", "may only read"),
    (UNTOUCHED, "faulty:draws_random_numbers", "random numbers of 'python'", "put it back"),
    (BACK, "faulty:negates", "0.275 became 0.125", "Save everything that predictions depend on"),
    (BACK, "faulty:gives_another_type", "doesn't recognise as a model", "Give back the model"),
    (BACK, "faulty:counts", "Saving a model changes what it predicts", "may only read it"),
    (BACK, "faulty:has_no_format", "says no to every format", "has to be possible"),
    (BACK, "faulty:unorders", "has another digest, though it is the same", "in an order of its"),
    (
        HEEDED,
        "faulty:gives_another_object",
        "returned another object",
        "Fill the one that is given",
    ),
    (HEEDED, "faulty:does_not_fill", "isn't the one that was saved", "has to overwrite"),
    (HEEDED, "faulty:negates", "with into= from the format 'whole' pred", "overwrite everything"),
    (HEEDED, "faulty:converts_nothing", "LookupError: numbers", "each form that its `conversions`"),
    (HEEDED, "faulty:checks_no_type", "fails with AttributeError", "Check the type of what is"),
    (HEEDED, "faulty:accepts_device", "no model says where it is", "take 'device' out of"),
    (SAME, "faulty:dates", "saved again, has another digest", "No time, random name"),
    (SAME, "faulty:unorders", "in another process, folder and", "order of a set may get into"),
    (OTHER, "faulty:rounds", "the digest of the unchanged one", "Save all that makes up a model"),
    (SEEDED, "faulty:without_source", "same seed gives other numbers", "Return a random source"),
    (SEEDED, "faulty:seeds_by_chance", "two states after one seed", "draws from; state() has"),
    (SEEDED, "faulty:seeds_nothing", "the same state after two seeds", "draws from; state() has"),
    (SEEDED, "faulty:restores_nothing", "after restore(state)", "state() has to return a copy"),
    (SEEDED, "faulty:gives_its_live_state", "'toy' failed with", "takes what state() returned"),
    (TRUSTED, "faulty:imports_untrusted", "imports their_functions", "before it imports"),
    (TRUSTED, "faulty:trusts_all", "is loaded with trust=()", "raise UntrustedDataError"),
    (TRUSTED, "faulty:trusts_names_alike", "squared_',)", "raise UntrustedDataError"),
    (TRUSTED, "faulty:raises_another_error", "fails with MaterializationError", "is due"),
    (TRUSTED, "faulty:requires_nothing", "without their_functions.squared", "all that is needed"),
    (TRUSTED, "faulty:trades_functions", "predicts something else when", "Save everything"),
    (TRUSTED, "faulty:keeps_its_needs_quiet", "without a word of what it needs", "has to return"),
    # What gets lost.
    (BACK, "careless:forgets_the_title", "'rising' became 'untitled' at", "settings too, and put"),
    (BACK, "careless:changes_the_title", "Saving a model changes how it is desc", "may only read"),
    (BACK, "careless:saves_subclasses", "has derived from toyframework.Polynom", "type(obj) is"),
    (OTHER, "careless:notes_the_title", "variants()[0] is saved", "`details` don't co"),
    (HEEDED, "careless:fills_before_it_checks", "has changed that model", "Check everything"),
    (HEEDED, "careless:fills_what_it_refuses", "of variants()[1]", "before you put"),
    (DETECTED, "careless:detects_names", "somebody's own class 'Polynomial'", "Compare its type"),
    (DETECTED, "careless:saves_curves", "detect() of 'toy.model' says True of a t", "Compare its"),
    # Other places.
    (SAME, "careless:notes_the_folder", "another process, folder and time", "path or order of a"),
    (SAME, "careless:notes_the_user", "another process, folder and time zone", "random name"),
    (SAME, "careless:notes_the_temporary_folder", "another process, folder and", "path or order"),
    (SAME, "careless:notes_two_labels", "another process, folder and time zone", "order of a set"),
    (SAME_WORDS, "careless:describes_two_labels", "in another process", "comes from a set"),
    (SAME_WORDS, "careless:describes_their_hashes", "of make_model_that_needs_trust()", "sort"),
    (COMPLETE, "careless:describes_functions", "model of make_model_that_needs_trust()", "Return"),
    (COLD, "eager_unnamed:plugin", "imports toyframework", "Import the framework inside"),
    # Noise.
    (UNTOUCHED, "careless:writes_a_description", "changes a file: open of", "may only read"),
    (UNTOUCHED, "careless:prints_a_description", "prints 'a polynomial'", "Take the print away"),
    (SAVED, "careless:writes_too_late", "changes 'numbers.json' after", "once the file is closed"),
    (SAVED, "careless:leaves_temporary_files", "leaves the temporary file 'tmp", "Remove it"),
    (SAVED, "careless:moves_away", "another current folder", "Use whole paths"),
    (SAVED, "careless:draws_to_save", "random numbers of 'python'", "put it back"),
    (LOADED, "careless:draws_to_load", "random numbers of 'python'", "put it back"),
    (LOADED, "careless:prints_to_load", "prints 'loaded'", "Take the print away"),
    (LOADED, "careless:warns_to_load", "warns, as UserWarning: 'it is old'", "Mend what it"),
    (LOADED, "careless:reads_when_needed", "the store being gone", "read everything before"),
    (STARVED, "careless:overlooks_a_full_disk", "doesn't notice that the disk", "Path.write_bytes"),
    # Random sources.
    (SEEDED, "careless:takes_the_seed_for_the_state", "user's own random numbers", "has to put"),
    (SEEDED, "careless:seeds_another_library", "changes the random state of 'python'", "Seed"),
    (SEEDED, "careless:imports_its_framework_to_seed", "imports toyframework", "sys.modules.get"),
    (SEEDED, "careless:restores_nothing_wrong", "failed with KeyError", "restore(None) does not"),
    # Records of runs.
    (DIGESTED, "careless:digests_less", "as to 'title.json'", "share the code that decides"),
    (DIGESTED, "careless:digests_what_was", "as to 'numbers.json'", "share the code that decides"),
    (DIGESTED, "careless:digests_a_list", "a dict by path is due", "leave digests() out"),
    (DIGESTED, "careless:digests_in_short", "something else than digests", "digest_of_bytes"),
    (DIGESTED, "careless:draws_to_digest", "random numbers of 'python'", "put it back"),
    (DIGESTED, "careless:writes_to_digest", "changes a file: open of", "do without"),
    (DIGESTED, "careless:fails_to_digest", "failed with LookupError: rising", "may return None"),
    (COMPLETE, "careless:sets_objects", "'then' in settings() of 'toy.model' can't", "Return None"),
    (COMPLETE, "careless:sets_a_list", "settings() of 'toy.model' returned a list", "a dict"),
    (COMPLETE, "careless:runs_in_tuples", "'version' in environment() of 'toy'", "lists and dicts"),
    (SEEDED, "careless:packs_text", "packs a state as a str", "without pickle"),
    (SEEDED, "careless:packs_the_same", "packs two states as the same bytes", "all of the state"),
    (SEEDED, "careless:packs_at_random", "packs equal states as other bytes", "in one way"),
    (SEEDED, "careless:packs_none", "packs None as a state", "Return None for it"),
    (SEEDED, "careless:unpacks_another_state", "after restore(unpack(data))", "all of the state"),
    (SEEDED, "careless:unpacks_anything", "it is taken for a state", "raise a ValueError"),
    (SEEDED, "careless:unpacks_carelessly", "it fails with IndexError", "raise a ValueError"),
]


@pytest.mark.parametrize(
    ("check", "plugin", "problem", "advice"),
    [pytest.param(*row, id=f"{row[1].rpartition(':')[2]}-{row[2][:20]}") for row in CAUGHT],
)
def test_a_broken_promise_is_caught_and_its_author_told_what_to_do(
    check: Callable[[Subject], None],
    plugin: str,
    problem: str,
    advice: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TOY_PLUGIN", plugin)
    with pytest.raises(ConformanceError) as caught:
        check(Faulty())
    assert problem in str(caught.value)
    assert advice in str(caught.value)
