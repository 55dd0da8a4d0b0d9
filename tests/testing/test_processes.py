"""New processes: what is asked of them comes back as it is, and their failures are told."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import questions
from toy_subject import Toy

from flowyml.testing import ConformanceError, ProcessError, processes


class OfThisFile(Toy):
    """Lies where new processes find it by its file only."""


def test_values_come_back_from_a_new_process_as_they_are() -> None:
    values = [{"a": (1, math.inf), 2: None, "text": "ß"}, [True, -0.0]]
    assert repr(processes.in_new_process(Toy(), questions.same, *values)) == repr(values)


def test_a_new_process_has_another_hash_seed_and_nothing_of_the_shell(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("FLOWYML_STORE", "elsewhere")
    first, second = (processes.in_new_process(Toy(), questions.facts) for _ in range(2))
    assert first["hash"] != second["hash"]
    assert first["flowyml"] == []
    given = processes.in_new_process(Toy(), questions.facts, environment={"FLOWYML_STORE": "here"})
    assert given["flowyml"] == ["FLOWYML_STORE"]


LABELS = (
    ("a", "b"), ("x", "y"), ("0", "1"), ("cat", "dog"), ("no", "yes"), ("negative", "positive"),
    ("ham", "spam"), ("weight", "bias"), ("eval", "train"), ("left", "right"), ("first", "second"),
    ("input", "output"), ("female", "male"), ("false", "true"), ("False", "True"), ("A", "B"),
)  # fmt: skip


def test_common_labels_are_in_another_order_in_the_other_of_two_processes() -> None:
    one, other = processes.in_two_processes(Toy(), questions.orders, list(map(list, LABELS)))
    for pair, first, second in zip(LABELS, one, other, strict=True):
        assert sorted(first) == sorted(second) == sorted(pair)
        assert first != second


def test_a_process_without_the_subject_knows_the_framework_by_name_only() -> None:
    bare = processes.in_new_process(Toy(), questions.facts, with_subject=False)
    assert not bare["toyframework"]
    assert bare["modules"] == ("toyframework",)
    assert processes.in_new_process(Toy(), questions.facts)["toyframework"]


def test_a_class_of_a_test_module_is_found_by_its_file() -> None:
    class_of_this_module = (__name__, "OfThisFile")
    assert processes.in_new_process(OfThisFile(), questions.kind) == class_of_this_module


def test_a_class_that_no_other_process_can_find_is_refused() -> None:
    class Inside(Toy):
        pass

    with pytest.raises(ConformanceError, match="Define it at the top of a module"):
        processes.in_new_process(Inside(), questions.kind)


def test_what_a_process_prints_is_not_its_answer() -> None:
    with processes.start(Toy(), questions.prints) as process:
        assert process.result() == "the answer"
        assert sorted(process.printed().split("\n")) == ["", "from Python", "from below"]


def test_a_failing_process_is_told_with_its_status_and_what_it_printed() -> None:
    with pytest.raises(ProcessError, match=r"(?s)fails failed .* status 1 and .*LookupError: lost"):
        processes.in_new_process(Toy(), questions.fails)
    with pytest.raises(ProcessError, match="exited with status 3"):
        processes.in_new_process(Toy(), questions.exits)


def test_a_failing_check_in_another_process_fails_here_with_the_same_words() -> None:
    with pytest.raises(ConformanceError, match=r"^Do it otherwise\.$"):
        processes.in_new_process(Toy(), questions.refuses)


def test_a_process_that_takes_too_long_is_ended(tmp_path: Path) -> None:
    with processes.start(Toy(), questions.waits, str(tmp_path / "begun")) as process:
        while not (tmp_path / "begun").exists():
            assert process.popen.poll() is None
        with pytest.raises(ProcessError, match=r"(?s)longer than 0.1 s .*waiting"):
            process.result(timeout=0.1)
        assert process.popen.returncode == -9


def test_leaving_the_block_of_a_process_ends_it(tmp_path: Path) -> None:
    with processes.start(Toy(), questions.waits, str(tmp_path / "begun")) as process:
        pass
    assert process.popen.returncode == -9
