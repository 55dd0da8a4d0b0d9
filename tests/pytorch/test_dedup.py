"""Unchanged tensors are stored once, whatever version, model or asset they belong to."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import ResNetConfig, ResNetForImageClassification

from flowyml import Store
from flowyml.store import manifest as manifests


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def stored(store: Store) -> int:
    return store.stats().stored


def bytes_on_disk(path: Path) -> int:
    return sum(file.stat().st_blocks * 512 for file in path.rglob("*") if file.is_file())


def test_runs_and_epochs_with_a_frozen_backbone_share_it(store: Store) -> None:
    config = ResNetConfig(
        layer_type="basic", depths=[2, 2, 2, 2], hidden_sizes=[64, 128, 256, 512], num_labels=10
    )
    pretrained = ResNetForImageClassification(config).state_dict()
    as_plain_files = 0
    for run in range(8):
        net = ResNetForImageClassification(config)
        net.load_state_dict(pretrained)
        nn.init.normal_(net.classifier[1].weight)
        net.resnet.requires_grad_(False)
        for _ in range(10):
            with torch.no_grad():
                for buffer in net.buffers():  # what batch norm sees of the data changes
                    buffer.add_(1)
                for parameter in net.classifier.parameters():
                    parameter.add_(torch.randn_like(parameter))
            store.save(net, f"run-{run}")
            as_plain_files += sum(tensor.nbytes for tensor in net.state_dict().values())
    assert as_plain_files > 3.3e9
    assert bytes_on_disk(store.path) < 60e6
    stats = store.stats()
    assert stats.logical > 3.3e9
    assert stats.stored < 60e6
    back = store.load("run-3@v4", trust=[ResNetConfig])
    assert torch.equal(
        back.resnet.encoder.stages[3].layers[1].layer[1].convolution.weight,
        pretrained["resnet.encoder.stages.3.layers.1.layer.1.convolution.weight"],
    )


def test_a_second_version_writes_what_has_changed(store: Store) -> None:
    net = nn.Sequential(*(nn.Linear(300, 300) for _ in range(40)))
    store.save(net, "m")
    before = stored(store)
    with torch.no_grad():
        for layer in net[:2]:
            layer.weight.add_(1)
    store.save(net, "m")
    assert stored(store) - before <= 0.06 * before
    assert torch.equal(store.load("m")[0].weight, net[0].weight)
    assert not torch.equal(store.load("m@v1")[0].weight, net[0].weight)


def test_scattered_small_changes_do_not_rewrite_everything(store: Store) -> None:
    net = nn.Sequential(*(nn.Linear(30, 30, bias=False) for _ in range(2000)))
    store.save(net, "m")
    before = stored(store)
    with torch.no_grad():
        for layer in net[::20]:
            layer.weight.add_(1)
    store.save(net, "m")
    written = stored(store) - before
    listed = next(f.size for f in store.get("m").stored.files if f.path == "tensors.json")
    assert written - listed <= 0.06 * before
    assert all(
        torch.equal(one.weight, two.weight) for one, two in zip(store.load("m"), net, strict=True)
    )


def test_ten_thousand_small_tensors_are_a_few_files(store: Store) -> None:
    net = nn.Sequential(*(nn.Linear(8, 8) for _ in range(5000)))
    store.save(net, "m")
    assert store.stats().blobs <= 24
    back = store.load("m")
    assert torch.equal(back[4999].bias, net[4999].bias)


def test_many_versions_do_not_scatter_a_model_over_ever_more_files(store: Store) -> None:
    net = nn.Sequential(*(nn.Linear(20, 20) for _ in range(200)))
    for version in range(40):
        with torch.no_grad():
            for layer in net[version * 5 : version * 5 + 5]:
                layer.weight.add_(1)
        asset = store.save(net, "m")
        assert len(asset.stored.files) < 16
    assert torch.equal(store.load("m")[7].weight, net[7].weight)


def test_models_of_other_classes_and_bare_tensors_share_what_is_equal(store: Store) -> None:
    backbone = nn.Sequential(*(nn.Linear(200, 200) for _ in range(5)))
    store.save(backbone, "backbone")
    before = stored(store)
    store.save(nn.ModuleDict({"body": backbone, "head": nn.Linear(200, 3)}), "classifier")
    store.save(backbone.state_dict(), "weights")
    store.save(backbone, "backbone-weights", format="state_dict")
    store.save([backbone[0].weight.detach().clone()], "list")
    assert stored(store) - before < 0.1 * before


def test_equal_content_has_one_digest_whatever_was_saved_before(store: Store) -> None:
    net = nn.Sequential(*(nn.Linear(20, 20) for _ in range(50)))
    first = store.save(net, "m").digest
    with torch.no_grad():
        net[3].weight.add_(1)
    second = store.save(net, "m").digest
    with torch.no_grad():
        net[3].weight.sub_(1)
        net[4].weight.copy_(store.load("m@v1")[4].weight)
        net[3].weight.copy_(store.load("m@v1")[3].weight)
    third = store.save(net, "m")
    assert first == third.digest != second
    assert store.save(net, "other").digest == first
    assert Store(store.path.parent / "elsewhere").save(net, "m").digest == first


def test_a_version_outlives_the_one_whose_files_it_refers_to(store: Store) -> None:
    net = nn.Sequential(*(nn.Linear(20, 20) for _ in range(50)))
    store.save(net, "m")
    with torch.no_grad():
        net[3].weight.add_(1)
    store.save(net, "m")
    store.delete("m@v1")
    store.gc(grace=0)
    store.verify()
    assert torch.equal(store.load("m")[5].weight, net[5].weight)


def test_a_damaged_file_is_not_built_upon(store: Store) -> None:
    net = nn.Sequential(*(nn.Linear(300, 300) for _ in range(3)))
    store.save(net, "m")
    for file in store.get("m").stored.files:
        path = store.path / "blobs" / file.digest[:2] / file.digest[2:]
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.chmod(0o644)
        path.write_bytes(data)
    store.save(net, "m")
    store.verify("m@v2")
    assert torch.equal(store.load("m@v2")[1].weight, net[1].weight)
    store.verify("m@v1")  # equal blobs were healed


def test_a_layer_more_at_any_place_is_saved_and_the_others_are_shared(store: Store) -> None:
    for size in (20, 200):
        layers = [nn.Linear(size, size) for _ in range(6)]
        for place in (0, 3, 6):
            net = nn.Sequential(*layers)
            store.save(net, f"m{place}-{size}")
            before = stored(store)
            grown = nn.Sequential(*layers[:place], nn.Linear(size, size), *layers[place:])
            for _ in range(2):
                store.save(grown, f"m{place}-{size}")
                back = store.load(f"m{place}-{size}")
                assert all(map(torch.equal, back.parameters(), grown.parameters()))
            assert stored(store) - before < grown[place].weight.nbytes + 30_000
            shrunk = nn.Sequential(*reversed(layers[2:]))
            store.save(shrunk, f"m{place}-{size}")
            back = store.load(f"m{place}-{size}")
            assert all(map(torch.equal, back.parameters(), shrunk.parameters()))


def test_what_a_version_says_of_its_tensors_is_not_believed(store: Store) -> None:
    net = nn.Sequential(nn.Linear(50, 50), nn.Linear(50, 50))
    store.save(net, "m")
    path = store.path / "assets" / "m" / "v1.json"
    manifest = manifests.read(path.read_bytes(), "m@v1")
    rows = manifest.details["tensors"]
    rows[0][0], rows[2][0] = rows[2][0], rows[0][0]  # the digests of the two weights
    path.chmod(0o644)
    path.write_bytes(manifests.write(manifest))
    assert store.get("m@v1").digest
    store.save(net, "m")
    back = store.load("m@v2")
    assert all(map(torch.equal, back.parameters(), net.parameters()))


def test_a_loaded_model_saved_under_another_name_shares_its_tensors(store: Store) -> None:
    from flowyml import Model

    net = nn.Sequential(*(nn.Linear(30, 30) for _ in range(500)))
    Model.from_pytorch(net, "base").save(store)
    before = stored(store)
    tuned = Model.load("base", store=store)
    with torch.no_grad():
        tuned.data[7].weight.add_(1)
    store.save(tuned, "tuned")
    assert stored(store) - before < 0.1 * before
