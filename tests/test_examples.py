"""The examples run as they are printed, on small parts of real data."""

from __future__ import annotations

import gzip
import pickle
import re
import runpy
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision import datasets

import frostline
from conftest import write_idx, write_photos
from frostline.backbones import load_backbone

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.fixture
def example(tmp_path, monkeypatch, capsys):
    """Runs an example with arguments; what it printed."""
    monkeypatch.chdir(tmp_path)

    def run(name: str, *arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
        runpy.run_path(str(EXAMPLES / name))
        return capsys.readouterr().out

    return run


@pytest.fixture
def insects(shared, tmp_path) -> Path:
    """Some of the real photographs of ants and bees."""
    folder = tmp_path / "insects"
    for name in ("ants", "bees"):
        (folder / name).mkdir(parents=True)
        for file in sorted((shared / "data" / "hymenoptera" / "train" / name).glob("*.jpg"))[:20]:
            shutil.copy(file, folder / name)
    return folder


def written_digits(shared: Path, part: str, count: int) -> tuple[np.ndarray, np.ndarray]:
    raw = shared / "data" / "MNIST" / "raw"
    images = gzip.decompress((raw / f"{part}-images-idx3-ubyte.gz").read_bytes())[16:]
    labels = gzip.decompress((raw / f"{part}-labels-idx1-ubyte.gz").read_bytes())[8:]
    return np.frombuffer(images, np.uint8).reshape(-1, 28, 28)[:count], np.frombuffer(labels, np.uint8)[:count]


@pytest.fixture
def digits(shared, tmp_path) -> Path:
    """A root with the first digits of MNIST, and some as QMNIST stores them."""
    for part, count in (("train", 300), ("t10k", 100)):
        images, labels = written_digits(shared, part, count)
        write_idx(tmp_path / "MNIST" / "raw" / f"{part}-images-idx3-ubyte", images)
        write_idx(tmp_path / "MNIST" / "raw" / f"{part}-labels-idx1-ubyte", labels)
    images, labels = written_digits(shared, "t10k", 200)
    table = np.zeros((len(labels), 8), ">i4")
    table[:, 0] = labels
    for part in ("train", "test"):
        write_idx(tmp_path / "QMNIST" / "raw" / f"qmnist-{part}-images-idx3-ubyte", images)
        write_idx(tmp_path / "QMNIST" / "raw" / f"qmnist-{part}-labels-idx2-int", table)
    return tmp_path


@pytest.fixture
def cifar(tmp_path, monkeypatch) -> Path:
    """A root with a little CIFAR-10 in its own format: every class a colour."""
    monkeypatch.setattr(datasets.CIFAR10, "_check_integrity", lambda _: True)
    monkeypatch.setattr(datasets.cifar, "check_integrity", lambda *_: True)
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    chance = np.random.default_rng(0)
    for name in [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]:
        labels = np.arange(20) % 10
        colours = np.stack([labels * 25, 255 - labels * 25, labels % 2 * 255], 1)[:, :, None]
        pixels = (colours + chance.integers(-20, 20, (20, 3, 1024))).clip(0, 255).astype(np.uint8)
        (folder / name).write_bytes(pickle.dumps({"data": pixels.reshape(20, -1), "labels": labels.tolist()}))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": [f"class {i}" for i in range(10)]}))
    return tmp_path


def last_number(text: str, after: str) -> float:
    return float(re.findall(re.escape(after) + r"\D*([\d.]+)", text)[-1])


def test_a_loop_of_your_own(tmp_path, example):
    """Stumble 18."""
    photos = write_photos(tmp_path / "photos", 24)
    lines = example("own_loop.py", photos).splitlines()
    assert [line.split(":")[0] for line in lines[:-1]] == ["epoch 1", "epoch 2", "epoch 3"]
    assert float(lines[-2].split()[-1]) > 0.6
    assert lines[-1] == "runs/own-loop predicts with frostline predict runs/own-loop IMAGES…"
    saved, original = frostline.load("runs/own-loop").model.state_dict(), load_backbone().model.state_dict()
    assert saved.keys() == original.keys()
    for name, value in original.items():
        if name.startswith(("conv_stem", "blocks.0", "blocks.5")):
            assert torch.equal(value, saved[name]), name


@pytest.mark.long
def test_tutorial_1_unfreezes_step_by_step(insects, example):
    predicted = example("tutorial_1.py", insects, "--weights", "none", "--image-size", "32", "--epochs", "1")
    assert [line.split(":")[0] for line in predicted.splitlines()] == [
        *("head", "layer4"),
        *("own loop, above head", "own loop, above layer4"),
    ]
    assert 0 <= last_number(predicted, "above layer4:") <= 1


@pytest.mark.long
def test_tutorial_2_freezes_by_name_and_segments(example):
    predicted = example("tutorial_2.py", "--weights", "none", "--image-size", "32", "--epochs", "1")
    assert "trained: fc.bias, fc.weight, layer3.0, layer3.1, layer4.1" in predicted
    assert last_number(predicted, "mean IoU") > 0.45  # all background is 0.375
    assert "mask (64, 64)" in predicted


@pytest.mark.long
def test_tutorial_3_saves_plain_weights(insects, example):
    predicted = example("tutorial_3.py", insects, "--weights", "none", "--image-size", "32", "--epochs", "1")
    assert "full plan" in predicted
    assert "the same logits: True" in predicted
    assert 0 <= last_number(predicted, "own loss: validation accuracy") <= 1


@pytest.mark.long
def test_tutorial_4_reads_digits(digits, example):
    predicted = example("tutorial_4.py", f"mnist:{digits}", f"qmnist:{digits}", "--image-size", "64", "--epochs", "2")
    assert last_number(predicted, "test") > 0.7
    assert last_number(predicted, "accuracy") > 0.7
    assert "of 200 images" in predicted
    assert re.search(r"blocks\.4 .*frozen", predicted)
    assert re.search(r"blocks\.6 .*trains", predicted)


@pytest.mark.long
def test_tutorial_5_compares(cifar, example):
    predicted = example(
        *("tutorial_5.py", f"cifar10:{cifar}", "--image-size", "32"),
        *("--backbone", "torchvision:resnet18@none", "--backbone", "efficientnet-lite0"),
    )
    assert re.findall(r"^\S+", predicted, re.M) == ["torchvision:resnet18", "efficientnet-lite0"]
    assert last_number(predicted, "efficientnet-lite0       accuracy") > 0.5
