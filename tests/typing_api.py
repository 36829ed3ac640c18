"""The public names as somebody else's program uses them. It is checked by mypy and pyright, and never run.

`tests/test_packaging.py` gives it to both, against the installed wheel.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, assert_type

import numpy as np
import torch
from PIL import Image
from torch import nn

import frostline


def commands(photos: Path, network: nn.Module) -> None:
    run = frostline.fit(
        photos, backbone="torchvision:resnet18", plan="gradual", epochs=5, lr=1e-3, log_to="tensorboard"
    )
    assert_type(run, frostline.Run)
    assert_type(run.path, Path)
    assert_type(run.metrics, dict[str, Any])
    assert_type(run.history, list[dict[str, Any]])
    frostline.fit("digits", backbone=network, plan=[frostline.Phase("head", epochs=0)], log_to=["wandb", "mlflow"])
    frostline.fit("digits", loss=nn.functional.cross_entropy, augment=lambda image: image.rotate(5), optimizer="sgd")
    frostline.fit({"train": (np.zeros((4, 8, 8, 3)), [0, 1, 0, 1])}, class_weights={"a": 1.0, "b": 2.0})
    frostline.resume("runs/pets", stop_here=True, workers=2).metrics["valid"]
    frostline.fit("digits", optimizer="lion")  # type: ignore[arg-type]  # and it is told that there is no such word
    assert_type(frostline.compare(photos, backbone=["resnet18", "vgg16"], plan="probe"), list[dict[str, Any]])
    assert_type(frostline.evaluate(run, photos, split="test"), dict[str, Any])
    assert_type(frostline.evaluate_paired(run, "runs/other", photos), dict[str, Any])
    assert_type(frostline.cross_validate(photos, 5, plan="probe"), dict[str, Any])
    for prediction in frostline.predict(run, ["a.jpg", "b.jpg"], coverage=0.95):
        assert_type(prediction.label, str)
        assert_type(prediction.probability, float)
    assert_type(frostline.make_report(run), Path)
    assert_type(frostline.inspect("efficientnet-lite0", layers=True), dict[str, Any])
    assert_type(frostline.make_plan("efficientnet-lite0", epochs=3), list[frostline.Phase])
    assert_type(frostline.list_backbones("timm:vit_*"), list[str])


def a_run(folder: Path) -> float:
    run = frostline.load_run(folder)
    classifier = frostline.load(run)
    assert_type(classifier, frostline.Classifier)
    assert_type(classifier.classes, tuple[str, ...])
    answers = classifier.predict([Image.new("RGB", (8, 8))])
    assert isinstance(answers, np.ndarray)
    return classifier.score(["a.jpg"], ["ant"])


def with_scikit_learn(paths: list[str], labels: list[str]) -> float:
    estimator = frostline.FrostlineClassifier(plan="probe").fit(paths, labels)
    assert_type(estimator, frostline.FrostlineClassifier)
    accuracy: float = estimator.score(paths, labels)  # scikit-learn's own, which says nothing of its types
    return accuracy


def own_loop(folder: str) -> nn.Module:
    data = frostline.read_data(folder, seed=1)
    assert_type(data, frostline.ImageSet)
    assert_type(data.train, frostline.Images)
    assert_type(data.test, frostline.Images | None)
    how = frostline.Preprocessing(size=128, resize=146)
    backbone = frostline.load_backbone(nn.Linear(3, 2), preprocessing=how)
    assert_type(backbone, frostline.Backbone)
    network = backbone.network(len(data.classes))
    assert_type(network, frostline.Network)
    lower, upper = network.cut("layer4")
    views = frostline.Views(count=2, augment=frostline.Augmentation(mirror=True))
    cache = frostline.Cache(frostline.default_folder())
    train = frostline.activations(lower, data.train, views, cache=cache)
    valid = frostline.activations(lower, data.valid, cache=cache)
    assert_type(train, frostline.Activations)
    assert_type(frostline.solve_head(network, upper, train), bool)
    site = frostline.sums(train, data.classes)
    site.save("site.safetensors")
    assert_type(site + frostline.load_sums("site.safetensors"), frostline.Sums)
    assert_type(site.solve(penalty=0.1).weight, torch.Tensor)
    assert_type(frostline.solve_head(network, upper, site), bool)
    optimizer = torch.optim.AdamW(frostline.parameter_groups(network, lr=1e-3, lr_decay=0.5))
    optimizer.zero_grad()
    for epoch in frostline.Training(network, upper, train, valid, frostline.Phase("layer4", epochs=3)):
        assert_type(epoch.valid_loss, float)
    assert_type(frostline.export_run("runs/pets", "onnx", quiet=True), dict[str, Any])
    frostline.serve_run("runs/pets", port=0, device="cpu")
    assert_type(frostline.save_run(network, data.classes, "runs/own", data=data), frostline.Run)
    return network.model


def a_look(folder: str) -> tuple[frostline.Finding, ...]:
    try:
        checks = frostline.check(folder, fix="clean.csv")
    except frostline.FrostlineError as error:
        assert_type(error.exit_code, int)
        raise
    assert_type(checks, frostline.Checks)
    assert_type(frostline.features(folder, part="3/64", views=4), frostline.Features)
    return checks.of("leak")
