"""What identifies rows, and in which form they are kept."""

from __future__ import annotations

import pytest
import torch

from conftest import SIZE, draw_images, small_model
from frostline.data.views import Views
from frostline.machine import find_machine
from frostline.network.network import Network
from frostline.preprocessing import Preprocessing
from frostline.store.activations import activations
from frostline.store.rows import Rows
from frostline.store.shards import Cache

HOW = Preprocessing(size=SIZE, resize=36)


@pytest.mark.parametrize(
    ("frostline", "precision", "shape", "dtype"),
    [
        ("stem", "bf16", (SIZE, SIZE, 3), "uint8"),
        ("block1", "fp32", (16, 16, 8), "float32"),
        ("block2", "bf16", (8, 8, 16), "bfloat16"),
        ("head", "bf16", (24,), "bfloat16"),
    ],
)
def test_rows_are_kept_with_their_channels_last(frostline, precision, shape, dtype):
    lower, _ = Network(small_model(), HOW).cut(frostline)
    rows = Rows(lower, Views(2), find_machine("cpu", precision, 2))
    assert (rows.form.shape, rows.form.dtype, rows.form.key) == (shape, dtype, rows.key())
    assert rows.row_bytes() == rows.form.row_bytes
    assert (rows.pixels is None) == (frostline != "stem")


def test_what_nobody_can_tell_from_others_is_kept_in_memory_and_said(tmp_path, capsys):
    lower, _ = Network(small_model(), HOW).cut("head")
    found = activations(lower, draw_images(4), Views(2, augment=lambda image: image), cache=Cache(tmp_path))
    assert found.filled.kept == "memory"
    assert "not stored: the views are somebody's own function" in capsys.readouterr().err
    assert not list(tmp_path.rglob("*.shard"))
    assert torch.isfinite(found.fetch(torch.arange(8))).all()
