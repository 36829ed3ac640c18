"""Saving a network from your own training loop as a run that everything else can use."""

from __future__ import annotations

import contextlib
import copy
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from frostline import terminal
from frostline.classifier.artifact import load, record_results, save_classifier
from frostline.classifier.classifier import Classifier
from frostline.data.grouping import membership
from frostline.data.images import ImageSet
from frostline.data.targets import targets_of
from frostline.data.unreadable import refuse_too_many
from frostline.data.views import PLAIN
from frostline.errors import UsageError, WeightsError
from frostline.machine import Machine, find_machine, to_device
from frostline.network.network import Network
from frostline.network.plain import is_compiled, other_types, plain_copy
from frostline.report.card import write_card
from frostline.runs.run import Run, create_run, environment, write_config, write_csv, write_json, write_split
from frostline.tasks import NAMES, Outputs, join, task_of
from frostline.tasks.calibration import at_temperature, calibrate


def save_run(
    network: Network,
    classes: Sequence[str],
    out: str | Path,
    *,
    data: ImageSet | None = None,
    task: str = "classification",
    device: str = "auto",
) -> Run:
    """Save a network from your own training loop as a run, for `predict`, `evaluate` and `load`.

        network = frostline.load_backbone().network(classes=len(data.classes))
        ...  # the loop
        run = frostline.save_run(network, data.classes, "runs/own", data=data)

    classes: the names in the order of the network's outputs. out: run folder to create.
    data: the data it was trained on. Its validation images, which the loop must not have trained on, set the
        temperature, as in `fit`, and their figures are written to the run and its card; `evaluate` then recognises
        training images. Test images stay closed.
    task: "multilabel" or "segmentation" for such a network without `data`. device: as in `fit`.

    The network may come from `Backbone.network`, or be a `Network` around your own module, which `load` needs again. It
    also needs the module of a backbone whose layers you have changed, such as a head of several layers. Weights of
    another type, such as bfloat16, are saved as float32, in which a run predicts. A compiled network is saved as the
    one inside. The network itself stays as it is.
    Raises UsageError if the classes differ in number from the network's outputs or differ from those of the data, and
    for a folder that exists.
    """
    names, task = tuple(map(str, classes)), data.task if data is not None else task
    machine = find_machine(device, "fp32")
    network = _plain(network)
    with _evaluating(network.model, machine.device):
        _refuse(network, names, data, task)
        run = create_run(out, "")
        try:
            _write(run, network, names, machine, data, task)
        except BaseException:
            shutil.rmtree(run.path, ignore_errors=True)
            raise
    return run


def _write(
    run: Run, network: Network, names: tuple[str, ...], machine: Machine, data: ImageSet | None, task: str
) -> None:
    temperature = 1.0
    figures: dict[str, Any] = {"valid": None, "calibration": None, "unreadable": []}
    if data is not None:
        plain = Classifier(network.model, names, network.preprocessing, machine, task)
        temperature, figures = _measured(run, plain, data)
    network = _saved(run, network, names, machine, task, temperature)
    write_json(run, "classes.json", list(names))
    write_config(run, {"data": data.origin or data.name} if data is not None else {})
    write_json(run, "environment.json", environment())
    write_json(run, "metrics.json", _metrics(run, network, names, task) | figures)
    if data is None:
        write_csv(run, "split.csv", ("path", "label", "split", "digest"), [])
    else:
        write_card(run)
    record_results(run)


def _saved(
    run: Run, network: Network, names: tuple[str, ...], machine: Machine, task: str, temperature: float
) -> Network:
    """Save the classifier, and load it again to see that it gives the same outputs.

    Returns the network, as one of your own if its backbone alone does not rebuild it.
    """
    save_classifier(run, network, names, machine, task, temperature)
    if ":" not in network.origin.name:  # only you can build your own module again
        return network
    try:
        load(run, machine=machine)
    except WeightsError:
        if task == "segmentation":  # its network ends inside the backbone, so no module of yours is the whole
            raise
        own = Network(network.model, network.preprocessing, leaves=network.leaves)
        own.origin = replace(network.origin, name=type(network.model).__name__)
        save_classifier(run, own, names, machine, task, temperature)
        load(run, network.model, machine)
        terminal.say(
            f"note: the layers are not those of {network.origin.name} with a new {', '.join(network.heads)}, so "
            f'loading the run needs the module: frostline.load("{run.path}", model=network.model)'
        )
        return own
    return network


def _plain(network: Network) -> Network:
    """The network that the run holds, without compiled modules and in float32."""
    model, types = network.model, other_types(network.model)
    if types:
        kinds = ", ".join(sorted(str(kind).removeprefix("torch.") for kind in types))
        terminal.say(f"note: the network has weights of {kinds}; the run has them as float32, and predicts in it")
    if not types and not any(map(is_compiled, model.modules())):
        return network
    plain = copy.copy(network)
    plain.model = plain_copy(model)
    return plain


@contextlib.contextmanager
def _evaluating(model: nn.Module, device: torch.device) -> Iterator[None]:
    """The model in evaluation mode on a device; afterwards it is as it was, so that a training loop may go on."""
    modes = [(module, module.training) for module in model.modules()]
    home = next((parameter.device for parameter in model.parameters()), device)
    to_device(model.eval(), device)
    try:
        yield
    finally:
        model.to(home)
        for module, training in modes:
            module.training = training


def _refuse(network: Network, classes: tuple[str, ...], data: ImageSet | None, task: str) -> None:
    outputs = _outputs(network)
    if not classes or len({*classes}) < len(classes):
        raise UsageError(f"the classes are {', '.join(classes) or '(none)'}; give at least one name, each only once")
    if outputs != len(classes):
        raise UsageError(f"the network has {outputs} outputs, but there are {len(classes)} classes; name each output")
    if data is not None and classes != data.classes:
        raise UsageError(
            f"the classes {', '.join(classes[:5])} are not those of the data, {', '.join(data.classes[:5])}, in their "
            "order; give data.classes"
        )
    if task not in NAMES:
        raise UsageError(f"task is {task!r}; it must be one of {', '.join(NAMES)}")


def _outputs(network: Network) -> int:
    """The number of outputs of a network, from a black image: the loop may have given it another head."""
    size, device = network.preprocessing.size, next(network.model.parameters()).device
    with torch.inference_mode():
        return int(network.model(torch.zeros(1, network.preprocessing.channels, size, size, device=device)).shape[1])


def _measured(run: Run, classifier: Classifier, data: ImageSet) -> tuple[float, dict[str, Any]]:
    """The temperature from the validation images, and the network's figures on them."""
    task, images, parts = task_of(data.task), data.valid, list[Outputs]()
    targets, failed = targets_of(images, PLAIN, classifier.preprocessing), dict[int, str]()
    for numbers, logits, reasons in classifier.logits(images, "measuring"):
        failed |= reasons
        parts.append(task.outputs(logits, targets(torch.tensor(numbers, dtype=torch.int64))))
    bad = [(images.names[i], failed[i]) for i in sorted(failed)]
    refuse_too_many(bad, len(images))
    read, outputs = images.without(failed.keys()), join(parts)
    group = membership(read.names, data.groups)
    calibration = calibrate(outputs, task, group) if data.held_out else None
    temperature = calibration.temperature if calibration else 1.0
    outputs = at_temperature(outputs, temperature, task)
    for split, part in data.distinct.items():
        if split != "test":
            part.digests.all()
    write_split(run, data, data)
    write_csv(run, "predictions.csv", task.columns, task.predictions(read.names, "valid", outputs, data.classes))
    return temperature, {
        "valid": task.metrics(outputs, data.classes, group),
        "validation": data.validation if data.held_out else "training images",
        "calibration": calibration.as_json() if calibration else None,
        "unreadable": [{"path": name, "error": reason} for name, reason in bad],
    }


def _metrics(run: Run, network: Network, classes: tuple[str, ...], task: str) -> dict[str, Any]:
    """The metrics.json of a fit, with what is known of your own loop."""
    origin = network.origin
    return {
        "run": str(run.path),
        "task": task,
        "classes": list(classes),
        "backbone": {
            "name": origin.name,
            "weights": origin.weights,
            "licence": origin.licence,
            "sha256": origin.sha256,
        },
        "phases": [],
        "decisions": [],
        "ended": None,
        "valid": None,
        "test": None,
        "validation": "given",
        "calibration": None,
        "refit": None,
        "chosen_of": 1,
        "checks": {},
        "learning_curve": None,
        "forecast": None,
        "seconds": 0.0,
        "unreadable": [],
    }
