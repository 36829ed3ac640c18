from __future__ import annotations

import numpy as np
import torch

from conftest import draw_images
from frostline.checks.samples import gathered, samples_of
from frostline.store.activations import Activations, Filled
from frostline.store.reading import HeldRows, StoredRows
from frostline.store.shard_file import Form, Held


def rows(images, values: torch.Tensor, views: int = 1) -> Activations:
    return Activations(images, views, HeldRows(values), lambda numbers: numbers, Filled(0, 0, 0.0, 0, "memory"))


def test_samples_are_in_a_row_and_know_their_split(stripes):
    samples = samples_of(stripes.splits, stripes.classes)
    assert len(samples) == 48 + 24 + 24
    assert samples.splits_at([0, 47, 48, 72]) == ("train", "train", "valid", "test")
    assert samples.labels_at([0, 1, 2]) == ("flat", "tall", "plain")
    assert samples.names([48]) == (stripes.valid.names[0],)
    assert samples.one_label
    assert len(np.unique(samples.digests)) == 96


def test_features_are_those_of_the_plain_view_and_maps_are_pooled():
    images = draw_images(3)
    flat, maps = torch.arange(12.0).view(6, 2), torch.arange(24.0).view(3, 2, 2, 2)
    both, lacking = gathered({"train": rows(images, flat, views=2), "valid": rows(images, maps)}, ("a", "b", "c"))
    assert (lacking, both.features is not None) == ("", True)
    torch.testing.assert_close(both.features, torch.cat([flat[::2], maps.mean((2, 3))]))
    torch.testing.assert_close(both.features_of("valid"), maps.mean((2, 3)))
    tokens, _ = gathered({"train": rows(images, torch.arange(24.0).view(3, 4, 2))}, ("a", "b", "c"))
    assert tokens.features_of("train").shape == (3, 2)
    assert both.features_of("test") is None
    assert samples_of({"train": images}, ("a", "b", "c")).features_of("train") is None


def test_stored_rows_are_gathered_without_a_second_copy_that_stays():
    values, images = torch.arange(6.0).view(3, 2), draw_images(3)
    fetch = StoredRows([Held(values)], np.arange(3), Form("", (2,), "float32"), None)
    stored = Activations(images, 1, fetch, lambda numbers: numbers, Filled(3, 0, 0.0, 24, "stored"))
    samples, lacking = gathered({"train": stored}, ("a", "b", "c"))
    assert lacking == ""
    torch.testing.assert_close(samples.features, values)
    assert fetch._whole is None
