from __future__ import annotations

import numpy as np
import pytest
import torch

from conftest import draw_images
from frostline.data import targets as module
from frostline.data.images import Images
from frostline.data.masks import NOTHING, Masks
from frostline.data.targets import targets_of
from frostline.data.views import Views, pixels
from frostline.errors import DataError
from frostline.preprocessing import Preprocessing

HOW = Preprocessing(size=8, resize=8, crop="squash")
SAME = np.arange(256, dtype=np.uint8)


def labelled(targets: np.ndarray | Masks) -> Images:
    return Images(draw_images(len(targets)).pictures, targets, [f"picture-{i}" for i in range(len(targets))])


def masks(count: int = 4, size: int = 8) -> Masks:
    chance = np.random.default_rng(0)
    return Masks([chance.integers(0, 3, (size, size), dtype=np.uint8) for _ in range(count)], SAME)


def test_all_views_of_an_image_have_its_class():
    numbers = np.array([2, 0, 1], np.int64)
    fetch = targets_of(labelled(numbers), Views(4), HOW)
    assert fetch(torch.arange(12)).tolist() == np.repeat(numbers, 4).tolist()
    assert fetch(torch.tensor([11, 0, 5])).tolist() == [1, 2, 0]
    assert fetch(torch.tensor([0])).dtype == torch.int64


def test_labels_become_numbers_that_a_loss_takes():
    labels = np.array([[True, False, True], [False, False, False]])
    fetch = targets_of(labelled(labels), Views(2), HOW)
    assert fetch(torch.tensor([1, 2])).tolist() == [[1.0, 0.0, 1.0], [0.0, 0.0, 0.0]]
    assert fetch(torch.tensor([0])).dtype == torch.float32


def test_a_mask_of_the_networks_size_is_taken_as_it_is():
    given = masks()
    fetch = targets_of(labelled(given), Views(1), HOW)
    found = fetch(torch.tensor([3, 1, 1]))
    assert found.dtype == torch.int64
    assert found.tolist() == np.stack([given.pictures[i] for i in (3, 1, 1)]).tolist()


def test_a_mask_of_another_size_keeps_its_class_numbers():
    given = Masks([np.repeat(np.array([[0, 2]], np.uint8), 20, 1).repeat(30, 0)], SAME)
    found = targets_of(labelled(given), Views(1), HOW)(torch.tensor([0]))
    assert found.shape == (1, 8, 8)
    assert found[0].tolist() == [[0] * 4 + [2] * 4] * 8


def test_what_nobody_knows_counts_for_nothing():
    mask = np.zeros((8, 8), np.uint8)
    mask[:, 4:] = NOTHING
    found = targets_of(labelled(Masks([mask], SAME)), Views(1), HOW)(torch.tensor([0]))
    assert found[0].tolist() == [[0] * 4 + [-100] * 4] * 8


def test_views_of_a_mask_are_turned_and_the_first_is_not():
    images = labelled(masks(2, 40))
    views = Views(3, augment="standard")
    found = targets_of(images, views, HOW)(torch.arange(6))
    plain = targets_of(images, Views(1), HOW)(torch.arange(2))
    assert torch.equal(found[[0, 3]], plain)
    assert not torch.equal(found[1], found[0])
    assert torch.equal(found, targets_of(images, views, HOW)(torch.arange(6)))


def test_a_mask_shows_what_its_image_shows():
    """Images and masks of the same half: whatever a view does to the one it does to the other."""
    half = np.zeros((40, 40), np.uint8)
    half[:, 20:] = 1
    picture = np.repeat(half[..., None] * 200, 3, 2)
    images = Images([picture] * 2, Masks([half] * 2, SAME), ["a", "b"])
    preprocessing, views = Preprocessing(size=32, resize=32, crop="squash"), Views(4, augment="light")
    masked = targets_of(images, views, preprocessing)(torch.arange(8))
    shown = np.concatenate(
        [pixels(images.pictures[i], images.digests[i], [0, 1, 2, 3], views, preprocessing) for i in range(2)]
    )
    known = masked >= 0
    agree = (torch.from_numpy(shown[..., 0] > 60) == masked.bool())[known]
    assert agree.float().mean() > 0.95
    assert (masked == 1).any(dim=(1, 2)).sum() > 2


@pytest.mark.parametrize("memory", [0, 1_000_000])
def test_masks_are_kept_where_memory_is_and_read_again_where_not(memory, monkeypatch):
    monkeypatch.setattr(module, "MEMORY_BYTES", memory)
    given = masks()
    fetch = targets_of(labelled(given), Views(1), HOW)
    first = fetch(torch.arange(4))
    for picture in given.pictures:
        picture[:] = 0
    assert torch.equal(fetch(torch.arange(4)), first if memory else torch.zeros_like(first))


def test_a_mask_that_cannot_be_read_is_named():
    images = labelled(Masks([np.zeros((4, 4, 2), np.uint8)], SAME))
    with pytest.raises(DataError, match=r"the mask of picture-0 cannot be read: a mask of shape \(4, 4, 2\)"):
        targets_of(images, Views(1), HOW)(torch.tensor([0]))
