"""K-fold cross-validation: the expected accuracy of a fit, measured on all images instead of one part."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from frostline import terminal
from frostline.errors import UsageError
from frostline.fitting.options import Options
from frostline.verbs.fit import fit

if TYPE_CHECKING:
    from frostline.data import Data, ImageSet

MOST = 50


def cross_validate(data: Data, folds: int = 5, *, out: str | Path | None = None, **options: Any) -> dict[str, Any]:
    """Fit once per fold, on all images outside the fold, and validate on the fold; as `fit --folds`.

    The folds are stratified by class and drawn by the seed; with `group` a group stays in one fold. Training and
    validation images are pooled; a test split stays closed. The only image of a class is always for
    training. The frozen part is computed once for all folds.

    out: folder to create, with a run per fold; by default runs/folds-DATA-NUMBER. options: as in `fit`.

    Returns `folds`, each with its run, n and the metrics on the fold; `mean` and `sd` (between folds, N - 1) of
    these metrics; and `pooled`, the accuracy over all images, each predicted by the network that had not seen it, with
    its 95 % interval and n. For a classifier to use, run `fit` without folds.
    Raises UsageError for fewer than 2 folds or more than 50, or for more folds than images or groups.

    >>> cross_validate("photos/", 5, plan="probe")["mean"]["accuracy"]  # doctest: +SKIP
    0.9498
    """
    from frostline.runs.run import create_run, write_json

    chosen = Options(data, **options)  # an unknown option raises before any data is read
    if not 2 <= folds <= MOST:
        raise UsageError(f"folds is {folds}; it must be 2 … {MOST}")
    with terminal.quiet(chosen.quiet):
        images = chosen.read()
        parts = list(folded(images, folds, chosen.seed))
        whole = create_run(out, f"folds-{images.name}")
        of_data = ("group", "path_column", "label_column", "images", "download")  # the data is already read
        options = {name: value for name, value in options.items() if name not in of_data}
        runs = []
        for number, part in enumerate(parts, 1):
            terminal.say(f"fold {number} of {folds}")
            try:
                runs.append(fit(part, **options, out=whole.path / f"fold-{number}"))
            except KeyboardInterrupt:
                terminal.say("for all folds repeat the command with another --out: what was computed is in the store")
                raise
        result = _summed(runs, images)
        write_json(whole, "folds.json", result)
        terminal.say(f"folds: {whole.path}")
        if images.test is not None:
            terminal.say("the test split is still closed: a fit without folds opens it at its end")
    return result


def folded(images: ImageSet, folds: int, seed: int = 0) -> Iterator[ImageSet]:
    """The data set once per fold, with the images of the fold for validation and all others for training.

    Raises UsageError if a fold would be empty.
    """
    import numpy as np

    from frostline.data.grouping import alone
    from frostline.data.images import join
    from frostline.data.split import single, stratified, whole_groups

    every = images.train if not images.held_out else join([images.train, images.valid])
    contents = every.digests.contents()  # an image and its copy go to one fold
    group = np.array(alone(every.names, images.groups), object) if images.groups else contents
    stays = np.unique(group[single(every.targets, group)].astype(str))  # else a class would have no training image
    may_go = np.flatnonzero(~np.isin(group.astype(str), stays))
    most = len({*group[may_go]})
    if most < folds:
        raise UsageError(f"{folds} folds are too many for {most} {'groups' if images.groups else 'images'}; give fewer")
    left = may_go
    for number in range(folds):
        part, names = every.take(left), [every.names[int(i)] for i in left]
        if number == folds - 1:
            chosen = np.ones(len(left), bool)
        elif images.groups:
            chosen = whole_groups(part.targets, group[left].tolist(), 1 / (folds - number), seed)
        else:
            chosen = stratified(part.targets, names, 1 / (folds - number), seed, contents=group[left])
        held_out, left = left[chosen], left[~chosen]
        train = every.without(held_out.tolist())
        yield replace(
            images, train=train, valid=every.take(held_out), test=None, notes=(), validation="given", may_cross=False
        )


def _summed(runs: list[Any], images: ImageSet) -> dict[str, Any]:
    import numpy as np

    from frostline.data.grouping import membership
    from frostline.runs.run import scores_of
    from frostline.tasks.clustered import accuracy_for

    measured = [run.metrics["valid"] for run in runs]
    names = [name for name, value in measured[0].items() if isinstance(value, float)]
    columns = {
        name: [own[name] for own in measured] for name in names if all(own[name] is not None for own in measured)
    }
    scores = [score for run in runs for score in scores_of(run, "valid").items()]
    group = membership([name for name, _ in scores], images.groups)
    right = np.array([score for _, score in scores])
    return {
        "folds": [
            {"run": str(run.path), "n": own["n"], **{name: own[name] for name in columns}}
            for run, own in zip(runs, measured, strict=True)
        ],
        "mean": {name: statistics.fmean(values) for name, values in columns.items()},
        "sd": {name: statistics.stdev(values) for name, values in columns.items()},
        "pooled": {"accuracy": float(right.mean()), "n": len(right), **accuracy_for(right, group)},
    }
