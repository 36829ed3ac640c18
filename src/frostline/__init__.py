"""Transfer learning for image models: what is frozen is computed once.

    run = frostline.fit("photos/", backbone="torchvision:resnet50")
    frostline.predict(run, ["new.jpg"])

Names are loaded when they are first used, because torch takes seconds to import.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from frostline.backbones import Backbone as Backbone
    from frostline.backbones import list_backbones as list_backbones
    from frostline.backbones import load_backbone as load_backbone
    from frostline.checks.findings import Checks as Checks
    from frostline.checks.findings import Finding as Finding
    from frostline.classifier.artifact import load as load
    from frostline.classifier.classifier import Classifier as Classifier
    from frostline.data import Images as Images
    from frostline.data import ImageSet as ImageSet
    from frostline.data import read_data as read_data
    from frostline.data.augment import Augmentation as Augmentation
    from frostline.data.views import Views as Views
    from frostline.errors import FrostlineError as FrostlineError
    from frostline.estimator import FrostlineClassifier as FrostlineClassifier
    from frostline.files import default_folder as default_folder
    from frostline.network.network import Network as Network
    from frostline.plan import Phase as Phase
    from frostline.preprocessing import Preprocessing as Preprocessing
    from frostline.runs.run import Run as Run
    from frostline.runs.run import load_run as load_run
    from frostline.store.activations import Activations as Activations
    from frostline.store.activations import activations as activations
    from frostline.store.shards import Cache as Cache
    from frostline.training.optimizers import parameter_groups as parameter_groups
    from frostline.training.probe import solve_head as solve_head
    from frostline.training.sums import Sums as Sums
    from frostline.training.sums import load_sums as load_sums
    from frostline.training.sums import sums as sums
    from frostline.training.training import Training as Training
    from frostline.verbs.check import check as check
    from frostline.verbs.compare import compare as compare
    from frostline.verbs.cross_validate import cross_validate as cross_validate
    from frostline.verbs.evaluate import evaluate as evaluate
    from frostline.verbs.evaluate import evaluate_paired as evaluate_paired
    from frostline.verbs.export import export_run as export_run
    from frostline.verbs.features import Features as Features
    from frostline.verbs.features import features as features
    from frostline.verbs.fit import fit as fit
    from frostline.verbs.fit import resume as resume
    from frostline.verbs.inspect import inspect as inspect
    from frostline.verbs.plan import make_plan as make_plan
    from frostline.verbs.predict import predict as predict
    from frostline.verbs.report import make_report as make_report
    from frostline.verbs.save import save_run as save_run
    from frostline.verbs.serve import serve_run as serve_run

_HOMES = {
    "backbones": ("Backbone", "list_backbones", "load_backbone"),
    "checks.findings": ("Checks", "Finding"),
    "classifier.artifact": ("load",),
    "classifier.classifier": ("Classifier",),
    "data": ("ImageSet", "Images", "read_data"),
    "data.augment": ("Augmentation",),
    "data.views": ("Views",),
    "errors": ("FrostlineError",),
    "estimator": ("FrostlineClassifier",),
    "files": ("default_folder",),
    "network.network": ("Network",),
    "plan": ("Phase",),
    "preprocessing": ("Preprocessing",),
    "runs.run": ("Run", "load_run"),
    "store.activations": ("Activations", "activations"),
    "store.shards": ("Cache",),
    "training.optimizers": ("parameter_groups",),
    "training.probe": ("solve_head",),
    "training.sums": ("Sums", "load_sums", "sums"),
    "training.training": ("Training",),
    "verbs.check": ("check",),
    "verbs.compare": ("compare",),
    "verbs.cross_validate": ("cross_validate",),
    "verbs.evaluate": ("evaluate", "evaluate_paired"),
    "verbs.export": ("export_run",),
    "verbs.features": ("Features", "features"),
    "verbs.fit": ("fit", "resume"),
    "verbs.inspect": ("inspect",),
    "verbs.plan": ("make_plan",),
    "verbs.predict": ("predict",),
    "verbs.report": ("make_report",),
    "verbs.save": ("save_run",),
    "verbs.serve": ("serve_run",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = sorted(_HOME_OF)


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'frostline' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"frostline.{_HOME_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
