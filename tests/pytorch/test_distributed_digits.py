"""The example of digits comes to one network: alone, by the launcher and under torchrun."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch

from flowyml import Store, runs
from flowyml.records import RunRecord

pytestmark = pytest.mark.xdist_group("distributed_digits")

EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "distributed_digits.py"
EPOCHS = "3"

TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")
WAYS = {
    "alone": ((), {}),
    "launcher": ((), {"PROCESSES": "2"}),
    "torchrun": (TORCHRUN, {}),
}


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Store]:
    """Run the example in each way, all at once, each with a store of its own."""
    found, started = {}, {}
    for way, (options, variables) in WAYS.items():
        folder = tmp_path_factory.mktemp(way)
        found[way] = Store(folder / "store")
        started[way] = subprocess.Popen(
            [sys.executable, *options, EXAMPLE, EPOCHS],
            cwd=folder,
            env={**os.environ, **variables, "FLOWYML_STORE": str(folder / "store")}
            | {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
    for way, process in started.items():
        output, _ = process.communicate(timeout=300)
        assert process.returncode == 0, f"{way}:\n{output}"
        assert output.count("Saved as digits@v1") == 1, f"{way}:\n{output}"
    return found


def record(store: Store) -> RunRecord:
    (only,) = runs(store)
    return only


def test_two_processes_come_to_the_same_bits_whoever_started_them(
    stores: Mapping[str, Store],
) -> None:
    launcher, torchrun = (stores[way].get("digits") for way in ("launcher", "torchrun"))
    assert launcher.stored.digest == torchrun.stored.digest
    assert launcher.training_history == torchrun.training_history


def test_they_come_to_what_one_process_comes_to_but_for_rounding(
    stores: Mapping[str, Store],
) -> None:
    alone, pair = (stores[way].load("digits", format="state_dict") for way in ("alone", "launcher"))
    assert (
        stores["alone"].get("digits").stored.digest
        != stores["launcher"].get("digits").stored.digest
    )
    torch.testing.assert_close(pair, alone, rtol=1e-4, atol=1e-5)
    history = stores["alone"].get("digits").training_history["test_accuracy"]
    assert history[-1] > 0.9
    assert stores["launcher"].get("digits").training_history["test_accuracy"] == pytest.approx(
        history, abs=0.005
    )


@pytest.mark.parametrize("way", WAYS)
def test_there_is_one_record_of_one_step_with_one_model(
    way: str, stores: Mapping[str, Store]
) -> None:
    store = stores[way]
    (step,) = record(store).steps
    assert (record(store).status, step.status, step.seed) == ("completed", "completed", 0)
    assert record(store).outputs == ["digits@v1"]
    assert (store.names(), store.versions("digits")) == (["digits"], ["v1"])
    model = store.get("digits")
    assert model.stored.run == record(store).id
    assert model.model_class == "DigitNet"
    processes = {"alone": (None, None)}.get(way, ("DistributedDataParallel", 2))
    properties = model.metadata.properties
    assert (properties["wrapper"], properties["world_size"]) == processes
