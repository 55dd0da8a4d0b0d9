import json
import re
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pytest

from flowyml import Model, Store, run, step
from flowyml.assets import Asset, Parent, ParentLike, sources
from flowyml.errors import AssetNotFoundError, FlowymlWarning, IntegrityError
from flowyml.lineage import Edge, Lineage, Node, lineage

Given: TypeAlias = "ParentLike | list[ParentLike] | None"


def save(
    store: Store, name: str, value: Any, parent: Given = None, trained_on: Given = None
) -> Asset:
    made_from = (*sources(parent, "parent"), *sources(trained_on, "trained_on"))
    return store.save(Asset(name=name, data=value, made_from=made_from))


def statuses(found: Lineage) -> dict[str, str]:
    return {node.id: node.status for node in found.nodes}


@pytest.fixture
def family(store: Store) -> Store:
    """A model that was trained on data, from a base, with two models made from it."""
    data = save(store, "data", np.arange(4), parent=save(store, "raw", np.arange(9)))
    base = save(store, "base", 1, trained_on=["imagenet", data])
    digits = save(store, "digits", 2, parent=base, trained_on=data)
    save(store, "pruned", 3, parent=digits)
    save(store, "digits", 4, parent=digits)
    save(store, "quantized", 5, parent=["digits@v2", "pruned@v1"])
    save(store, "unrelated", 6, trained_on=data)
    return store


def test_an_asset_without_relatives(store: Store) -> None:
    save(store, "alone", [1, 2])
    found = lineage(store, "alone")
    assert (found.ref, found.up, found.down, found.edges) == ("alone@v1", (), (), ())
    assert found.text() == str(found) == "● alone@v1: list, 11 bytes"
    assert found.mermaid().splitlines()[:2] == ["graph TD", '    n0["alone@v1<br>list, 11 bytes"]']


def test_up_and_down_nearest_first(family: Store) -> None:
    found = lineage(family, "digits@v1")
    assert found.up == ("base@v1", "data@v1", "imagenet", "raw@v1")
    assert found.down == ("pruned@v1", "digits@v2", "quantized@v1")
    assert [node.id for node in found.nodes] == ["digits@v1", *found.up, *found.down]
    assert set(found.edges) == {
        Edge("base@v1", "digits@v1"),
        Edge("data@v1", "digits@v1", "trained_on"),
        Edge("imagenet", "base@v1", "trained_on"),
        Edge("data@v1", "base@v1", "trained_on"),
        Edge("raw@v1", "data@v1"),
        Edge("digits@v1", "pruned@v1"),
        Edge("digits@v1", "digits@v2"),
        Edge("digits@v2", "quantized@v1"),
        Edge("pruned@v1", "quantized@v1"),
    }


def test_a_bare_name_means_the_newest_version(family: Store) -> None:
    assert lineage(family, "digits").ref == "digits@v2"
    assert family.lineage("digits").down == ("quantized@v1",)


def test_there_is_no_such_version(family: Store) -> None:
    with pytest.raises(AssetNotFoundError):
        lineage(family, "digits@v9")
    with pytest.raises(AssetNotFoundError):
        lineage(family, "imagenet")


def test_the_drawing(family: Store) -> None:
    assert lineage(family, "digits@v1").text() == (
        "○ imagenet: trained on, not in this store\n"
        "├─○ data@v1: trained on, told further down\n"
        "○ base@v1: parent, int, 2 bytes\n"
        "│ ○ raw@v1: parent, numpy.ndarray, 200 bytes\n"
        "├─○ data@v1: trained on, numpy.ndarray, 160 bytes\n"
        "● digits@v1: int, 2 bytes\n"
        "├─○ pruned@v1: parent, int, 2 bytes\n"
        "│ ○ quantized@v1: parent, int, 2 bytes\n"
        "○ digits@v2: parent, int, 2 bytes\n"
        "○ quantized@v1: parent, told further up"
    )


def test_what_made_it_is_told(store: Store, toy: Any) -> None:
    @step
    def train() -> Model:
        return Model.create(toy([1.0, 2.0]), "m")

    with run("everything", store=store) as everything:
        train()
        save(store, "by_hand", 1, parent="m@v1")
    found = lineage(store, "m")
    own = found.nodes[0]
    assert (own.framework, own.architecture, own.kind) == ("toy", "Toy", "model")
    assert (own.run, own.step, own.digest) == (everything.id, "train", store.get("m").digest)
    assert found.text().splitlines()[0] == (
        f"● m@v1: toy Toy, {own.size} bytes, step train of run {everything.id}"
    )
    assert found.down == ("by_hand@v1",)


def test_steps_and_runs_stand_at_the_edges_of_a_flowchart(store: Store) -> None:
    @step
    def grow(x: np.ndarray) -> np.ndarray:
        return x + 1

    seed = save(store, "seed", np.arange(3))
    with run("r", store=store) as r:
        grow(store.load("seed"))
    found = lineage(store, "seed")
    assert found.down == ("grow@v1",)
    assert f'n0 -->|"parent<br>step grow of run {r.id}"| n1' in found.mermaid()
    assert lineage(store, "grow").up == (seed.ref,)


def test_a_deleted_parent_is_shown_as_deleted(family: Store) -> None:
    family.delete("base@v1")
    found = lineage(family, "digits@v1")
    assert statuses(found)["base@v1"] == "deleted"
    assert found.up == ("base@v1", "data@v1", "raw@v1")  # what it was made from went with it
    assert "○ base@v1: parent, deleted\n" in found.text()
    assert next(node for node in found.nodes if node.id == "base@v1").digest is not None


def test_a_parent_of_another_store_is_shown_as_missing(store: Store) -> None:
    save(store, "digits", 1, parent=Parent("base@v7", "a" * 64))
    found = lineage(store, "digits")
    assert found.nodes[1] == Node("base@v7", "base@v7", "missing", "a" * 64)
    assert "○ base@v7: parent, not in this store\n" in found.text()


def test_a_parent_of_another_store_is_recognised_by_its_content(
    store: Store, tmp_path: Path
) -> None:
    other = Store(tmp_path / "other")
    save(other, "first", 0)
    base = save(other, "base", {"weights": 1})
    save(store, "base", {"weights": 0})
    save(store, "taken_over", {"weights": 1})
    save(store, "digits", 2, parent=base)  # "base@v1", which here is another
    found = lineage(store, "digits")
    assert found.up == ("taken_over@v1",)
    assert found.edges == (Edge("taken_over@v1", "digits@v1", "parent", "base@v1"),)
    assert "○ taken_over@v1: parent (as base@v1), " in found.text()
    assert lineage(store, "taken_over").down == ("digits@v1",)
    assert lineage(store, "base").down == ()


def test_a_bare_name_with_a_digest_is_recognised(store: Store) -> None:
    base = save(store, "base", 1)
    save(store, "digits", 2, parent=Parent("from_somewhere", base.digest))
    assert lineage(store, "digits").up == ("base@v1",)


def test_of_several_with_the_content_it_is_the_oldest_of_the_name(store: Store) -> None:
    digest = save(store, "older", 1).digest
    save(store, "base", 1)
    save(store, "base", 1)
    save(store, "digits", 2, parent=Parent("base@v9", digest))
    save(store, "digits", 3, parent=Parent("unknown", digest))
    assert lineage(store, "digits@v1").up == ("base@v1",)
    assert lineage(store, "digits@v2").up == ("older@v1",)


def test_another_version_of_the_same_ref_is_told_apart(store: Store) -> None:
    save(store, "base", 1)
    save(store, "digits", 2, parent=[Parent("base@v1", "a" * 64), Parent("base@v1", "b" * 64)])
    assert lineage(store, "base").down == ()
    found = lineage(store, "digits")
    assert found.up == ("base@v1#aaaaaaaaaaaa", "base@v1#bbbbbbbbbbbb")
    assert [node.ref for node in found.nodes[1:]] == ["base@v1", "base@v1"]
    assert {node.status for node in found.nodes[1:]} == {"missing"}


def test_one_missing_parent_is_one_whether_its_digest_is_known_or_not(store: Store) -> None:
    a, b = Parent("base@v1"), Parent("base@v1", "a" * 64)
    save(store, "first", 1, parent=a)
    save(store, "second", 2, parent=b)
    save(store, "third", 3, parent=a)
    save(store, "all", 4, parent=["first@v1", "second@v1", "third@v1"])
    found = lineage(store, "all")
    assert found.up == ("first@v1", "second@v1", "third@v1", "base@v1")
    assert found.nodes[-1].digest == "a" * 64


def test_other_versions_with_the_same_content_are_named(store: Store) -> None:
    for name in ("a", "b", "a", "c", "d"):
        save(store, name, 1)
    save(store, "e", 2)
    found = lineage(store, "a@v1")
    assert found.equal == ("b@v1", "a@v2", "c@v1", "d@v1")
    assert "the same content as b@v1, a@v2, c@v1 and 1 more" in found.text()
    assert lineage(store, "e").equal == ()


def test_what_returns_to_the_same_content_ends(store: Store) -> None:
    first = save(store, "a", 1)
    second = save(store, "b", 2, parent=Parent("elsewhere", first.digest))
    save(store, "a", 1, parent=second)
    save(store, "itself", 3, parent=Parent("was", save(store, "x", 3).digest))
    assert lineage(store, "a@v1").down == ("b@v1", "a@v2")
    assert lineage(store, "itself").up == ("x@v1",)


def test_a_circle_ends(store: Store) -> None:
    digest = save(store, "same", "egg").digest
    store.delete("same@v1")
    save(store, "hen", "hen", parent=Parent("egg", digest))
    save(store, "egg", "egg", parent="hen@v1")
    found = lineage(store, "hen")
    assert (found.up, found.down) == (("egg@v1",), ("egg@v1",))
    assert found.text() == (
        "○ hen@v1: parent, told further down\n"
        "○ egg@v1: parent (as egg), str, 6 bytes\n"
        "● hen@v1: str, 6 bytes\n"
        "○ egg@v1: parent, str, 6 bytes\n"
        "○ hen@v1: parent (as egg), told further up"
    )


def test_its_own_content_elsewhere_is_no_circle(store: Store) -> None:
    digest = save(store, "x", 1).digest
    store.delete("x@v1")
    save(store, "y", 1, parent=Parent("x@v1", digest))
    found = lineage(store, "y")
    assert (found.up, found.down) == (("x@v1",), ())
    assert statuses(found) == {"y@v1": "stored", "x@v1": "deleted"}


def damage(store: Store, name: str) -> None:
    path = store.path / "assets" / name / "v1.json"
    path.chmod(0o644)
    path.write_text(path.read_text().replace('"relation"', '"relatoin"'))


def test_a_damaged_manifest_costs_only_what_it_says(family: Store) -> None:
    damage(family, "data")
    damage(family, "pruned")
    with pytest.warns(FlowymlWarning, match=r"(?s)data@v1 is damaged.*pruned@v1 is damaged"):
        found = lineage(family, "digits@v1")
    assert found.up == ("base@v1", "data@v1", "imagenet")
    assert statuses(found)["data@v1"] == "damaged"
    assert found.down == ("digits@v2", "quantized@v1")
    assert "data@v1: trained on, can't be read\n" in found.text()


def test_a_damaged_parent_is_named_though_another_has_its_content(family: Store) -> None:
    save(family, "again", np.arange(4))
    damage(family, "data")
    with pytest.warns(FlowymlWarning):
        assert "data@v1" in lineage(family, "digits@v1").up


def test_what_somebody_deletes_meanwhile_is_left_out(
    family: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = lineage(family, "digits@v1")
    refs = [*family.refs(), "pruned@v2"]
    monkeypatch.setattr(family, "refs", lambda: refs)
    assert lineage(family, "digits@v1") == before


def test_the_asset_itself_is_damaged(family: Store) -> None:
    damage(family, "data")
    with pytest.raises(IntegrityError):
        lineage(family, "data")


def test_a_damaged_note_of_a_deletion(family: Store) -> None:
    family.delete("base@v1")
    (family.path / "assets/base/v1.deleted").write_text("{")
    assert statuses(lineage(family, "digits@v1"))["base@v1"] == "deleted"


ODD = [
    'a"b',
    "x#quot;y",
    "`code`",
    "a|b",
    "]",
    "1. list",
    "- list",
    "<b>",
    "a\nb",
    "é中",
    "end",
    ";",
    "%%",
]


def test_a_label_holds_any_name(store: Store) -> None:
    save(store, "m", 1, parent=[Parent(name) for name in ODD])
    found = lineage(store, "m")
    assert set(found.up) == {*ODD}
    text = found.mermaid()
    labels = re.findall(r'"(.*)"', text)
    assert len(labels) == 1 + 2 * len(ODD)
    for label in labels:
        assert re.fullmatch(r"([\w @,.-]|#\d+;|<br>)*", label), label
        assert not re.search(r"^\s*(\d+\.|-) ", label)
    names = [label.partition("<br>")[0] for label in labels[1 : 1 + len(ODD)]]
    shown = {re.sub(r"#(\d+);", lambda found: chr(int(found[1])), name) for name in names}
    assert shown == {name.replace("\n", " ") for name in ODD}
    for line in text.splitlines()[1:-1]:
        assert re.fullmatch(r' {4}(n\d+(\[".*"\]|\(\[".*"\]\))|n\d+ -->\|".*"\| n\d+)', line), line
    assert "\na b: parent, not in this store\n" not in found.text()
    assert "○ a b: parent, not in this store\n" in found.text()


def test_for_programs(family: Store) -> None:
    found = lineage(family, "digits@v1")
    data = json.loads(json.dumps(found.to_data()))
    assert data["up"] == [*found.up]
    assert data["down"] == [*found.down]
    assert data["edges"][0] == {
        "parent": "base@v1", "child": "digits@v1", "relation": "parent", "recorded_as": None,
    }  # fmt: skip
    assert data["nodes"][0]["created_at"] == family.get("digits@v1").stored.created_at.isoformat()
    assert data["nodes"][0]["status"] == "stored"


def test_a_notebook_shows_the_flowchart(family: Store) -> None:
    found = lineage(family, "digits")
    assert found._repr_markdown_() == f"```mermaid\n{found.mermaid()}\n```\n"


def chain(length: int) -> Lineage:
    nodes = [Node(f"m@v{i}", f"m@v{i}", "stored", type="int", size=1) for i in range(length)]
    return Lineage(
        "m@v0",
        tuple(nodes),
        tuple(Edge(f"m@v{i}", f"m@v{i + 1}") for i in range(length - 1)),
    )


def test_a_thousand_generations_stand_in_one_column() -> None:
    found = chain(20_000)
    assert len(found.down) == 19_999
    lines = found.text().splitlines()
    assert len(lines) == 20_000
    assert {line.index("m@v") for line in lines} == {2}
    assert found.mermaid().count("\n") == 1 + 20_000 + 19_999


def test_a_comb_stays_narrow() -> None:
    """Of each generation's children one goes on, and which one does is told last."""
    edges = [Edge(f"m{i}", f"{kind}{i + 1}") for i in range(2000) for kind in "mx"]
    ids = ["m0", *(edge.child for edge in edges)]
    nodes = tuple(Node(id, id, "stored", type="int", size=1) for id in ids)
    lines = Lineage("m0", nodes, tuple(edges)).text().splitlines()
    assert len(lines) == 4001
    assert max(map(len, lines)) < 40


def test_a_real_store_may_hold_deep_and_wide_lineages(store: Store) -> None:
    save(store, "m", 0)
    for number in range(1, 60):
        save(store, "m", number, parent=f"m@v{number}")
    for number in range(60):
        save(store, "leaf", -number, parent="m@v60")
    middle = lineage(store, "m@v30")
    assert middle.up == tuple(f"m@v{number}" for number in range(29, 0, -1))
    assert len(middle.down) == 30 + 60
    assert len(middle.text().splitlines()) == 120


def test_the_drawing_tells_everything_once(family: Store) -> None:
    for ref in family.refs():
        found = lineage(family, ref)
        told = [re.split(r"[○●] ", line)[1] for line in found.text().splitlines()]
        whole = [line.partition(":")[0] for line in told if "told further" not in line]
        assert sorted(whole) == sorted([found.ref, *found.up, *found.down])
