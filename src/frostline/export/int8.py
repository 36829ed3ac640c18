"""What a classifier in int8 keeps of its accuracy, measured on validation images."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from frostline.classifier.classifier import Classifier
from frostline.data.images import Images
from frostline.data.split import some_of_each
from frostline.errors import DataError, MachineError
from frostline.export.verifying import Agreement, agreement, answers, compared, decoded
from frostline.export.whole import Answer
from frostline.tasks import task_of
from frostline.tasks.summary import SHOWN

MEASURED = 1_000  # validation images
MOST_LOST = 0.01  # of the metric
TINY = 1e-30  # below every probability that counts; a logit has to be finite


@dataclass(frozen=True)
class Kept:
    """The metric ("accuracy"; "mean_ap" for several labels per image) of a classifier and of its file in int8.

    n: number of validation images. fp32_bytes: size of the file in fp32.
    """

    metric: str
    n: int
    fp32: float
    int8: float
    fp32_bytes: int

    def __str__(self) -> str:
        name, int8, fp32 = SHOWN.get(self.metric, self.metric), f"{100 * self.int8:.1f} %", f"{100 * self.fp32:.1f} %"
        return f"{name} {int8} in int8 and {fp32} in fp32 on {self.n:,} validation images"


def kept_by(
    answer: Answer, classifier: Classifier, images: Images, *, fp32_bytes: int, resizes: bool
) -> tuple[Agreement, Kept]:
    """Measure a file in int8 on labelled images.

    Raises ValueError if it cannot answer for batches, DataError if no image can be read.
    """
    if not math.isfinite(agreement(answer, classifier, resizes=resizes).largest):
        raise ValueError("in int8 it gives no probabilities, or not for batches")
    pairs = {
        number: answers(answer, classifier, image, resizes=resizes)
        for number, image in decoded(images, some_of_each(images, MEASURED))
    }
    if not pairs:
        raise DataError("no validation image can be read, so what int8 loses cannot be measured")
    found, right = (np.concatenate(each) for each in zip(*pairs.values(), strict=True))
    targets = torch.from_numpy(np.asarray(images.targets)[list(pairs)])
    metric = "mean_ap" if classifier.task == "multilabel" else "accuracy"
    fp32, int8 = (_measured(each, targets, classifier.task)[metric] for each in (right, found))
    return compared(found, right), Kept(metric, len(pairs), fp32, int8, fp32_bytes)


def _measured(probabilities: np.ndarray, targets: Tensor, task: str) -> dict[str, float]:
    p = torch.from_numpy(probabilities).double().clamp(TINY, 1)
    logits = p.log() - (1 - p).clamp(min=TINY).log() if task == "multilabel" else p.log()
    functions = task_of(task)
    return functions.measure(functions.outputs(logits, targets))


def refuse_loss(kept: Kept, name: str) -> None:
    """Raises MachineError if int8 loses more than a point."""
    if kept.fp32 - kept.int8 <= MOST_LOST + 1e-9:
        return
    raise MachineError(
        f"the {name} file loses more than a point: {kept}; nothing was written: export without --int8, or try "
        "another backbone"
    )
