"""The smallest sets, as tutorials make them of random numbers: read, divided, solved and trained, with honest notes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import frostline
from conftest import draw_images
from frostline.data.images import Images
from frostline.plan import Phase
from trainings import training

pytestmark = pytest.mark.usefixtures("no_pictures")
PLAN = [Phase("head", epochs=0), Phase("block2", epochs=2, batch_size=2), Phase("stem", epochs=1, batch_size=32)]


def random_images(count: int) -> torch.Tensor:
    return torch.rand(count, 3, 40, 40, generator=torch.Generator().manual_seed(0))


def fitted(data, small, out, **options):
    options = {"plan": PLAN, "precision": "fp32", "quiet": True, **options}
    return frostline.fit(data, backbone=small, out=out, **options)


@pytest.mark.parametrize("labels", [[0, 1], [0, 1, 2, 3, 4], [0, 0, 1], [3, 900, 77, 3, 5]])
def test_a_few_images_of_as_many_classes_are_fitted(labels, small, tmp_path, capsys):
    run = fitted((random_images(len(labels)), labels), small, tmp_path / "run", quiet=False)
    told = capsys.readouterr().err
    assert np.isfinite(run.metrics["valid"]["loss"])
    assert [phase["epochs"] for phase in run.metrics["phases"]] == [0, 2, 1]
    assert set(run.metrics["classes"]) == {str(label) for label in labels}
    alone = len(set(labels)) == len(labels)
    assert ("note: no class has two images, so validation uses the training images" in told) == alone
    assert "note: only one training image: " in told


def test_five_images_of_five_classes_are_learned(small, tmp_path):
    run = fitted((random_images(5), [0, 1, 2, 3, 4]), small, tmp_path / "run", plan="probe")
    assert run.metrics["valid"]["accuracy"] == 1.0


def test_more_labels_than_images(small, tmp_path):
    """Columns that no image has are classes all the same: the network has an output for each."""
    marks = torch.zeros(4, 12, dtype=torch.int64)
    marks[torch.arange(4), torch.arange(4)] = 1
    marks[:, 7] = 1
    run = fitted((random_images(4), marks), small, tmp_path / "run")
    assert len(run.metrics["classes"]) == 12
    assert np.isfinite(run.metrics["valid"]["loss"])


@pytest.mark.parametrize("batchnorm", ["frozen", "updated"])
@pytest.mark.parametrize(("count", "batch_size"), [(1, 32), (3, 1), (5, 4), (2, 2)])
def test_any_number_of_images_fits_any_batch(count, batch_size, batchnorm, fp32):
    images = draw_images(count)
    phase = Phase("block2", epochs=2, lr=1e-2, batch_size=batch_size, batchnorm=batchnorm)
    run = training(machine=fp32, images=(images, draw_images(3, seed=1)), phase=phase)
    assert all(np.isfinite([epoch.train_loss, epoch.valid_loss]).all() for epoch in run)


def test_an_image_alone_in_its_class_is_told_of():
    targets = np.array([0, 0, 0, 1, 2, 2])
    pictures = draw_images(6).pictures
    images = frostline.read_data((pictures, targets))
    assert isinstance(images.train, Images)
    assert any(note.startswith("only one training image: ") for note in images.notes)
    assert "no validation images, so nothing measures their accuracy: 1" in images.notes
