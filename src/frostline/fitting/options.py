"""The options of a fit: the one definition of its signature, its flags, its configuration file and their checks.

This module does not import torch, which takes seconds: `frostline fit --help` needs only this.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from frostline import settings
from frostline.errors import UsageError
from frostline.plan import Optimizer, Phase, Schedule
from frostline.remote import at, is_address, local_folder
from frostline.trackers import Tool, refuse_missing
from frostline.values import parse_bytes

if TYPE_CHECKING:
    from torch import nn

    from frostline.backbones import Backbone
    from frostline.data import Data
    from frostline.data.augment import Augmentation, Function
    from frostline.data.images import ImageSet
    from frostline.data.readers.columns import Wanted
    from frostline.tasks import Loss

AUTO = "auto"  # instead of a backbone's name: the best one on this machine
Precision = Literal["auto", "bf16", "fp32"]
Preset = Literal["auto", "none", "light", "crop", "standard", "digits"]
LossName = Literal["cross-entropy", "focal", "bce", "dice", "cross-entropy+dice"]
Metric = Literal["loss", "accuracy", "balanced_accuracy", "f1", "mean_ap", "mean_iou"]
Balance = Literal["balanced", "none"]
Golden = Literal["drawn", "photographs"]
LARGEST_SEED = 2**63 - 1
# These do not change the result, so an interrupted fit may go on with others.
FREE = ("device", "on", "workers", "cache", "store", "cache_budget", "download", "report", "log_to", "quiet")


@dataclass(frozen=True)
class Options:
    """What to train on which data, and how.

    Args:
        data: a folder of class folders, or of train/ and val/ with class folders; a folder of images/ and masks/; a
            CSV, TSV or JSONL manifest; the name of a known data set (digits, mnist:ROOT); in Python also arrays and
            Datasets.
        backbone: source:name (torchvision:resnet18, timm:vit_tiny_patch16_224); auto tries all whose weights are on
            this machine and takes the best; in Python also an nn.Module.
        weights: pretrained, none, a .safetensors or .pth file, or a name that the source knows (IMAGENET1K_V1).
        plan: auto, probe, gradual, full, or a YAML file of phases as `frostline plan` prints it; in Python also a list
            of Phase.
        out: folder to create for the run; by default runs/DATA-BACKBONE-NUMBER.
        epochs: maximum number of epochs in each phase that trains.
        lr: learning rate of the head, in each phase that trains.
        batch_size: images per step.
        optimizer: adamw, adam or sgd.
        momentum: SGD momentum.
        weight_decay: weight decay, for all trainable parameters except biases and norms.
        schedule: learning rate schedule: cosine, step or constant.
        clip: maximum gradient norm per step; 0 for no limit.
        loss: cross-entropy or focal; bce or focal for several labels; cross-entropy, dice, cross-entropy+dice or focal
            for segmentation; in Python also a function of logits and targets.
        metric: validation metric that picks the best epoch of a phase and decides whether the phase is kept:
            loss, accuracy, balanced_accuracy or f1 (mean over classes); for several labels mean_ap or f1 (over all
            labels); for masks mean_iou. Phases of plan auto must pass their test as well.
        label_smoothing: share of each label that is spread over all classes, 0 to 1; by default 0.1 in
            phases with race: true, as in plan auto, else 0.
        class_weights: balanced weighs each class by its rarity; none weighs all the same; in Python also a weight per
            class name. By default none; balanced if plan auto finds a class with more than ten times the images of
            another.
        balanced: sample images so that each class is seen equally often.
        mixup: mixup alpha, applied to the activations of two images; 0 for none.
        augment: none, light, crop, standard or digits; auto: flip colour photographs horizontally, never flip greyscale
            images; in Python also a function of a PIL image.
        views: augmented views per image, each computed once; by default 4, 2 or 1: fewer for larger data sets.
        image_size: network input in pixels; by default the size that the weights were trained with, or
            128 for images below 96 pixels if plan auto trains.
        download: let torchvision download a known data set that is not on this machine.
        group: which images belong together, e.g. those of one patient, so that validation holds out whole groups: a
            column of the manifest, or names for series of files such as patient12_003.png.
        path_column: the manifest's column of paths, if it is not called path, image, file_name or filename.
        label_column: the manifest's column of labels, if it is not called label, class or labels.
        images: folder that the paths of a manifest are relative to; by default the manifest's own folder.
        skip_unreadable: skip all images that cannot be read, however many.
        seed: random seed of the split, the views, the new head and the order of images.
        device: auto (cuda, else mps, else cpu), cpu, cuda, cuda:N or mps.
        precision: bf16 or fp32, for the frozen part and for training; auto takes the faster one for each.
        on: where passes over images are computed, and what trains if nodes are free: local; ray, the Ray cluster that
            RAY_ADDRESS names, else one on this machine; or ray://HOST:PORT, another one, for the passes only.
        workers: threads that decode images; by default one per core that the process may use, at most 16.
        cache: cache activations in the store; without it the frozen part is recomputed in every epoch.
        store: folder of the store, by default $FROSTLINE_CACHE or ~/.cache/frostline; or the URL of one that several
            machines share (s3://bucket/folder, gs://, az://).
        cache_budget: maximum size of the store on this machine, as in 20GB.
        time: maximum duration of the fit, as in 10m or 1h30m: the last phases get fewer epochs or are left out.
        memory: maximum memory of the process, as in 4GB: the last phases are left out.
        disk: maximum that the fit may add to the store, as in 2GB; what does not fit is recomputed in every epoch.
        refit: at the end solve the head once more on training and validation images together, if validation
            images were split off and nothing deeper has trained; all reported figures are from before.
        golden: pictures in model/ that show on another machine that the classifier still gives the same outputs: drawn
            ones, or photographs too, four of the validation images, which then go wherever the classifier goes.
        report: draw the pictures in plots/ and write report.html, one page to look at.
        log_to: tensorboard, wandb or mlflow; may be given several times: experiment trackers that get each epoch, the
            results, the options and the pictures.
        quiet: print only errors.
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
    on: str = "local"
    workers: int | None = None
    cache: bool = True
    store: str | Path | None = None
    cache_budget: str = "20GB"
    time: str | None = None
    memory: str | None = None
    disk: str | None = None
    refit: bool = True
    golden: Golden = "drawn"
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
        Phase("head", **self.of_phases)  # refuses values that no phase accepts
        refuse_missing(self.tools)
        if is_address(self.images):
            raise UsageError(
                f"images is {self.images}; it must be a local folder: for images in a bucket copy the manifest there, "
                "and give its URL as DATA"
            )
        if is_address(self.store):
            at(str(self.store))  # refuses what is no place for a store

    @property
    def tools(self) -> Sequence[Tool]:
        """The experiment trackers, one by one."""
        return [self.log_to] if isinstance(self.log_to, str) else self.log_to

    @property
    def wanted(self) -> Wanted:
        """The options that describe a manifest."""
        from frostline.data.readers.columns import Wanted  # the package takes a second to import

        return Wanted(self.path_column or "", self.label_column or "", Path(self.images) if self.images else None)

    def read(self) -> ImageSet:
        """The data set; raises DataError like `frostline.data.read_data`."""
        from frostline.data import read_data

        store = local_folder(self.store) if self.cache else None
        return read_data(
            self.data, self.seed, download=self.download, group=self.group, wanted=self.wanted, store=store
        )

    @property
    def of_phases(self) -> dict[str, Any]:
        """The options that apply to every phase that trains."""
        common = {field.name: getattr(self, field.name, None) for field in fields(Phase)}
        return {name: value for name, value in common.items() if value is not None}
