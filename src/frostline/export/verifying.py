"""Compare an exported file with the classifier that it came from, before anybody gets it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from frostline.classifier.artifact import golden_pictures
from frostline.classifier.classifier import Classifier
from frostline.data.decoding import UnreadableImageError, open_image
from frostline.data.images import Images
from frostline.data.views import PLAIN, pixels
from frostline.errors import MachineError
from frostline.export.whole import Answer
from frostline.preprocessing import Preprocessing

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
    golden = list(golden_pictures().numpy())
    golden = (golden * (max(BATCHES) // len(golden) + 1))[: max(BATCHES)]
    expected = classifier.predict_proba(golden)
    batch = np.stack([given(each, classifier.preprocessing, resizes=resizes) for each in golden])
    pairs = [(answer(batch[:count]), expected[:count]) for count in BATCHES]
    pairs += [answers(answer, classifier, image, resizes=resizes) for image in images]
    found, right = (np.concatenate(each) for each in zip(*pairs, strict=True))
    return compared(found, right)


def given(image: np.ndarray, preprocessing: Preprocessing, *, resizes: bool) -> np.ndarray:
    """A decoded image as a file takes it; resizes: as in `agreement`."""
    return image if resizes else pixels(image, b"", [0], PLAIN, preprocessing)[0]


def answers(
    answer: Answer, classifier: Classifier, image: np.ndarray, *, resizes: bool
) -> tuple[np.ndarray, np.ndarray]:
    """The probabilities (1, classes) that a file and its classifier give for an image."""
    return answer(given(image, classifier.preprocessing, resizes=resizes)[None]), classifier.predict_proba([image])


def compared(found: np.ndarray, right: np.ndarray) -> Agreement:
    """How well probabilities (N, classes) of a file agree with those of its classifier."""
    difference = np.abs(found - right).max() if found.shape == right.shape else np.inf
    same = (found.argmax(1) == right.argmax(1)).mean() if found.shape == right.shape else 0.0
    return Agreement(len(right), float(difference), float(same))


def decoded(images: Images, numbers: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """The number and the pixels (H, W, 3) of each of these images that can be read."""
    for i in numbers.tolist():
        with contextlib.suppress(UnreadableImageError):
            yield i, np.array(open_image(images.pictures[i]))  # a copy: torch warns of arrays that it may not write


def refuse_other_answers(measured: Agreement, name: str) -> None:
    """Raises MachineError if a file does not give the probabilities of its classifier (NaN included)."""
    if measured.largest <= TOLERANCE and measured.same == 1:
        return
    raise MachineError(
        f"the {name} file gives other probabilities than the classifier: they differ by up to {measured.largest:.1e} "
        f"(at most {TOLERANCE:.0e} is right), and {100 * measured.same:.0f} % of {measured.images} images have the "
        "same class; nothing was written: try another format, or other versions of its packages"
    )
