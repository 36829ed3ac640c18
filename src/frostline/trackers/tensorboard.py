"""TensorBoard: event files in RUN/tensorboard, so that `tensorboard --logdir runs` shows all runs side by side."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from frostline.trackers import Figures

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

FOLDER = "tensorboard"


class TensorBoard:
    """An open TensorBoard writer of event files."""

    def __init__(self, writer: SummaryWriter, config: Mapping[str, Any], where: str) -> None:
        self.writer, self.config, self.where = writer, config, where
        self.step = 0

    def epoch(self, step: int, figures: Figures) -> None:
        self.step = step
        self._scalars(figures)

    def result(self, figures: Figures, pictures: Sequence[Path]) -> None:
        import numpy as np
        from PIL import Image
        from torch.utils.tensorboard.summary import hparams

        self._scalars(figures)
        for picture in pictures:
            with Image.open(picture) as image:
                pixels = np.asarray(image.convert("RGB"))
            self.writer.add_image(f"plots/{picture.stem}", pixels, self.step, dataformats="HWC")
        # The same as `add_hparams` writes, but to this record instead of one in a subfolder.
        for summary in hparams(_plain(self.config), dict(figures)):
            self.writer._get_file_writer().add_summary(summary)

    def close(self, finished: bool) -> None:  # noqa: ARG002
        self.writer.close()

    def _scalars(self, figures: Figures) -> None:
        for name, value in figures.items():
            self.writer.add_scalar(name, value, self.step)
        self.writer.flush()  # so that TensorBoard shows the epoch during the fit


def opened(folder: Path, config: Mapping[str, Any]) -> TensorBoard:
    """Event files in the run's folder: the options as text at once, and as hyperparameters with the result."""
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter(str(folder / FOLDER))
    writer.add_text("options", f"```\n{json.dumps(config, indent=2, ensure_ascii=False)}\n```")
    writer.flush()
    return TensorBoard(writer, config, f"tensorboard --logdir {folder / FOLDER}")


def _plain(config: Mapping[str, Any]) -> dict[str, bool | float | str]:
    """The options as numbers, booleans and text, which are all that TensorBoard takes; it shows None as "None"."""
    return {
        name: value if isinstance(value, (bool, int, float, str)) else json.dumps(value)
        for name, value in config.items()
    }
