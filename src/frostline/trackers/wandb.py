"""Weights & Biases: offline, in RUN/wandb, unless WANDB_MODE says otherwise. WANDB_PROJECT names the project."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from frostline.trackers import Figures


class WandB:
    """A W&B run. ours: whether it was started here; a run that the program had open, as in a sweep, stays open."""

    def __init__(self, run: Any, ours: bool, where: str) -> None:
        self.run, self.ours, self.where = run, ours, where

    def epoch(self, step: int, figures: Figures) -> None:  # noqa: ARG002  # the program counts the steps of an open run
        self.run.log(dict(figures))

    def result(self, figures: Figures, pictures: Sequence[Path]) -> None:
        import wandb

        self.run.log({f"plots/{picture.stem}": wandb.Image(str(picture)) for picture in pictures})
        self.run.summary.update(dict(figures))

    def close(self, finished: bool) -> None:
        if self.ours:
            self.run.finish(exit_code=0 if finished else 1)


def opened(folder: Path, config: Mapping[str, Any]) -> WandB:
    """The open run of this process, else a new one; nothing leaves the machine unless WANDB_MODE says so."""
    import wandb

    if wandb.run is not None:
        wandb.run.config.update(dict(config), allow_val_change=True)
        return WandB(wandb.run, False, wandb.run.url or str(Path(wandb.run.dir).parent))
    run = wandb.init(
        project=os.environ.get("WANDB_PROJECT", "frostline"),
        name=folder.name,
        dir=str(folder),
        mode=os.environ.get("WANDB_MODE", "offline"),
        config=dict(config),
        settings=wandb.Settings(silent=True, console="off"),  # the fit prints its own lines
    )
    return WandB(run, True, run.url or f"offline; wandb sync {Path(run.dir).parent} uploads it")
