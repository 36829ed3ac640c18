"""Transfer learning for image models: what is frozen is computed once.

    run = frostline.fit("photos/", backbone="torchvision:resnet50")
    frostline.predict(run, ["new.jpg"])

Names are loaded when they are first used, because torch takes seconds to import.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from frostline.activations import Activations as Activations
    from frostline.activations import activations as activations
    from frostline.backbones import Backbone as Backbone
    from frostline.backbones import backbones as backbones
    from frostline.backbones import load_backbone as load_backbone
    from frostline.classifier import Classifier as Classifier
    from frostline.classifier import load_classifier as load_classifier
    from frostline.classifier import predict as predict
    from frostline.compare import compare as compare
    from frostline.data import Images as Images
    from frostline.data import ImageSet as ImageSet
    from frostline.data import read_data as read_data
    from frostline.data.augment import Augmentation as Augmentation
    from frostline.data.views import Views as Views
    from frostline.errors import FrostlineError as FrostlineError
    from frostline.evaluation import evaluate as evaluate
    from frostline.fit import fit as fit
    from frostline.inspection import inspect as inspect
    from frostline.network import Network as Network
    from frostline.plan import Phase as Phase
    from frostline.preprocessing import Preprocessing as Preprocessing
    from frostline.probe import solve_head as solve_head
    from frostline.run import Run as Run
    from frostline.run import load_run as load_run
    from frostline.store import Cache as Cache
    from frostline.store import default_folder as default_folder
    from frostline.training import Training as Training
    from frostline.training import parameter_groups as parameter_groups

_HOMES = {
    "activations": ("Activations", "activations"),
    "backbones": ("Backbone", "backbones", "load_backbone"),
    "classifier": ("Classifier", "load_classifier", "predict"),
    "compare": ("compare",),
    "data": ("ImageSet", "Images", "read_data"),
    "data.augment": ("Augmentation",),
    "data.views": ("Views",),
    "errors": ("FrostlineError",),
    "evaluation": ("evaluate",),
    "fit": ("fit",),
    "inspection": ("inspect",),
    "network": ("Network",),
    "plan": ("Phase",),
    "preprocessing": ("Preprocessing",),
    "probe": ("solve_head",),
    "run": ("Run", "load_run"),
    "store": ("Cache", "default_folder"),
    "training": ("Training", "parameter_groups"),
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


class _Package(ModuleType):
    """Where a public name and a module are called alike (`fit`), the name stays what people mean by it."""

    def __setattr__(self, name: str, value: object) -> None:
        if not (isinstance(value, ModuleType) and name in _HOME_OF):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
