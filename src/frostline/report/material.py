"""What a report shows beside figures, gathered while the images are at hand: thumbnails, heat maps, a map of features.

It is kept as `report.json` in the run, so that the page can be made again without the images.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from frostline.checks.findings import Finding
from frostline.classifier.classifier import Classifier
from frostline.data.images import Images, spread
from frostline.data.views import PLAIN
from frostline.preprocessing import normalised
from frostline.report.attention import glowing, heat_maps
from frostline.report.pictures import Masked, Shot, encoded
from frostline.report.sheets import overlay
from frostline.report.shots import Shots, pictures_of, shots
from frostline.tasks import Outputs, task_of

UNSURE = 12  # pictures that are shown
MAPPED, FEWEST = 1_000, 10  # images on a map, at most and at least
LARGE, MIDDLE, SMALL = 160, 112, 56  # pixels of a picture, of one that was found, and of one on the map
LOOKED_AT = ("leak", "label-conflict", "label-error", "outlier")  # kinds of findings whose pictures tell
FOUND = 8  # findings of a kind that are shown


def gather(
    classifier: Classifier, images: Images, outputs: Outputs, features: Tensor | None, split: str, seen: Shots
) -> dict[str, Any]:
    """Pictures and coordinates for a page, as JSON: of the images that were measured.

    outputs: of the classifier for the images. features: of them, (N, D), as the frozen network gave them, if it did.
    seen: what is decoded already.
    """
    found = {"split": split, "worst": [], "unsure": [], "map": [], "views": of_views(seen), "masks": []}
    if outputs.pixels is not None:
        return found | {"masks": [_of_mask(own, len(classifier.classes)) for own in seen.masks[split]]}
    records = task_of(classifier.task).predictions(images.names, split, outputs, classifier.classes)
    right = np.array([true == predicted for _, _, true, predicted, _ in records], bool)
    sure = np.array([float(str(p)) for *_, p in records])
    unsure = np.flatnonzero(right)[np.argsort(sure[right], kind="stable")][:UNSURE]
    return found | {
        "mistakes": seen.wrong[split].count,
        "worst": shown(classifier, seen.wrong[split].shots, outputs),
        "unsure": shown(classifier, shots(classifier, images, records, unsure), outputs),
        "map": [] if features is None else _map(classifier, images, records, features),
    }


def shown(classifier: Classifier, chosen: Sequence[Shot], outputs: Outputs) -> list[dict[str, Any]]:
    """Of some images the picture, what of it mattered, true and predicted label and how sure that was."""
    if not chosen:
        return []
    stack = torch.from_numpy(np.stack([shot.pixels for shot in chosen]))
    predicted = outputs.logits[torch.tensor([shot.number for shot in chosen])].argmax(1)
    inputs = normalised(stack.to(classifier.machine.device).permute(0, 3, 1, 2), classifier.preprocessing)
    heat = heat_maps(classifier.model, inputs, predicted.to(classifier.machine.device))
    return [
        {
            **{key: getattr(shot, key) for key in ("name", "true", "predicted", "p")},
            "picture": encoded(shot.pixels, LARGE),
            "heat": None if heat is None else encoded(glowing(stack[row], heat[row].cpu()).numpy(), LARGE),
        }
        for row, shot in enumerate(chosen)
    ]


def of_views(seen: Shots) -> list[dict[str, Any]]:
    """A few training images and their views, the plain one first."""
    return [{"name": name, "pictures": [encoded(view, LARGE) for view in views]} for name, views in seen.views]


def _of_mask(own: Masked, classes: int) -> dict[str, Any]:
    """The true regions over a picture, and the predicted ones, with white edges around what is true."""
    sides = [encoded(overlay(own.pixels, mask, classes, edges=own.truth), LARGE) for mask in (own.truth, own.predicted)]
    return {"name": own.name, "iou": own.iou, "pictures": [encoded(own.pixels, LARGE), *sides]}


def pictured(
    classifier: Classifier, images: Images, numbers: Sequence[int], said: Sequence[str]
) -> list[dict[str, Any]]:
    """Of some images the picture, the label, and what others say it is."""
    chosen = images.take(np.array(numbers, np.int64))
    pictures, labels = pictures_of(chosen, PLAIN, [0], classifier), chosen.labels(classifier.classes)
    return [
        {"name": chosen.names[i], "true": labels[i], "predicted": said[i], "picture": encoded(pictures[i, 0], LARGE)}
        for i in range(len(numbers))
        if (i, 0) in pictures
    ]


def of_findings(
    classifier: Classifier, images: Images, places: Mapping[tuple[str, str], int], findings: Sequence[Finding]
) -> dict[str, list[dict[str, Any]]]:
    """By kind the pictures of the first findings that are to be looked at: of each the first two, and what was found.

    places: by split and name the number of an image.
    """
    by_kind = [[found for found in findings if found.kind == kind] for kind in LOOKED_AT]
    # Of the same bytes there is nothing to see: they come after what only looks alike.
    chosen = [found for own in by_kind for found in sorted(own, key=_same_bytes)[:FOUND]]
    pairs = [list(zip(found.splits, found.paths, strict=True))[:2] for found in chosen]
    numbers = sorted({places[key] for pair in pairs for key in pair if key in places})
    shown = pictures_of(images.take(np.array(numbers, np.int64)), PLAIN, [0], classifier)
    pictures = {numbers[i]: encoded(picture, MIDDLE) for (i, _), picture in shown.items()}
    result: dict[str, list[dict[str, Any]]] = {}
    for found, pair in zip(chosen, pairs, strict=True):
        own = [pictures[places[key]] for key in pair if places.get(key) in pictures]
        if own:
            result.setdefault(found.kind, []).append({"pictures": own, "name": found.paths[0], "detail": found.detail})
    return result


def _same_bytes(found: Finding) -> bool:
    return found.kind == "leak" and found.score == 1


def _map(
    classifier: Classifier, images: Images, records: Sequence[Sequence[object]], features: Tensor
) -> list[dict[str, Any]]:
    """Where the images lie in two dimensions, near to what looks alike to the frozen network (t-SNE)."""
    chosen = spread(len(images), MAPPED)
    if len(chosen) < FEWEST:
        return []
    places = flat(features[torch.from_numpy(chosen)].float().numpy())  # many are bfloat16, which numpy lacks
    pictures = pictures_of(images.take(chosen), PLAIN, [0], classifier)
    return [
        {
            "x": round(float(x), 4),
            "y": round(float(y), 4),
            "name": records[int(number)][0],
            "true": records[int(number)][2],
            "predicted": records[int(number)][3],
            "picture": encoded(pictures[i, 0], SMALL) if (i, 0) in pictures else "",
        }
        for i, (number, (x, y)) in enumerate(zip(chosen, places, strict=True))
    ]


def flat(features: np.ndarray) -> np.ndarray:
    """Features (N, D) in the plane, (N, 2) from 0 to 1: t-SNE (van der Maaten & Hinton 2008) of 30 components."""
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    few = PCA(min(30, *features.shape), random_state=0).fit_transform(features)
    perplexity = min(30, (len(few) - 1) / 3)
    places = TSNE(perplexity=perplexity, init="pca", max_iter=500, random_state=0).fit_transform(few)
    low, high = places.min(0), places.max(0)
    result: np.ndarray = (places - low) / np.maximum(high - low, 1e-9)
    return result
