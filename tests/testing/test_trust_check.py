"""The conformance kit on trust: what may be loaded is what the caller trusts, wherever it is named.

The framework of chains and its adapters lie in the folder ``chains``.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

CHAINS = str(Path(__file__).parent / "chains")
if CHAINS not in sys.path:
    sys.path.append(CHAINS)

import chains  # noqa: E402

from flowyml.testing import (  # noqa: E402
    ConformanceError,
    Subject,
    check_hostile_files_are_refused,
    check_trust_is_respected,
)

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the checks limit memory")


class Chains(Subject):
    """Chains with the adapter that the environment names, here and in new processes."""

    framework = "chain"
    modules = ("chains",)

    @property
    def plugin(self) -> str:  # type: ignore[override]
        return f"chain_adapter:plugin_{os.environ['CHAIN_ADAPTER']}"

    def make_model(self) -> chains.Chain:
        return chains.Chain()

    def make_model_that_needs_trust(self) -> chains.Chain:
        import their_steps

        return chains.Chain([their_steps.doubled, their_steps.negated])

    def change_model(self, model: chains.Chain) -> chains.Chain:
        model.steps.append(abs)
        return model

    def predict(self, model: chains.Chain) -> float:
        return model(-2.0)


def test_an_adapter_that_asks_for_trust_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHAIN_ADAPTER", "Good")
    check_trust_is_respected(Chains())
    check_hostile_files_are_refused(Chains())


@pytest.mark.parametrize(
    ("adapter", "fault", "advice"),
    [
        ("BelievesTheManifest", "its manifest says that it needs none: forged@v1 is loaded",
         "ask for what the files name"),
        ("TrustsAllForOne", "is loaded with trust=('their_steps.negated',)", "has to raise Untr"),
        ("AsksForTheFirst", "is loaded with trust=('their_steps.doubled',)", "has to raise Untr"),
    ],
)  # fmt: skip
def test_too_little_trust_is_found(
    adapter: str, fault: str, advice: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CHAIN_ADAPTER", adapter)
    with pytest.raises(ConformanceError) as caught:
        check_trust_is_respected(Chains())
    assert fault in str(caught.value)
    assert advice in str(caught.value)


HELD = "What load() gave back holds a function or class that it names."


@pytest.mark.parametrize(
    ("adapter", "kind", "version"),
    [
        ("TrustsWhatIsImported", HELD, "['names'][0] is 'flowyml_known_module.run': a chains.Ch"),
        ("TakesWhatIsReexported", HELD, "['names'][0] is 'flowyml_trusted_module.run': a chain"),
        ("OverlooksAPlace", HELD, "['first'] is 'flowyml_known_module.run': a chains.Chain"),
        ("LooksForModulesFirst", "Code that it names or holds was run.",
         "['names'][0] is 'flowyml_strange_module.inner.run': imported"),
    ],
)  # fmt: skip
def test_forged_names_reach_what_nobody_trusts(
    adapter: str, kind: str, version: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CHAIN_ADAPTER", adapter)
    with pytest.raises(ConformanceError) as caught:
        check_hostile_files_are_refused(Chains())
    assert kind in str(caught.value)
    assert f" - json: 'steps.json' is JSON in which {version}" in str(caught.value)
