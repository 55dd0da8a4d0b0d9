"""In a notebook, `Model.from_` completes to every framework whose adapter is installed."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from IPython.core.completer import provisionalcompleter
from IPython.core.interactiveshell import InteractiveShell

CONSTRUCTORS = {"from_pytorch", "from_sklearn"}


@pytest.fixture(params=[True, False], ids=["jedi", "without jedi"])
def shell(request: pytest.FixtureRequest, tmp_path, monkeypatch) -> Iterator[InteractiveShell]:
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))
    shell = InteractiveShell()
    shell.Completer.use_jedi = request.param
    shell.run_cell("import flowyml\nfrom flowyml import Model", silent=True)
    yield shell
    shell.history_manager.end_session()


def completed(shell: InteractiveShell, text: str) -> set[str]:
    with provisionalcompleter():
        found = list(shell.Completer.completions(text, len(text)))
    return {item.text.rpartition(".")[2] for item in found}


@pytest.mark.filterwarnings("ignore")  # of IPython and jedi, about themselves
@pytest.mark.parametrize("text", ["Model.from_", "flowyml.Model.from_", "Model.from_s"])
def test_constructors_complete(shell, text):
    wanted = {name for name in CONSTRUCTORS if name.startswith(text.rpartition(".")[2])}

    assert completed(shell, text) & CONSTRUCTORS == wanted


@pytest.mark.filterwarnings("ignore")
def test_a_models_attributes_complete(shell):
    shell.run_cell(
        "from sklearn.preprocessing import StandardScaler\n"
        "model = Model.from_sklearn(StandardScaler())",
        silent=True,
    )

    assert {"parameters", "num_layers"} <= completed(shell, "model.")


@pytest.mark.filterwarnings("ignore")
def test_a_question_mark_shows_what_it_takes(shell):
    found = shell.object_inspect("Model.from_sklearn")

    assert found["found"]
    assert "training_history" in found["definition"]
    assert "Describe a scikit-learn estimator" in found["docstring"]
