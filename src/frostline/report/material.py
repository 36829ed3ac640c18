"""The pictures of a report: thumbnails, heat maps and a map of features, gathered while the images are available.

They are stored as `report.json` in the run, so that the page can be made again without the images.
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
from frostline.report.colours import palette
from frostline.report.pictures import Masked, Shot, encoded
from frostline.report.sheets import overlay
from frostline.report.shots import Shots, pictures_of, shots
from frostline.tasks import Outputs, task_of

UNSURE = 12  # pictures shown
MAPPED, FEWEST = 1_000, 10  # most and fewest images on a map
LARGE, MIDDLE, SMALL = 160, 112, 56  # pixels per side: of a picture, of a finding, and on the map
LOOKED_AT = ("leak", "label-conflict", "label-error", "outlier")  # kinds of findings that pictures explain
FOUND = 8  # findings shown per kind


def gather(
    classifier: Classifier, images: Images, outputs: Outputs, features: Tensor | None, split: str, seen: Shots
) -> dict[str, Any]:
    """Pictures and coordinates of the measured images for a page, as JSON.

    outputs: of the classifier, for the images. features: of the images, (N, D), from the frozen network, if it has any.
    seen: pictures that are decoded already.
    """
    found = {"split": split, "worst": [], "unsure": [], "map": [], "views": of_views(seen), "masks": []}
    if outputs.pixels is not None:
        colours = palette(len(classifier.classes), classifier.colours)
        return found | {"masks": [_of_mask(own, colours) for own in seen.masks[split]]}
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
    """The chosen images, each with its heat map, true and predicted label and the probability of the prediction."""
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
    """A few training images with their views; the plain view comes first."""
    return [{"name": name, "pictures": [encoded(view, LARGE) for view in views]} for name, views in seen.views]


def _of_mask(own: Masked, colours: np.ndarray) -> dict[str, Any]:
    """A picture, with its true mask over it and with its predicted mask; white edges outline the true regions."""
    sides = [encoded(overlay(own.pixels, mask, colours, edges=own.truth), LARGE) for mask in (own.truth, own.predicted)]
    return {"name": own.name, "iou": own.iou, "pictures": [encoded(own.pixels, LARGE), *sides]}


def pictured(
    classifier: Classifier, images: Images, numbers: Sequence[int], said: Sequence[str]
) -> list[dict[str, Any]]:
    """The numbered images, each with its label and `said`, the label that other images suggest."""
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
    """Kind → the first findings worth a look: the first two pictures of each, and its details.

    places: (split, name) → number of the image.
    """
    by_kind = [[found for found in findings if found.kind == kind] for kind in LOOKED_AT]
    # Pictures of identical files show nothing new, so near copies come first.
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
    """The images in two dimensions (t-SNE): images with similar features of the frozen network are close together."""
    chosen = spread(len(images), MAPPED)
    if len(chosen) < FEWEST:
        return []
    places = flat(features[torch.from_numpy(chosen)].float().numpy())  # float: NumPy has no bfloat16
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
    """Features (N, D) as points (N, 2) from 0 to 1: PCA to 30 components, then t-SNE (van der Maaten & Hinton 2008)."""
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    few = PCA(min(30, *features.shape), random_state=0).fit_transform(features)
    perplexity = min(30, (len(few) - 1) / 3)
    places = TSNE(perplexity=perplexity, init="pca", max_iter=500, random_state=0).fit_transform(few)
    low, high = places.min(0), places.max(0)
    result: np.ndarray = (places - low) / np.maximum(high - low, 1e-9)
    return result
