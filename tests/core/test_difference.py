"""What differs between two versions or two runs, and which of it is the likely cause."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest

from flowyml import Asset, Model, Store, encoding
from flowyml.difference import Difference, diff
from flowyml.difference.items import MISSING
from flowyml.difference.provenance import Made, Provenance
from flowyml.errors import AssetNotFoundError, IntegrityError, StoreError
from flowyml.properties import Metadata
from flowyml.records import (
    Code,
    Failure,
    Input,
    NotStored,
    Output,
    RunRecord,
    StepRecord,
    to_data,
)

THEN = datetime(2025, 1, 2, 3, 4, 5, tzinfo=UTC)
A, B, C = "20250101T000000000001-aaaaaa", "20250102T000000000001-bbbbbb", "20250103T0-cccccc"
DIGESTS = {letter: letter * 64 for letter in "0123456789abcdef"}
TRAIN = Code("proj.train", DIGESTS["1"], "def train():\n    return 1\n", parts={"proj.train": "1"})
RANDOM = {"python": DIGESTS["8"], "torch": DIGESTS["9"]}
DRAWN = {"python": DIGESTS["6"], "torch": DIGESTS["7"]}
ENVIRONMENT = {"python": "3.11.9", "hostname": "one", "distributions": {"torch": "2.12.0"}}


def call(name: str = "train", **members: Any) -> StepRecord:
    """Return a completed call, of which everything is known, that made nothing."""
    known = {
        "seed": 7,
        "seeded": True,
        "random": RANDOM,
        "random_after": DRAWN,
        "code": TRAIN.digest,
        "status": "completed",
        "duration": 1.0,
    }
    return StepRecord(name, f"proj.{name}", THEN, **{**known, **members})


def made(digest: str, key: str = "", ref: str = "nowhere@v1") -> list[Output]:
    return [Output(key, ref, DIGESTS.get(digest, digest), "list")]


@pytest.fixture
def runs(store: Store) -> Callable[..., Difference]:
    """Write two runs of the given calls, and compare them."""

    def compare(first: list[StepRecord], second: list[StepRecord], **members: Any) -> Difference:
        for run_id, steps, which in ((A, first, 0), (B, second, 1)):
            own = {key: pair[which] for key, pair in members.items()}
            code = own.pop("code", [TRAIN])
            write(store, run_id, steps, **{"code": {c.digest: c for c in code}, **own})
        return diff(store, A, B)

    return compare


def write(store: Store, run_id: str, steps: list[StepRecord], **members: Any) -> None:
    known = {"status": "completed", "environment": ENVIRONMENT, "code": {TRAIN.digest: TRAIN}}
    record = RunRecord(run_id, "nightly", THEN, steps=steps, **{**known, **members})
    store.write_record(f"runs/{run_id}.json", to_data(record))


def stored(
    store: Store, obj: Any, name: str, run: str, step: str = "train", **members: Any
) -> Output:
    """Store what a call made; return how it is recorded."""
    asset = store.save_for_run(Asset(data=obj, **members), name, run=run, step=step)
    return Output("", str(asset.ref), str(asset.digest), "numpy.ndarray")


def kinds(difference: Difference) -> list[str]:
    return [cause.kind for cause in difference.explain()]


def causes(difference: Difference) -> list[tuple[str, tuple[str, ...]]]:
    return [(cause.kind, cause.steps) for cause in difference.explain()]


# Which two things are meant


def test_runs_are_found_by_how_their_id_begins(store: Store, runs: Any) -> None:
    runs([call()], [call()])
    found = diff(store, "20250101", B)
    assert (found.kind, found.before, found.after) == ("run", A, B)
    with pytest.raises(StoreError, match=f"2 runs of .* begin with '2025', such as {A} and {B}"):
        diff(store, "2025", B)


def test_a_bare_name_means_its_newest_version(store: Store) -> None:
    for value in (1, 2):
        store.save(value, "digits")
    found = diff(store, "digits@v1", "digits")
    assert (found.kind, found.before, found.after) == ("version", "digits@v1", "digits@v2")


def test_a_version_and_a_run_are_not_compared(store: Store, runs: Any) -> None:
    runs([], [])
    store.save(1, "digits")
    with pytest.raises(StoreError, match="'digits' is a version and '20250101' a run"):
        diff(store, "digits", "20250101")


def test_what_is_neither_is_told_with_what_is_near(store: Store, runs: Any) -> None:
    runs([], [])
    store.save(1, "digits")
    with pytest.raises(AssetNotFoundError, match="neither .* 'digist'. Did you mean 'digits'?"):
        diff(store, "digits@v1", "digist")
    with pytest.raises(AssetNotFoundError, match=f"Did you mean '{A}'"):
        diff(store, A.replace("aaaaaa", "aaaaab"), B)
    with pytest.raises(AssetNotFoundError, match="holds no digits@v4"):
        diff(store, "digits@v4", "digits@v1")
    with pytest.raises(AssetNotFoundError, match="neither an asset nor a run ''"):
        diff(store, "", A)
    with pytest.raises(TypeError, match="a ref such as 'digits@v1' or the id of a run"):
        diff(store, 5, A)  # type: ignore[arg-type]


def test_a_run_that_goes_on_can_be_compared(store: Store) -> None:
    from flowyml.journal import Journal

    write(store, A, [call()])
    record = RunRecord(B, "nightly", THEN)
    journal = Journal(record, store)
    journal.begin()
    journal.add_step(0, call(status="running", duration=None), durable=False)
    (entry,) = [entry for entry in diff(store, A, B).about if entry.name == "status"]
    assert (entry.before, entry.after) == ("completed", "running")


def test_a_damaged_record_of_a_run_is_an_error_when_it_is_asked_for(store: Store) -> None:
    write(store, A, [])
    (store.path / "runs" / f"{B}.json").write_text("{}")
    with pytest.raises(IntegrityError, match="damaged"):
        diff(store, A, B)


# What differs between runs


def test_equal_runs_are_identical_and_have_nothing_to_explain(runs: Any) -> None:
    found = runs([call(outputs=made("a"))], [call(outputs=made("a", ref="nowhere@v2"))])
    assert found.identical
    assert not found.steps
    assert found.explain() == []
    assert found.text() == f"{A} → {B}: what the runs made is equal, bit for bit."
    assert found.explanation() == found.text()


def test_hyperparameters_differ_by_flat_name(runs: Any) -> None:
    found = runs(
        [call(hyperparameters={"config.lr": 0.1, "nan": math.nan, "old": None, "n": 1})],
        [call(hyperparameters={"config.lr": 0.2, "nan": math.nan, "new": [1], "n": 1.0})],
    )
    assert [(e.name, e.before, e.after) for e in found.hyperparameters] == [
        ("config.lr", 0.1, 0.2),
        ("old", None, MISSING),
        ("n", 1, 1.0),
        ("new", MISSING, [1]),
    ]
    assert "  config.lr  0.1 → 0.2\n" in found.text()
    assert "  old        null → -\n" in found.text()


def test_seeds_differ_and_the_states_that_follow_from_them_are_left_out(runs: Any) -> None:
    found = runs([call(seed=7)], [call(seed=8, random={"python": DIGESTS["0"]})])
    assert [(e.name, e.before, e.after) for e in found.seeds] == [("seed", 7, 8)]
    found = runs([call(seed=7)], [call(seed=7, seeded=False)])
    assert [(e.name, e.before, e.after) for e in found.seeds] == [("seed", 7, "none applied")]


def test_a_seed_that_was_only_drawn_is_no_difference(runs: Any) -> None:
    assert runs([call(seed=1, seeded=False)], [call(seed=2, seeded=False)]).seeds == ()


def test_random_states_at_entry_differ(runs: Any) -> None:
    other = {"python": DIGESTS["0"], "torch": DIGESTS["9"]}
    found = runs([call(seeded=False)], [call(seeded=False, random=other)])
    assert [e.name for e in found.seeds] == ["random state of python"]


def test_code_differs_in_words_and_as_text(runs: Any) -> None:
    other = attrs.evolve(
        TRAIN,
        digest=DIGESTS["2"],
        source="def train():\n    return 2\n",
        parts={"proj.train": "2"},
        libraries={"torch": "2.13.0"},
    )
    before = attrs.evolve(TRAIN, libraries={"torch": "2.12.0"})
    found = runs([call()], [call(code=other.digest)], code=([before], [other]))
    assert found.code == ("proj.train changed", "torch 2.12.0 → 2.13.0")
    (step,) = found.steps
    assert step.source is not None
    assert "-    return 1" in step.source.splitlines()
    assert "      return 1" not in found.text()
    assert "  +    return 2" in found.text()


def test_inputs_differ_by_content_ref_type_and_settings(runs: Any) -> None:
    a = Input("torch.Tensor", DIGESTS["a"], "data@v1", settings={"shape": [3], "dtype": "float32"})
    others = {
        "content": attrs.evolve(a, digest=DIGESTS["b"]),
        "ref": attrs.evolve(a, ref="data@v2"),
        "type": attrs.evolve(a, type="numpy.ndarray"),
        "settings": attrs.evolve(a, settings={"shape": [4], "dtype": "float32"}),
        "same": a,
        "nothing": None,
    }
    found = runs(
        [call(inputs=dict.fromkeys(others, a))],
        [call(inputs={name: given for name, given in others.items() if given})],
    )
    assert [(given.name, given.differs) for given in found.inputs] == [
        ("content", True),
        ("ref", False),
        ("type", False),
        ("settings", False),
        ("nothing", True),
    ]
    text = found.text()
    assert "torch.Tensor (data@v1, aaaaaaaaaaaa…) → torch.Tensor (data@v1, bbbbbbbbbbbb…)" in text
    assert "shape [3] → [4])" in text
    assert "aaaaaaaaaaaa…) → -" in text


def test_calls_are_matched_by_name_and_order(runs: Any) -> None:
    found = runs(
        [call("load"), call(hyperparameters={"n": 1}), call(hyperparameters={"n": 2})],
        [call(hyperparameters={"n": 1}), call(hyperparameters={"n": 3}), call("test")],
    )
    assert [(step.name, step.before, step.after) for step in found.steps] == [
        ("train #2", f"{A}/2", f"{B}/1")
    ]
    assert (found.only_before, found.only_after) == (("load",), ("test",))
    assert not found.identical
    assert "Only in the first\n  load\n" in found.text()


def test_outputs_differ_by_key(runs: Any) -> None:
    found = runs(
        [call(outputs=[*made("a", "x"), *made("b", "y")])],
        [call(outputs=[*made("a", "x"), *made("c", "y"), *made("d", "z")])],
    )
    assert [(r.name, r.before, r.after) for r in found.outputs] == [
        ("train.y", DIGESTS["b"], DIGESTS["c"]),
        ("train.z", None, DIGESTS["d"]),
    ]


def test_what_was_changed_in_place_or_saved_counts_as_made(runs: Any, store: Store) -> None:
    given = Input("torch.nn.Linear", DIGESTS["a"])
    refs = [str(store.save(value, "checkpoint").ref) for value in (1, 1, 2)]
    found = runs(
        [call(inputs={"net": attrs.evolve(given, changed=DIGESTS["b"])}, saved=refs[:2])],
        [call(inputs={"net": given}, saved=[refs[0], refs[2]])],
    )
    assert [(r.name, r.before, r.after) for r in found.outputs] == [
        ("train: the argument 'net' afterwards", DIGESTS["b"], DIGESTS["a"]),
        ("train: saved 'checkpoint' #2", store.get(refs[1]).digest, store.get(refs[2]).digest),
    ]


def test_what_was_not_stored_is_neither_equal_nor_different(runs: Any) -> None:
    lost = NotStored("", "Socket", "no materializer")
    found = runs([call(outputs=made("a"))], [call(not_stored=[lost])])
    assert (found.differs, found.identical, found.explain()) == (False, False, [])
    assert "is equal as far as it was stored" in found.text()
    assert "the output of 'train', a Socket, was not stored: no materializer" in found.text()


def test_status_and_error_differ(runs: Any) -> None:
    failure = Failure("ValueError", "empty", "...")
    found = runs(
        [call()],
        [call(status="failed", error=failure, duration=100.0)],
        status=("completed", "failed"),
        error=(None, failure),
        duration=(1.0, 1.04),
        tags=({"stage": "test"}, {"stage": "final"}),
        seed=(None, 3),
    )
    (step,) = found.steps
    assert [(e.name, e.before, e.after) for e in step.outcome] == [
        ("status", "completed", "failed"),
        ("error", None, "ValueError: empty"),
        ("duration", "1 s", "100 s"),
    ]
    assert [e.name for e in found.about] == ["status", "seed", "error"]
    assert [(e.before, e.after) for e in found.tags] == [("test", "final")]
    assert found.differs


def test_a_call_that_was_not_made_is_compared_as_the_one_whose_outputs_it_took(
    runs: Any, store: Store
) -> None:
    write(store, C, [call("other"), call(hyperparameters={"lr": 1})])
    found = runs(
        [call(hyperparameters={"lr": 1}, outputs=made("a"))],
        [call(hyperparameters={"lr": 2}, cached_from=f"{C}/1", outputs=made("a"))],
    )
    assert found.hyperparameters == ()


# What differs between versions


def test_versions_differ_by_metadata_history_tags_and_values(store: Store, toy: Any) -> None:
    first = Model.create(
        toy([1.0]),
        "net",
        training_history={"loss": [0.5, 0.4, 0.3], "accuracy": [0.1, 0.2, 0.3], "lr": [1, 1, 1]},
        tags={"stage": "test"},
        properties={"note": "a", "training": {"lr": 0.1, "steps": 5}},
    )
    second = Model.create(
        toy([1.0, 2.0]),
        "net",
        training_history={"loss": [0.5, 0.4, 0.2, 0.1], "f1": [0, 0, 0, 1], "lr": [1, 1, 1, 1]},
        properties={"note": "a", "training": {"lr": 0.2, "steps": 5}},
    )
    store.save(first)
    store.save(second)
    found = diff(store, "net@v1", "net@v2")
    assert [(e.name, e.before, e.after) for e in found.metadata] == [
        ("parameters", 1, 2),
        ("training.lr", 0.1, 0.2),
    ]
    metrics = {m.metric: (m.epoch, m.before, m.after, m.length_after) for m in found.history}
    assert metrics == {
        "epochs": (4, 3, 4, 4),
        "loss": (3, 0.3, 0.1, 4),
        "accuracy": (None, 0.3, None, 0),
        "lr": (4, 1, 1, 4),
        "f1": (None, None, 1, 4),
    }
    assert [(e.name, e.before, e.after) for e in found.tags] == [("stage", "test", MISSING)]
    assert (found.identical, found.values) == (False, ())
    text = found.text()
    assert "net@v1 → net@v2: the contents differ." in text
    assert "loss      from epoch 3 on, last 0.3 → 0.1, 3 → 4 epochs" in text
    assert "accuracy  only in the first" in text
    assert "The values aren't compared: 'toy.model' doesn't tell" in text


def test_values_come_with_the_largest_relative_change_first(store: Store) -> None:
    table = np.array([(1.0, 1.0, 0.0)] * 2, [("a", "f8"), ("b", "f8"), ("c", "f8")])
    other = np.array([(1.5, 3.0, 0.5)] * 2, table.dtype)
    store.save(table, "it")
    store.save(other, "it")
    found = diff(store, "it@v1", "it@v2")
    assert [change.name for change in found.values] == ["array.c", "array.b", "array.a"]
    assert "relative norm 0.5" in found.text()


def test_equal_contents_with_other_metadata_are_identical(store: Store) -> None:
    for note in ("a", "b"):
        store.save(Asset(data=[1], metadata=Metadata({"note": note})), "it")
    found = diff(store, "it@v1", "it@v2")
    assert found.identical
    assert [(e.before, e.after) for e in found.metadata] == [("a", "b")]
    assert found.explain() == []
    assert "the contents are equal, bit for bit" in found.explanation()


def test_values_that_cannot_be_compared_are_a_note(store: Store) -> None:
    store.save(np.zeros(2), "it")
    saved = store.save(np.ones(2), "it")
    store.save([0.0], "it")
    found = diff(store, "it@v1", "it@v3")
    assert found.assets[0].values is None
    assert "one was saved by 'core.numpy', the other by 'core.json'" in found.text()
    digest = saved.stored.files[0].digest  # type: ignore[union-attr]
    blob = store.path / "blobs" / digest[:2] / digest[2:]
    blob.unlink()
    found = diff(store, "it@v1", "it@v2")
    assert "can't be compared: it@v2, file 'array.npy', can't be read" in found.text()
    assert diff(store, "it@v1", "it@v2", values=False).assets[0].note is None


def test_runs_compare_what_they_stored(store: Store) -> None:
    for run_id, value in ((A, 1.0), (B, 2.0)):
        output = stored(store, np.full(4, value), "net", run_id, tags={"value": str(value)})
        write(store, run_id, [call(outputs=[output])])
    found = diff(store, A, B)
    assert [(asset.name, asset.before, asset.after) for asset in found.assets] == [
        ("train", "net@v1", "net@v2")
    ]
    assert [change.norm for change in found.values] == [2.0]
    assert [entry.name for entry in found.tags] == ["value"]
    assert diff(store, A, B, values=False).values == ()
    store.delete("net@v1")
    found = diff(store, A, B)
    assert found.assets == ()
    assert "net@v1 can't be read" in found.text()


def test_values_of_several_outputs_are_in_one_order(store: Store) -> None:
    for run_id, values in ((A, (1.0, 1.0)), (B, (1.5, 3.0))):
        outputs = [
            attrs.evolve(stored(store, np.full(4, value), name, run_id), key=name)
            for name, value in zip(("x", "y"), values, strict=True)
        ]
        write(store, run_id, [call(outputs=outputs)])
    assert [change.norm for change in diff(store, A, B).values] == [4.0, 1.0]


def test_a_ref_of_another_store_is_not_taken_for_one_of_this(store: Store, runs: Any) -> None:
    store.save([1], "net")
    found = runs([call(outputs=made("a", ref="net@v1"))], [call(outputs=made("b", ref="net@v1"))])
    assert found.assets == ()
    assert "net@v1 of this store isn't what the record of a run means" in found.text()


def test_versions_are_explained_by_the_calls_that_made_them(store: Store) -> None:
    for run_id, rate in ((A, 0.1), (B, 0.2)):
        output = stored(store, [rate], "net", run_id)
        write(store, run_id, [call(hyperparameters={"lr": rate}, outputs=[output])])
    found = diff(store, "net@v1", "net@v2")
    assert [(e.name, e.before, e.after) for e in found.hyperparameters] == [("lr", 0.1, 0.2)]
    (cause,) = found.explain()
    assert (cause.kind, cause.steps, cause.evidence) == (
        "hyperparameters",
        ("train",),
        ("lr  0.1 → 0.2",),
    )
    assert "1. Other settings were given to 'train': 'lr'.\n     lr  0.1 → 0.2" in (
        found.explanation()
    )


@pytest.mark.parametrize("damage", ["missing", "damaged", "not JSON"])
def test_a_record_that_is_gone_is_said_and_no_error(store: Store, damage: str) -> None:
    for run_id, value in ((A, 1), (B, 2)):
        write(store, run_id, [call(outputs=[stored(store, [value], "net", run_id)])])
    path = store.path / "runs" / f"{B}.json"
    if damage == "missing":
        path.unlink()
    else:
        path.write_text("{}" if damage == "damaged" else "{")
    found = diff(store, "net@v1", "net@v2")
    assert f"The record of the run {B} can't be read" in found.text()
    assert kinds(found) == ["unrecorded"]


def test_versions_that_no_step_made_are_explained_by_what_they_say_themselves(
    store: Store,
) -> None:
    for data, rate in ((1, 0.1), (2, 0.2)):
        store.save(data, "data")
        store.save(
            Model.create(
                [data],
                "net",
                framework="none",
                auto_extract=False,
                trained_on=f"data@v{data}",
                properties={"optimizer": {"class": "SGD", "lr": rate}, "accuracy": rate},
            )
        )
    found = diff(store, "net@v1", "net@v2")
    assert [cause.evidence for cause in found.explain()[:2]] == [
        ("trained on  data@v1 → data@v2",),
        ("optimizer.lr  0.1 → 0.2",),
    ]
    assert kinds(found) == ["inputs", "hyperparameters", "unrecorded"]
    assert "net@v1 was not made by a step" in found.explanation()


def test_two_versions_of_one_call_are_told_to_be_so(store: Store) -> None:
    outputs = [stored(store, [value], "net", A) for value in (1, 2)]
    write(store, A, [call(outputs=outputs)])
    found = diff(store, "net@v1", "net@v2")
    assert [c.sentence for c in found.explain()] == ["One call of 'train' made both."]


# Why it differs


def differing(first: dict[str, Any], second: dict[str, Any]) -> tuple[Any, Any]:
    return [call(outputs=made("a"), **first)], [call(outputs=made("b"), **second)]


def test_causes_come_in_the_order_of_their_likelihood(runs: Any, monkeypatch: Any) -> None:
    told = [
        ("other", "hostname one → two"),
        ("settings", "OMP_NUM_THREADS 4 → 8"),
        ("hardware", "CPU: x → y"),
        ("packages", "torch 2.12.0 → 2.13.0"),
        ("packages", "tabulate 1.0 → 2.0"),
        ("python", "Python 3.11.9 → 3.12.0"),
        ("code", "git commit abc → def"),
    ]
    monkeypatch.setattr("flowyml.environment.differences", lambda *_: told, raising=False)
    before = attrs.evolve(TRAIN, libraries={"torch": "2.12.0"})
    after = attrs.evolve(
        TRAIN, digest=DIGESTS["2"], parts={"proj.train": "2"}, libraries={"torch": "2.13.0"}
    )
    data = Input("torch.Tensor", DIGESTS["a"])
    found = runs(
        *differing(
            {"inputs": {"data": data}, "hyperparameters": {"lr": 1}, "seed": 1},
            {
                "inputs": {
                    "data": attrs.evolve(data, digest=DIGESTS["b"]),
                    "sampler": Input("Sampler", reason="no materializer handles a Sampler"),
                },
                "hyperparameters": {"lr": 2},
                "seed": 2,
                "code": after.digest,
            },
        ),
        code=([before], [after]),
    )
    explained = found.explain()
    assert [(cause.kind, cause.evidence) for cause in explained[4:]] == [
        ("packages", ("torch 2.12.0 → 2.13.0",)),
        ("python", ("Python 3.11.9 → 3.12.0",)),
        ("hardware", ("CPU: x → y",)),
        ("settings", ("OMP_NUM_THREADS 4 → 8",)),
        ("other packages", ("tabulate 1.0 → 2.0",)),
        (
            "unrecorded",
            ("the argument 'sampler' has no digest: no materializer handles a Sampler",),
        ),
    ]
    assert kinds(found)[:4] == ["code", "inputs", "hyperparameters", "seed"]
    assert "hostname" not in found.explanation()


def test_git_counts_where_the_code_is_not_known(runs: Any, monkeypatch: Any) -> None:
    told = [("code", "git commit abc → def")]
    monkeypatch.setattr("flowyml.environment.differences", lambda *_: told, raising=False)
    assert kinds(runs(*differing({}, {}))) == ["nondeterminism"]
    assert kinds(runs(*differing({"code": None}, {}))) == ["git", "unrecorded"]
    odd = attrs.evolve(TRAIN, unknown=("the global 'x' has no digest",))
    found = runs(*differing({}, {}), code=([odd], [odd]))
    assert kinds(found) == ["git", "unrecorded"]
    assert found.explain()[1].evidence == ("the global 'x' has no digest",)


def test_packages_may_all_count_where_the_code_does_not_say(runs: Any, monkeypatch: Any) -> None:
    told = [("packages", "tabulate 1.0 → 2.0")]
    monkeypatch.setattr("flowyml.environment.differences", lambda *_: told, raising=False)
    assert kinds(runs(*differing({}, {}))) == ["packages"]


def test_what_cannot_influence_results_is_no_cause(runs: Any, monkeypatch: Any) -> None:
    told = [("other", "hostname one → two")]
    monkeypatch.setattr("flowyml.environment.differences", lambda *_: told, raising=False)
    found = runs(
        *differing({"duration": 1.0}, {"duration": 9.0}),
        duration=(1.0, 9.0),
        tags=({}, {"a": "b"}),
    )
    assert kinds(found) == ["nondeterminism"]
    assert "seed_everything(seed, deterministic=True)" in found.explanation()
    assert "hostname one → two" in found.text()


def test_the_random_numbers_that_were_drawn_are_evidence(runs: Any) -> None:
    (cause,) = runs(*differing({}, {})).explain()
    assert cause.evidence == (
        "The random generators ended in equal states: both drew the same random numbers in "
        "'train'.",
    )
    (cause,) = runs(*differing({}, {"random_after": {"python": DIGESTS["0"]}})).explain()
    assert "ended in other states" in cause.evidence[0]


def test_without_a_seed_the_random_states_are_the_cause(runs: Any) -> None:
    other = {**RANDOM, "torch": DIGESTS["0"]}
    (cause,) = runs(*differing({"seeded": False}, {"seeded": False, "random": other})).explain()
    assert cause.kind == "seed"
    assert (
        "On entry to 'train', the random generators of 'torch' were in other states"
        in cause.sentence
    )
    assert kinds(runs(*differing({"seeded": False}, {"seeded": False}))) == ["nondeterminism"]
    nothing = {"seeded": False, "random": {}, "random_after": {}}
    found = runs(*differing(nothing, nothing))
    assert kinds(found) == ["unrecorded", "nondeterminism"]
    assert "no seed was applied" in found.explain()[0].evidence[0]


def test_a_generator_that_nobody_drew_from_is_no_cause(runs: Any) -> None:
    other = {**RANDOM, "torch": DIGESTS["0"]}
    found = runs(
        *differing(
            {"seeded": False, "random_after": {**RANDOM, "python": DIGESTS["6"]}},
            {"seeded": False, "random": other, "random_after": {**other, "python": DIGESTS["6"]}},
        )
    )
    assert found.seeds == ()
    assert kinds(found) == ["nondeterminism"]


def test_a_seed_from_which_nothing_was_drawn_hardly_is_the_cause(runs: Any) -> None:
    other = dict.fromkeys(RANDOM, DIGESTS["0"])
    found = runs(
        *differing(
            {"seed": 1, "random_after": RANDOM},
            {"seed": 2, "random": other, "random_after": other},
        )
    )
    assert kinds(found) == ["unrecorded", "nondeterminism"]
    assert "nothing was drawn from a generator whose state is recorded" in found.explanation()


def test_an_input_without_a_digest_may_be_the_cause_and_its_settings_count(runs: Any) -> None:
    given = Input("Sampler", reason="no materializer", settings={"length": 5})
    longer = attrs.evolve(given, settings={"length": 6})
    found = runs(*differing({"inputs": {"x": given}}, {"inputs": {"x": given}}))
    assert kinds(found) == ["unrecorded", "nondeterminism"]
    found = runs(*differing({"inputs": {"x": given}}, {"inputs": {"x": longer}}))
    assert kinds(found) == ["inputs", "unrecorded"]
    known = attrs.evolve(given, digest=DIGESTS["a"], ref="data@v1", reason=None)
    found = runs(*differing({"inputs": {"x": known}}, {"inputs": {"x": given}}))
    assert kinds(found) == ["unrecorded", "nondeterminism"]


def test_an_input_with_equal_content_is_no_cause(runs: Any) -> None:
    given = Input("torch.Tensor", DIGESTS["a"], "data@v1")
    moved = attrs.evolve(given, ref="data@v2")
    found = runs(*differing({"inputs": {"x": given}}, {"inputs": {"x": moved}}))
    assert kinds(found) == ["nondeterminism"]


def test_a_call_that_only_one_run_made_is_a_cause(runs: Any) -> None:
    first, second = differing({}, {})
    found = runs([call("clean"), *first], second)
    assert kinds(found) == ["steps"]
    assert "Only the first run called 'clean'" in found.explanation()


def test_an_input_is_followed_to_the_earlier_step_that_made_it_so(runs: Any) -> None:
    def steps(size: int, digest: str, result: str) -> list[StepRecord]:
        return [
            call("load", hyperparameters={"size": size}, outputs=made(digest)),
            call(inputs={"data": Input("list", DIGESTS[digest])}, outputs=made(result)),
        ]

    found = runs(steps(1, "a", "c"), steps(2, "b", "d"))
    assert causes(found) == [("hyperparameters", ("load",))]
    assert found.upstream == ()


def test_what_an_earlier_step_changed_in_place_is_followed(runs: Any) -> None:
    def steps(rate: float, digest: str, result: str) -> list[StepRecord]:
        start = Input("torch.nn.Linear", DIGESTS["0"], changed=DIGESTS[digest])
        return [
            call("fit", hyperparameters={"lr": rate}, inputs={"net": start}),
            call(inputs={"net": Input("torch.nn.Linear", DIGESTS[digest])}, outputs=made(result)),
        ]

    found = runs(steps(0.1, "a", "c"), steps(0.2, "b", "d"))
    assert causes(found) == [("hyperparameters", ("fit",))]


def test_an_input_is_followed_into_earlier_runs(store: Store) -> None:
    for number, rows in ((1, 10), (2, 20)):
        run_id, earlier = f"2025010{number}-train", f"2025010{number}-load"
        raw = stored(store, [rows], "raw", earlier, step="load")
        data = stored(store, [rows, rows], "data", earlier, step="clean")
        write(
            store,
            earlier,
            [
                call("load", hyperparameters={"rows": rows}, outputs=[raw]),
                call("clean", inputs={"raw": Input("list", raw.digest, raw.ref)}, outputs=[data]),
            ],
        )
        net = stored(store, {"net": rows}, "net", run_id)
        given = {"data": Input("list", data.digest, data.ref)}
        write(store, run_id, [call(inputs=given, outputs=[net])])
    for found in (diff(store, "net@v1", "net@v2"), diff(store, "20250101-tr", "20250102-tr")):
        assert [step.name for step in found.upstream] == ["clean", "load"]
        assert causes(found) == [("hyperparameters", ("load",))]


def test_a_step_is_explained_by_those_that_it_called(runs: Any) -> None:
    def steps(rate: float, result: str, digest: str) -> list[StepRecord]:
        return [
            call("pipeline", outputs=made(result)),
            call(parent=0, hyperparameters={"lr": rate}, outputs=made(digest)),
        ]

    found = runs(steps(0.1, "a", "c"), steps(0.2, "b", "d"))
    assert causes(found) == [("hyperparameters", ("train",))]


def test_the_maker_of_an_input_is_the_last_call_before_and_not_the_caller(store: Store) -> None:
    given = Input("list", DIGESTS["a"])
    steps = [
        call("first", outputs=made("a")),
        call("second", outputs=made("a")),
        call("pipeline", outputs=made("a")),
        call(parent=2, inputs={"x": given}),
        call("later", outputs=made("a")),
    ]
    run = RunRecord(A, "nightly", THEN, steps=steps)
    maker = Provenance(store).maker_of_input(Made(run, 3), given)
    assert maker is not None
    assert maker.step.name == "second"
    assert Provenance(store).maker_of_input(Made(run, 0), given) is None


def test_the_maker_of_an_input_is_the_call_that_really_ran(store: Store) -> None:
    write(store, C, [call("other"), call("load", outputs=made("a"))])
    again = call("load", cached_from=f"{C}/1", outputs=made("a"))
    given = Input("list", DIGESTS["a"])
    for cached, place in (
        (again, f"{C}/1"),
        (attrs.evolve(again, cached_from=f"{C}/7"), f"{A}/0"),
        (attrs.evolve(again, cached_from="gone/0"), f"{A}/0"),
        (attrs.evolve(again, cached_from=f"{A}/0"), f"{A}/0"),
    ):
        run = RunRecord(A, "nightly", THEN, steps=[cached, call()])
        maker = Provenance(store).maker_of_input(Made(run, 1), given)
        assert maker is not None
        assert maker.place == place


def test_causes_in_a_thousand_generations_are_found(runs: Any) -> None:
    def steps(seed: int) -> list[StepRecord]:
        outputs = [made(f"{seed}{number:063d}") for number in range(1000)]
        return [call("f", seed=seed, outputs=outputs[0])] + [
            call("f", inputs={"x": Input("list", outputs[i - 1][0].digest)}, outputs=outputs[i])
            for i in range(1, 1000)
        ]

    found = runs(steps(1), steps(2))
    assert causes(found) == [("seed", ("f",))]
    assert "… and 980 more" in found.text()


def test_calls_with_one_cause_are_named_together(runs: Any) -> None:
    def steps(rate: float, letter: str) -> list[StepRecord]:
        outputs = [made(f"{letter}{number:063d}") for number in range(100)]
        return [call(hyperparameters={"lr": rate}, outputs=output) for output in outputs]

    (cause,) = runs(steps(0.1, "a"), steps(0.2, "b")).explain()
    assert cause.sentence == (
        "Other settings were given to 'train', 'train #2', 'train #3', 'train #4', 'train #5' and "
        "95 more: 'lr'."
    )
    assert len(cause.steps) == 100


def test_a_failure_is_explained(runs: Any) -> None:
    error = Failure("ValueError", "bad", "")
    found = runs(
        [call(hyperparameters={"n": 1}, outputs=made("a"))],
        [call(hyperparameters={"n": 0}, status="failed", error=error)],
    )
    assert kinds(found) == ["hyperparameters"]
    assert "status  completed → failed" in found.text()


# How it is shown


def test_numbers_are_short_unless_that_made_them_equal(runs: Any) -> None:
    text = runs(
        [call(hyperparameters={"lr": 1 / 3, "near": 0.1})],
        [call(hyperparameters={"lr": 2 / 3, "near": 0.1 + 1e-12})],
    ).text()
    assert "lr    0.333333 → 0.666667" in text
    assert "near  0.1 → 0.100000000001" in text


def test_rows_of_several_steps_name_them(runs: Any) -> None:
    text = runs(
        [call("load", hyperparameters={"n": 1}), call(hyperparameters={"n": 1})],
        [call("load", hyperparameters={"n": 2}), call(hyperparameters={"n": 3})],
    ).text()
    assert "  load: n   1 → 2\n  train: n  1 → 3" in text


def test_the_data_is_plain_json(runs: Any, store: Store) -> None:
    found = runs(
        [call(hyperparameters={"a": math.nan, "b": 1}, outputs=made("a"))],
        [call(hyperparameters={"a": 1.0}, outputs=made("b"))],
    )
    data = json.loads(encoding.dumps(found.to_data()))
    assert data["identical"] is False
    assert data["steps"][0]["hyperparameters"] == [
        {"name": "a", "before": {"$float": "nan"}, "after": 1.0, "step": "train"},
        {"name": "b", "before": 1, "step": "train"},
    ]
    assert data["steps"][0]["results"][0]["after"] == DIGESTS["b"]
    assert "environment" in data
    assert "environment" not in data["steps"][0]


def test_comparing_runs_and_metadata_imports_no_framework(store: Store, run_python: Any) -> None:
    for run_id, value in ((A, 1.0), (B, 2.0)):
        output = stored(store, np.full(4, value), "net", run_id)
        write(store, run_id, [call(hyperparameters={"lr": value}, outputs=[output])])
    printed = run_python(
        "import sys; from flowyml import Store; from flowyml.difference import diff\n"
        f"store = Store({str(store.path)!r})\n"
        f"for pair in ({A!r}, {B!r}), ('net@v1', 'net@v2'):\n"
        "    found = diff(store, *pair, values=False)\n"
        "    print(found.text(), found.explanation())\n"
        "print({'numpy', 'torch'} & set(sys.modules))"
    )
    assert printed.splitlines()[-1] == "set()"


def test_real_environments_are_compared(runs: Any) -> None:
    other = {**ENVIRONMENT, "distributions": {"torch": "2.13.0"}, "hostname": "two"}
    found = runs(*differing({}, {}), environment=(ENVIRONMENT, other))
    assert kinds(found) == ["packages"]
    assert found.explain()[0].evidence == ("torch 2.12.0 → 2.13.0",)


def test_an_environment_that_is_not_recorded_may_be_the_cause(runs: Any) -> None:
    found = runs(*differing({}, {}), environment=(ENVIRONMENT, {}))
    assert kinds(found) == ["unrecorded", "nondeterminism"]
    assert found.explain()[0].evidence == (f"the environment of the run {B} isn't recorded",)


def test_files_that_are_left_alone(store: Store, runs: Any) -> None:
    runs([call()], [call()])
    before = {path: path.read_bytes() for path in files(store)}
    diff(store, A, B).explain()
    assert {path: path.read_bytes() for path in files(store)} == before


def files(store: Store) -> list[Path]:
    return [path for path in store.path.rglob("*") if path.is_file()]
