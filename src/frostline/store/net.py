"""A check besides the key: stored rows are compared with the network's current outputs before use.

A key is a hash, and a hash cannot cover everything that a network does. So every shard carries a sketch, some numbers
of the frozen part's outputs for two synthetic pictures, and a few stored rows per provenance are
recomputed. Rows from another machine, device or version are used if they agree.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from frostline.data.decoding import UnreadableImageError
from frostline.data.images import Images, spread
from frostline.data.views import pixels
from frostline.engines import eager
from frostline.engines.checking import TOLERANCES
from frostline.network.part import Part
from frostline.preprocessing import normalised
from frostline.store.rows import Rows
from frostline.store.shard_file import Shard

SKETCHED = 128  # numbers per picture's output
SKETCH_TOLERANCE = 0.02  # relative to their norm: a GPU's fp32 may be TF32
PIXEL_TOLERANCE = 0.02
COMPARED = 4  # rows recomputed over all provenances together; at least one of each
_sketches: weakref.WeakKeyDictionary[Part, tuple[str, list[float]]] = weakref.WeakKeyDictionary()
_written: weakref.WeakKeyDictionary[Part, set[Path]] = weakref.WeakKeyDictionary()
_agreed: weakref.WeakKeyDictionary[Part, set[tuple[Path, str]]] = weakref.WeakKeyDictionary()


def sketch(part: Part) -> list[float]:
    """Some numbers of a part's outputs for two synthetic pictures in fp32; empty for a part that computes nothing."""
    if part.is_image:
        return []
    fingerprint = part.fingerprint()  # weights may have changed since the last sketch
    if part not in _sketches or _sketches[part][0] != fingerprint:
        outputs = _outputs(part, _drawn(part.preprocessing.size)[..., : part.preprocessing.channels]).flatten(1)
        chosen = outputs[:, torch.from_numpy(spread(outputs.shape[1], SKETCHED))].nan_to_num()
        _sketches[part] = fingerprint, [float(f"{value:.7g}") for value in chosen.flatten().tolist()]
    return _sketches[part][1]


def _drawn(size: int) -> np.ndarray:
    """Two pictures (2, size, size, 3) of uint8 with large and small patterns, always the same."""
    chance = np.random.default_rng(0)
    coarse = chance.integers(0, 256, (2, 8, 8, 3)).repeat(-(-size // 8), 1).repeat(-(-size // 8), 2)
    fine = chance.integers(-40, 41, (2, size, size, 3))
    return (coarse[:, :size, :size] + fine).clip(0, 255).astype(np.uint8)


def _outputs(part: Part, pictures: np.ndarray) -> Tensor:
    """The rows in fp32 of the unchanged part, on its own device."""
    device = next((each.device for each in [*part.parameters(), *part.buffers()]), torch.device("cpu"))
    with torch.inference_mode():
        inputs = normalised(torch.from_numpy(pictures).to(device).permute(0, 3, 1, 2), part.preprocessing)
        return eager.as_rows(part(inputs), torch.float32)[0]


def agrees(rows: Rows, images: Images, shards: tuple[Shard, ...], places: np.ndarray) -> bool:
    """Whether stored rows equal the frozen part's current outputs for these images.

    places: (N, V) of int64, the row numbers of these images in the shards, -1 for missing rows. A process compares each
    provenance only once. If no image can be read, the sketches alone decide.
    """
    agreed = _agreed.setdefault(rows.lower, set())
    fresh = [n for n, shard in enumerate(shards) if (shard.path.parent, shard.provenance) not in agreed]
    if not fresh:
        return True
    now = sketch(rows.lower)
    if not all(_alike(shards[n].about.get("sketch"), now) for n in fresh):
        return False
    compared = set()
    for stored, pictures, provenance in _samples(rows, images, shards, places, fresh):
        if not _same(rows, stored, pictures):
            return False
        compared.add(provenance)
    agreed |= {(shards[n].path.parent, shards[n].provenance) for n in fresh if shards[n].provenance in compared}
    return True


def trust(rows: Rows, shard: Shard) -> None:
    """Record that this part has just written a shard itself, so that it is not compared."""
    _written.setdefault(rows.lower, set()).add(shard.path)
    _agreed.setdefault(rows.lower, set()).add((shard.path.parent, shard.provenance))


def written(part: Part) -> set[Path]:
    """The shards that this part has written itself."""
    return _written.get(part, set())


def _alike(stored: object, present: list[float]) -> bool:
    if not isinstance(stored, list) or len(stored) != len(present):
        return False
    try:
        before, now = np.array(stored, np.float32), np.array(present, np.float32)
    except (ValueError, TypeError, OverflowError):  # no numbers
        return False
    same = before.shape == now.shape
    return same and bool(np.linalg.norm(before - now) <= SKETCH_TOLERANCE * np.linalg.norm(now) + 1e-12)


def _samples(
    rows: Rows, images: Images, shards: tuple[Shard, ...], places: np.ndarray, fresh: list[int]
) -> Iterator[tuple[Tensor, np.ndarray, str]]:
    """Some stored rows per provenance, spread over its shards, with their pictures."""
    starts = np.cumsum([0, *map(len, shards)])
    stored = np.flatnonzero(places >= 0)
    shard_of = np.searchsorted(starts, places.ravel()[stored], side="right") - 1
    provenances = sorted({shards[n].provenance for n in fresh})
    for provenance in provenances:
        own = [n for n in fresh if shards[n].provenance == provenance]
        mine = stored[np.isin(shard_of, own)]
        mine = mine[np.argsort(places.ravel()[mine])]
        pictures: list[np.ndarray] = []
        values: list[Tensor] = []
        for place in mine[spread(len(mine), 2 * COMPARED)].tolist() if len(mine) else ():
            if len(values) == max(1, COMPARED // len(provenances)):
                break
            image, view = divmod(place, places.shape[1])
            try:
                digest = images.digests[image]
                picture = pixels(images.pictures[image], digest, [view], rows.views, rows.preprocessing)
            except UnreadableImageError:
                continue
            number = places[image, view]
            shard = int(np.searchsorted(starts, number, side="right")) - 1
            pictures.append(picture)
            values.append(shards[shard].read(np.array([number - starts[shard]])))
        if values:
            yield torch.cat(values), np.concatenate(pictures), provenance


def _same(rows: Rows, stored: Tensor, pictures: np.ndarray) -> bool:
    if rows.lower.is_image:
        return _error(stored, torch.from_numpy(pictures)) <= PIXEL_TOLERANCE
    now, precision = _outputs(rows.lower, pictures), rows.machine.precision
    error = _error(stored, now)
    if error <= TOLERANCES[precision]:
        return True
    plain = eager.plain(rows.lower, rows.machine)  # some networks lose more accuracy than others in low precision
    return error < float("inf") and error <= 1.5 * _error(plain(pictures)[0], now)


def _error(found: Tensor, right: Tensor) -> float:
    """The largest distance of any row, relative to its norm or a tenth of the mean norm; infinite if not finite."""
    found, right = found.float().flatten(1), right.float().flatten(1)
    norms = right.norm(dim=1)
    error = float(((found - right).norm(dim=1) / norms.clamp(min=0.1 * float(norms.mean()) + 1e-12)).max())
    return error if error == error else float("inf")
