"""What imports torch, and what doesn't; seen from new processes."""

from collections.abc import Callable

import pytest
from torch import nn

from flowyml import Model, Store

CHECK = "\nimport sys; print(sorted({'torch', 'flowyml_pytorch'} & set(sys.modules)))"


@pytest.mark.parametrize(
    "code",
    [
        "import flowyml",
        "import flowyml; flowyml.adapters.list(); dir(flowyml.Model)",
        "from flowyml.cli import main; main(['adapters', '--json'])",
        "from flowyml.cli import main; main(['list']); main(['show', 'm']); main(['verify'])",
        "from flowyml import Store; Store.default().get('m').parameters; Store.default().verify()",
        "from flowyml import runs, step, run, seed_everything; runs()",
    ],
)
def test_metadata_and_the_command_line_are_free_of_torch(
    code: str, store: Store, run_script: Callable[..., str]
) -> None:
    Model.from_pytorch(nn.Linear(1, 1), "m").save(store)
    assert run_script(code + CHECK).splitlines()[-1] == "[]"


def test_loading_the_adapter_does_not_import_torch(run_script: Callable[..., str]) -> None:
    code = "import flowyml; flowyml.adapters.load(); flowyml.seed_everything(1)"
    assert run_script(code + CHECK) == "['flowyml_pytorch']\n"
    code = "import flowyml; flowyml.Model.from_pytorch; flowyml.Store('s').save([1], 'n')"
    assert run_script(code + CHECK) == "['flowyml_pytorch']\n"


def test_a_broken_plugin_of_a_third_party_leaves_pytorch_working(
    run_script: Callable[..., str], tmp_path: object
) -> None:
    from pathlib import Path

    folder = Path(str(tmp_path))
    (folder / "odd_plugin.py").write_text("raise RuntimeError('broken')")
    info = folder / "odd-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: odd\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[flowyml.adapters]\nodd = odd_plugin\n")
    code = """
import warnings
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    import torch
    from flowyml import Model
    model = Model.create(torch.nn.Linear(1, 1), "m").save()
    print(model.parameters, model.ref)
print([str(item.message) for item in caught])
"""
    assert run_script(code).splitlines() == [
        "2 m@v1",
        "[\"The adapter 'odd' (odd 1.0) is left out: RuntimeError: broken\"]",
    ]
