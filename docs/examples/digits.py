"""Train a small CNN on real handwritten digits, save it, and load it back in a new process.

Run it as ``python digits.py``. The 1,797 images of 8 × 8 pixels come with scikit-learn; nothing
is downloaded. The store is ``$FLOWYML_STORE`` or ``./.flowyml``.
"""

from __future__ import annotations

import subprocess
import sys

import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from tqdm import tqdm

from flowyml import Model, step


class DigitNet(nn.Module):
    """Two convolutions and a linear layer; takes images of shape (N, 1, 8, 8)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 32, kernel_size=3, padding=1)
        self.conv2 = nn.Conv2d(32, 64, kernel_size=3, padding=1)
        self.dropout = nn.Dropout(0.25)
        self.head = nn.Linear(64 * 4 * 4, 10)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits, of shape (N, 10)."""
        x = torch.relu(self.conv1(images))
        x = nn.functional.max_pool2d(torch.relu(self.conv2(x)), 2)
        return self.head(self.dropout(x.flatten(1)))


def digits() -> tuple[TensorDataset, TensorDataset]:
    """Return the training and the test set: three quarters and one quarter of the images."""
    images, labels = load_digits(return_X_y=True)
    tensors = (
        torch.tensor(images, dtype=torch.float32).reshape(-1, 1, 8, 8) / 16,
        torch.tensor(labels),
    )
    train_images, test_images, train_labels, test_labels = train_test_split(
        *tensors, test_size=0.25, random_state=0, stratify=labels
    )
    return TensorDataset(train_images, train_labels), TensorDataset(test_images, test_labels)


@torch.no_grad()
def accuracy(model: nn.Module, dataset: TensorDataset) -> float:
    """Return the share of images that the model names correctly."""
    model.eval()
    images, labels = dataset.tensors
    return (model(images).argmax(dim=1) == labels).float().mean().item()


@step(seed=0)
def train(epochs: int = 15, learning_rate: float = 2e-3, batch_size: int = 64) -> Model:
    """Train a network and return it with its history."""
    train_set, test_set = digits()
    model = DigitNet()
    optimizer = torch.optim.Adam(model.parameters(), lr=learning_rate)
    history: dict[str, list[float]] = {"loss": [], "test_accuracy": []}
    loader = DataLoader(train_set, batch_size=batch_size, shuffle=True)

    for _ in (progress := tqdm(range(epochs), desc="training", unit="epoch")):
        model.train()
        losses = []
        for images, labels in loader:
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(images), labels)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        history["loss"].append(sum(losses) / len(losses))
        history["test_accuracy"].append(accuracy(model, test_set))
        progress.set_postfix(accuracy=f"{history['test_accuracy'][-1]:.2%}")

    return Model.from_pytorch(model, name="digits", training_history=history)


def evaluate(ref: str) -> None:
    """Load a model by name and print its accuracy: what the second process does."""
    loaded = Model.load(ref)
    print(accuracy(loaded.data, digits()[1]))


def main() -> None:
    """Train, save, and have a new process load the result."""
    model = train()
    trained = accuracy(model.data, digits()[1])
    print(model.summary())
    print(f"\nSaved as {model.ref}, test accuracy {trained:.2%}")

    command = [sys.executable, __file__, str(model.ref)]
    loaded = float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    print(f"Loaded in a new process, test accuracy {loaded:.2%}")
    if loaded != trained:
        sys.exit("The two differ; they have to be identical.")


if __name__ == "__main__":
    evaluate(sys.argv[1]) if len(sys.argv) > 1 else main()
