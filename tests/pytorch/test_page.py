"""The page that users read: its code, verbatim, does what its sentences and comments say."""

import re
from collections.abc import Callable
from pathlib import Path

from torch import nn

from flowyml import Model, runs

PAGE = Path(__file__).parents[2] / "docs" / "pytorch.md"
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.S)

PROPERTIES = re.findall(r"^\| `(\w+)` \|", PAGE.read_text(encoding="utf-8"), re.M)


def test_the_first_block_prints_what_its_comments_say(run_script: Callable[..., str]) -> None:
    assert run_script(BLOCKS[0]).splitlines() == [
        "Framework: pytorch",
        "Parameters: 769",
        "Trainable: 769",
        "Layers: 2",
        "Layer Types: ['Linear', 'ReLU']",
        "Device: cpu",
        "Training Mode: True",
    ]


TRAINING = """
from torch import nn
from torch.utils.data import DataLoader

class Regression(nn.Module):
    def __init__(self):
        super().__init__()
        self.line = nn.Linear(2, 1)

    def forward(self, batch):
        return ((self.line(batch).squeeze() - batch.sum(dim=1)) ** 2).mean()

torch.manual_seed(0)
asset = train(DataLoader(torch.randn(64, 2), batch_size=8), Regression(), epochs=3)
print(asset.ref)
"""


class Regression(nn.Module):
    """The module of the training script, as another process would build it."""

    def __init__(self) -> None:
        super().__init__()
        self.line = nn.Linear(2, 1)


def test_the_second_block_trains_and_leaves_a_version_with_its_history(
    run_script: Callable[..., str],
) -> None:
    assert run_script(BLOCKS[1] + TRAINING) == "trained_model@v1\n"
    model = Model.load("trained_model", into=Regression())
    history = model.training_history
    assert history is not None
    assert history["epochs"] == [1, 2, 3]
    assert history["train_loss"][0] > history["train_loss"][-1] > 0
    (record,) = runs()
    assert record.steps[0].hyperparameters == {"epochs": 3}
    assert record.outputs == ["trained_model@v1"]


def test_every_property_of_the_table_is_an_attribute_and_a_property() -> None:
    assert len(PROPERTIES) == 13
    model = Model.from_pytorch(nn.Sequential(nn.Linear(2, 2), nn.ReLU()))
    for name in PROPERTIES:
        assert name in model.metadata.properties
        assert getattr(model, name) == model.metadata.properties[name]
