"""What a fit may be given: the one definition of its signature, its flags, its configuration file and their checks.

Without torch, which takes seconds to import: `frostline fit --help` needs only this.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from frostline import settings
from frostline.errors import UsageError
from frostline.files import parse_bytes
from frostline.plan import Optimizer, Phase, Schedule
from frostline.trackers import Tool, refuse_missing

if TYPE_CHECKING:
    from torch import nn

    from frostline.backbones import Backbone
    from frostline.data import Data
    from frostline.data.augment import Augmentation, Function
    from frostline.data.readers.columns import Wanted
    from frostline.tasks import Loss

AUTO = "auto"  # in place of a backbone's name: the best one on this machine
Precision = Literal["auto", "bf16", "fp32"]
Preset = Literal["auto", "none", "light", "crop", "standard", "digits"]
LossName = Literal["cross-entropy", "focal", "bce", "dice", "cross-entropy+dice"]
Metric = Literal["loss", "accuracy", "balanced_accuracy", "f1", "mean_ap", "mean_iou"]
Balance = Literal["balanced", "none"]
LARGEST_SEED = 2**63 - 1


@dataclass(frozen=True)
class Options:
    """What to fit on which data, and how.

    Args:
        data: a folder of class folders, or with train/ and val/ of them; a folder of images/ and masks/; a CSV, TSV or
            JSONL manifest; the name of a known data set (digits, mnist:ROOT); in Python also arrays and Datasets.
        backbone: source:name (torchvision:resnet18, timm:vit_tiny_patch16_224); auto, to try those whose weights are on
            this machine and take the best; or in Python an nn.Module.
        weights: pretrained, none, a .safetensors or .pth file, or a name the source knows (IMAGENET1K_V1).
        plan: auto, probe, gradual, full or a YAML file of phases, as `frostline plan` prints it; in Python also a list
            of Phase.
        out: the run folder to make; by default runs/DATA-BACKBONE-NUMBER.
        epochs: at most so many in every phase that trains.
        lr: learning rate of the head in every phase that trains.
        batch_size: images per step.
        optimizer: adamw, adam or sgd.
        momentum: of sgd.
        weight_decay: of all that trains but biases and norms.
        schedule: of the learning rate, cosine, step or constant.
        clip: the largest norm of the gradients in one step; 0 for no limit.
        loss: cross-entropy or focal; bce or focal for several labels; cross-entropy, dice, cross-entropy+dice or focal
            for segmentation; in Python also a function of logits and targets.
        metric: what on the validation images decides which epoch of a phase is the best, and whether the phase is kept:
            loss, accuracy, balanced_accuracy or f1 (the mean of all classes); of several labels mean_ap or f1 (of all
            labels); of masks mean_iou. Phases of plan auto have to pass their test as well.
        label_smoothing: share of each label that is spread over all classes, 0 to 1; by default 0.1 in
            phases that have to prove themselves, as those of plan auto, else none.
        class_weights: balanced, to weigh every class by how rare it is, or none; in Python also a weight for each name.
            By default none; balanced where plan auto meets a class of more than ten times the images of another.
        balanced: draw the images so that every class is seen equally often.
        mixup: alpha of the mixing of two images' activations; 0 for none.
        augment: none, light, crop, standard or digits; auto mirrors photographs and never what has no colours; in
            Python also a function of a PIL image.
        views: augmented variants per image, each computed once; by default 4, 2 or 1, the fewer the more images.
        image_size: network input in pixels; by default what the weights were trained with, and
            128 for images below 96 where plan auto trains.
        download: let torchvision fetch a known data set that is not on this machine.
        group: which images belong together, as those of one patient, so that validation holds out whole groups: a
            column of the manifest, or names for series of files such as patient12_003.png.
        path_column: of a manifest, where its column of paths has another name than path, image, file_name or filename.
        label_column: of a manifest, where its column of labels has another name than label, class or labels.
        images: the folder that the paths of a manifest are relative to; by default that of the manifest.
        skip_unreadable: go on without the images that cannot be read, however many they are.
        seed: decides split, views, new head and order of images.
        device: auto (cuda, else mps, else cpu), cpu, cuda, cuda:N or mps.
        precision: bf16 or fp32, of the frozen part and of what trains; auto takes for each what is faster here.
        workers: threads that decode images; by default one per core that the process may use, at most 16.
        cache: keep activations in the store; without it the frozen part is computed again in every epoch.
        cache_dir: folder of the store; by default $FROSTLINE_CACHE or ~/.cache/frostline.
        cache_budget: most that the store may take, as in 20GB.
        time: most that the fit may take, as in 10m or 1h30m: phases from the last on get fewer epochs, or are left out.
        memory: most that the process may take, as in 4GB: phases from the last on are left out.
        disk: most that the fit may add to the store, as in 2GB; what does not fit is computed again in every epoch.
        refit: in the end solve the head once more on training and validation images together, where the validation
            images were split off and nothing deeper has trained; what is measured stays what it was before.
        report: draw the pictures in plots/ and leave report.html in the run, one page to look at.
        log_to: tensorboard, wandb or mlflow, also several: experiment trackers that get each epoch, the results, the
            options and the pictures.
        quiet: print errors only.
    """

    data: Data | Any
    _: KW_ONLY
    backbone: str | nn.Module | Backbone = "efficientnet-lite0"
    weights: str | Path = "pretrained"
    plan: str | Path | list[Phase] = "auto"
    out: str | Path | None = None
    epochs: int | None = None
    lr: float | None = None
    batch_size: int | None = None
    optimizer: Optimizer | None = None
    momentum: float | None = None
    weight_decay: float | None = None
    schedule: Schedule | None = None
    clip: float | None = None
    loss: LossName | Loss | None = None
    metric: Metric = "loss"
    label_smoothing: float | None = None
    class_weights: Balance | dict[str, float] | None = None
    balanced: bool = False
    mixup: float | None = None
    augment: Preset | Augmentation | Function = "auto"
    views: int | None = None
    image_size: int | None = None
    download: bool = False
    group: str | None = None
    path_column: str | None = None
    label_column: str | None = None
    images: str | Path | None = None
    skip_unreadable: bool = False
    seed: int = 0
    device: str = "auto"
    precision: Precision = "auto"
    workers: int | None = None
    cache: bool = True
    cache_dir: str | Path | None = None
    cache_budget: str = "20GB"
    time: str | None = None
    memory: str | None = None
    disk: str | None = None
    refit: bool = True
    report: bool = True
    log_to: Tool | Sequence[Tool] = ()
    quiet: bool = False

    def __post_init__(self) -> None:
        settings.check(self)
        if not 0 <= self.seed <= LARGEST_SEED:
            raise UsageError(f"seed is {self.seed}; it must be 0 … {LARGEST_SEED}")
        for size in (self.memory, self.disk):
            parse_bytes(size or 0)
        settings.parse_seconds(self.time or "1s")
        Phase("head", **self.of_phases)  # refuses what no phase could be given
        refuse_missing(self.tools)

    @property
    def tools(self) -> Sequence[Tool]:
        """The experiment trackers, one by one."""
        return [self.log_to] if isinstance(self.log_to, str) else self.log_to

    @property
    def wanted(self) -> Wanted:
        """What is said here of a manifest."""
        from frostline.data.readers.columns import Wanted  # the package takes a second to import

        return Wanted(self.path_column or "", self.label_column or "", Path(self.images) if self.images else None)

    @property
    def of_phases(self) -> dict[str, Any]:
        """What is said here of every phase that trains."""
        common = {field.name: getattr(self, field.name, None) for field in fields(Phase)}
        return {name: value for name, value in common.items() if value is not None}
