from typing import Any

import pytest

from flowyml import Model
from flowyml.interfaces import Layer
from flowyml.summary import as_html, as_text, summarize

BLOCK = Layer("0", "Block", 6, 6, (), (Layer("line", "Linear", 6, 6),))
TREE = Layer(
    "", "Net", 30, 24, (),
    (
        Layer("embed", "Embedding", 6, 0),
        Layer("layers", "ModuleList", 18, 18, (), tuple(
            Layer(str(index), "Block", 6, 6, (), (Layer("line", "Linear", 6, 6),))
            for index in range(3)
        )),
        Layer("head", "Linear", 6, 6, ("weight is embed.weight",)),
    ),
)  # fmt: skip
PROPERTIES: dict[str, Any] = {"framework": "toy", "parameters": 24, "size_bytes": 96}


def text(depth: int | None = None, tree: Layer | None = TREE, **properties: Any) -> str:
    return as_text(summarize("Model m", {**PROPERTIES, **properties}, tree, None, depth))


EXPECTED = """\
Model m
  framework  toy

Layer                      Parameters  Trainable   Share
──────────────────────────────────────────────────────────────────────────────────
Net                                30         24  100.0%
  embed (Embedding)                 6              20.0%
  layers (ModuleList)              18         18   60.0%
    layers.0-2: 3 × Block          18         18   60.0%
      line (Linear)                 6          6   20.0%
  head (Linear)                     6          6   20.0%  (weight is embed.weight)

  parameters  24
  size        96 bytes"""


def test_the_tree_is_a_table_and_equal_blocks_fold() -> None:
    assert text() == EXPECTED


def test_the_depth_is_limited() -> None:
    assert "layers.0-2" not in text(depth=1)
    assert "embed" in text(depth=1)
    assert "embed" not in text(depth=0)


def test_a_block_that_differs_does_not_fold() -> None:
    different = Layer("2", "Block", 7, 7, (), (Layer("line", "Linear", 7, 7),))
    blocks = (BLOCK, Layer("1", "Block", 6, 6, (), BLOCK.children), different)
    shown = text(tree=Layer("", "Net", 19, 19, (), (Layer("b", "List", 19, 19, (), blocks),)))
    assert "b.0-1: 2 × Block" in shown
    assert "2 (Block)" in shown


SEEN = {"type": "Linear", "parameters": 6, "flops": 2_500_000, "activation_bytes": 8, "calls": 1}
OBSERVED = {
    path: {**SEEN, "outputs": {"shape": [1, 4], "dtype": "float"}, "type": kind}
    for path, kind in (("", "Net"), ("layers.0", "Block"), ("layers.0.line", "Linear"))
}


def test_shapes_and_flops_are_shown_when_known_and_tree_comes_from_them_without_a_model() -> None:
    shown = text(tree=None, observed_layers=OBSERVED, flops=2_500_000, activation_bytes=1_000_000)
    assert "layers.0 (Block)" in shown
    assert "line (Linear)" in shown
    assert "[1, 4]  2.50 M" in shown
    assert "FLOPs        2.50 M" in shown
    assert "activations  1.0 MB" in shown


def test_what_went_wrong_and_what_is_tied_is_told() -> None:
    shown = text(observation_error="ValueError: no", tied_parameters=[["a", "b"]])
    assert "not observed  ValueError: no" in shown
    assert "tied          a = b" in shown


def test_html_is_escaped() -> None:
    tree = Layer("", "<script>", 1, 1, ("<b>",))
    page = as_html(summarize("<Model>", {"framework": "<i>"}, tree, {"loss": [0.5]}, None))
    assert "<script>" not in page
    assert "<i>" not in page
    assert "&lt;script&gt;" in page
    assert "final loss <b>0.5</b>" in page
    assert page.count("<tr>") == page.count("</tr>") == 2


def test_a_model_shows_itself_in_notebooks(toy: Any) -> None:
    model = Model.create(toy([1.0]), "m")
    assert "Model m" in model._repr_html_()
    with pytest.raises(ValueError, match="depth can't be -1"):
        model.summary(depth=-1)
