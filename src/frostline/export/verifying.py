"""Compare an exported file with the classifier that it came from, before anybody gets it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from frostline.classifier.artifact import golden_pictures
from frostline.classifier.classifier import Classifier
from frostline.data.views import PLAIN, pixels
from frostline.errors import MachineError
from frostline.export.whole import Answer

BATCHES = (1, 2, 3, 7)  # images per call; a graph that is fixed to the traced number fails on the others
TOLERANCE = 1e-4  # of a probability, in fp32


@dataclass(frozen=True)
class Agreement:
    """How well a file agrees with its classifier.

    images: number of images compared, synthetic ones included. largest: the largest difference of a probability.
    same: the share of images with the same most probable class, 0 … 1.
    """

    images: int
    largest: float
    same: float


def agreement(
    answer: Answer, classifier: Classifier, images: Sequence[np.ndarray] = (), *, resizes: bool = True
) -> Agreement:
    """Compare the answers of a file with `Classifier.predict_proba` on synthetic pictures and on some images.

    images: decoded, (H, W, 3) of uint8, each compared alone. The synthetic pictures are compared in batches.
    resizes: whether the file takes images of any size, else pictures of the network's size.
    """

    def given(image: np.ndarray) -> np.ndarray:
        return image if resizes else pixels(image, b"", [0], PLAIN, classifier.preprocessing)[0]

    golden = list(golden_pictures().numpy())
    golden = (golden * (max(BATCHES) // len(golden) + 1))[: max(BATCHES)]
    expected, batch = classifier.predict_proba(golden), np.stack([given(each) for each in golden])
    pairs = [(answer(batch[:count]), expected[:count]) for count in BATCHES]
    pairs += [(answer(given(image)[None]), classifier.predict_proba([image])) for image in images]
    found, right = (np.concatenate(each) for each in zip(*pairs, strict=True))
    difference = np.abs(found - right).max() if found.shape == right.shape else np.inf
    same = (found.argmax(1) == right.argmax(1)).mean() if found.shape == right.shape else 0.0
    return Agreement(len(right), float(difference), float(same))


def refuse_other_answers(measured: Agreement, name: str) -> None:
    """Raises MachineError if a file does not give the probabilities of its classifier (NaN included)."""
    if measured.largest <= TOLERANCE and measured.same == 1:
        return
    raise MachineError(
        f"the {name} file gives other probabilities than the classifier: they differ by up to {measured.largest:.1e} "
        f"(at most {TOLERANCE:.0e} is right), and {100 * measured.same:.0f} % of {measured.images} images have the "
        "same class; nothing was written: try another format, or other versions of its packages"
    )
