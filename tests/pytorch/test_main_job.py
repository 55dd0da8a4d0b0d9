"""The main job, end to end: the example of the README, as users run it."""

import os
import re
import subprocess
import sys
from pathlib import Path

from flowyml import Model, Store, runs

EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "digits.py"


def test_digits_are_learned_saved_and_loaded_in_a_new_process(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(EXAMPLE)],
        check=False,
        cwd=tmp_path,
        env=os.environ,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "training: 100%" in done.stderr
    trained, loaded = re.findall(r"test accuracy ([\d.]+)%", done.stdout)
    assert trained == loaded
    assert float(trained) >= 97
    assert "Saved as digits@v1" in done.stdout

    store = Store.default()
    store.verify()
    model = store.get("digits")
    assert isinstance(model, Model)
    assert model.parameters == 29_066
    assert model.layer_types == ["Conv2d", "Dropout", "Linear", "ReLU", "MaxPool2d"]
    assert model.training_history is not None
    assert model.training_history.final["test_accuracy"] >= 0.97
    (record,) = runs()
    assert record.status == "completed"
    assert record.steps[0].seed == 0
    assert set(record.steps[0].hyperparameters) == {"epochs", "learning_rate", "batch_size"}
