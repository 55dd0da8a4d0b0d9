"""What a user does first with the installed packages."""

import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

SCRIPT = """
import sys
import torch
from flowyml import Model

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = torch.nn.Linear(4, 2)

    def forward(self, x):
        return torch.relu(self.fc(x))

if sys.argv[1] == "save":
    net = Net()
    Model.from_pytorch(net, name="net").save()
else:
    net = Model.load("net").data
    assert type(net) is Net
print(net(torch.ones(1, 4)).tolist())
"""


def run(*command: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done


@pytest.mark.parametrize("code", [["-c", "import flowyml"], ["-m", "flowyml", "adapters"]])
def test_no_framework_and_no_adapter_is_imported_unasked(code, tmp_path):
    done = run(sys.executable, "-X", "importtime", *code, cwd=tmp_path)
    imported = {line.split("|")[-1].strip().split(".")[0] for line in done.stderr.splitlines()}
    assert "flowyml" in imported
    assert not imported & {"torch", "flowyml_pytorch"}


def test_the_command_lists_the_adapter(tmp_path):
    command = Path(sysconfig.get_path("scripts"), "flowyml")
    by_script = run(command, "adapters", cwd=tmp_path)
    by_module = run(sys.executable, "-m", "flowyml", "adapters", cwd=tmp_path)
    assert "pytorch" in by_script.stdout
    assert by_script.stdout == by_module.stdout


def test_a_module_defined_in_a_script_is_loaded_by_a_second_process(tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)
    saved = run(sys.executable, "script.py", "save", cwd=tmp_path)
    loaded = run(sys.executable, "script.py", "load", cwd=tmp_path)
    assert saved.stdout == loaded.stdout
