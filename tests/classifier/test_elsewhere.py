"""The Python that a card prints gives Frostline's probabilities where Frostline cannot be imported."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torchvision import models

import frostline
from conftest import SIZE, small_model, write_photos
from frostline.backbones import load_backbone
from frostline.classifier.description import read_description
from frostline.classifier.elsewhere import building, script
from frostline.preprocessing import Preprocessing
from frostline.runs.run import Run

OWN = Path(__file__).parents[1] / "conftest.py"
PHOTOS = {"wide": (301, 223), "tall": (97, 160), "large": (2407, 1803)}  # decoded at half its size, or less
RUNNER = """
import io, json, os, sys
from contextlib import redirect_stdout
sys.modules["frostline"] = None  # as where it is not installed
home = os.getcwd()
for folder, code in json.load(open("codes.json")):
    sys.path.insert(0, folder)
    sys.modules.pop("my_code", None)
    os.chdir(folder)
    out = io.StringIO()
    with redirect_stdout(out):
        exec(code, {})
    print(json.dumps(eval(out.getvalue())))
    os.chdir(home)
"""


def draw_photo(file: Path, size: tuple[int, int]) -> Path:
    """A photograph of soft colours."""
    chance = np.random.default_rng(size[0])
    soft = Image.fromarray(chance.integers(0, 256, (6, 8, 3), dtype=np.uint8))
    soft.resize(size, Image.Resampling.BICUBIC).save(file, quality=95)
    return file


def answers(folder: Path, codes: list[tuple[Path, str]]) -> list[dict[str, float]]:
    """What Python prints in those folders, in a process that cannot import Frostline."""
    (folder / "codes.json").write_text(json.dumps([(str(place), code) for place, code in codes]))
    told = subprocess.run([sys.executable, "-c", RUNNER], cwd=folder, capture_output=True, text=True, check=False)
    assert told.returncode == 0, told.stderr
    return [json.loads(line) for line in told.stdout.splitlines()]


def printed(run: Run) -> str:
    """The block of the card that is for those who have no Frostline."""
    card = (run.path / "model" / "MODEL_CARD.md").read_text(encoding="utf-8")
    found = re.search(r"## Use without Frostline\n.*?```python\n(.*?)\n```", card, re.DOTALL)
    assert found
    return found[1]


def features_of_a_mobilenet(folder: Path) -> Path:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        state = models.mobilenet_v3_small().features.state_dict()
    save_file({f"features.{name}": value for name, value in state.items()}, folder / "features.safetensors")
    return folder / "features.safetensors"


BACKBONES = {
    "bundled:efficientnet-lite0": {},
    "torchvision:resnet18": {"weights": "none", "image_size": 64},
    "torchvision:mobilenet_v3_small": {"image_size": 64},  # from a file without its classifier
    "timm:resnet10t": {"weights": "none", "image_size": 64},
    "timm:vit_tiny_patch16_224": {"weights": "none", "image_size": 64},
    "timm:test_convnext": {"weights": "none"},
}


@pytest.mark.long
@pytest.mark.usefixtures("no_pictures")
def test_a_card_gives_the_same_probabilities_for_every_source(tmp_path):
    """Stumble 5."""
    photos = write_photos(tmp_path / "photos", 6)
    codes, expected = [], []
    for number, (backbone, how) in enumerate(BACKBONES.items()):
        given = how if "weights" in how or not how else {**how, "weights": str(features_of_a_mobilenet(tmp_path))}
        out = tmp_path / str(number)
        run = frostline.fit(photos, backbone=backbone, plan="probe", out=out, cache=False, quiet=True, **given)
        for name, size in PHOTOS.items():
            place = tmp_path / f"{number}-{name}"
            shutil.copytree(run.path / "model", place)
            codes.append((place, printed(run)))
            expected.append((size, frostline.load(run).predict_proba(draw_photo(place / "new.jpg", size))[0]))
    for (size, wanted), got, (place, _) in zip(expected, answers(tmp_path, codes), codes, strict=True):
        assert list(got) == ["flat", "tall"]
        tolerance = 1e-3 if size == PHOTOS["large"] else 1e-4
        assert np.abs(wanted - list(got.values())).max() < tolerance, place.name


def test_your_own_class_several_labels_and_a_temperature(run, labelled, tmp_path):
    codes, expected = [], []
    for number, (fitted, temperature, crop) in enumerate(
        [(run, 1.0, "center"), (run, 2.5, "center"), (run, 0.8, "squash"), (labelled, 1.7, "center")]
    ):
        classifier = frostline.load(fitted, model=small_model())
        how = dataclasses.replace(classifier.preprocessing, crop=crop)
        place = tmp_path / str(number)
        shutil.copytree(fitted.path / "model", place)
        (place / "my_code.py").write_text("from conftest_of_mine import Small\n")
        source = OWN.read_text().partition("class Small")[2].partition("\n\n\ndef ")[0]
        (place / "conftest_of_mine.py").write_text(f"import torch\nfrom torch import nn\n\n\nclass Small{source}\n")
        description = dataclasses.replace(read_description(place), temperature=temperature, preprocessing=how)
        codes.append((place, script(description)))
        own = dataclasses.replace(classifier, temperature=temperature, preprocessing=how)
        expected.append(own.predict_proba(draw_photo(place / "new.jpg", (301, 223)))[0])
    for wanted, got in zip(expected, answers(tmp_path, codes), strict=True):
        assert np.allclose(wanted, list(got.values()), atol=1e-4)


def test_a_crop_that_is_larger_than_the_resized_image(run, tmp_path):
    code = json.loads((run.path / "model" / "model.json").read_text())["code"]
    source = OWN.read_text().partition("class Small")[2].partition("\n\n\ndef ")[0]
    codes, expected = [], []
    for crop, resize in (("center", 15), ("center", SIZE - 1), ("squash", 17)):
        for name, size in PHOTOS.items():
            classifier = frostline.load(run, model=small_model())
            how = dataclasses.replace(classifier.preprocessing, crop=crop, resize=resize)
            place = tmp_path / f"{crop}-{resize}-{name}"
            shutil.copytree(run.path / "model", place)
            (place / "my_code.py").write_text(f"import torch\nfrom torch import nn\n\n\nclass Small{source}\n")
            description = dataclasses.replace(read_description(place), preprocessing=how, code=code)
            codes.append((place, script(description)))
            own = dataclasses.replace(classifier, preprocessing=how)
            expected.append(own.predict_proba(draw_photo(place / "new.jpg", size))[0])
    for wanted, got, (place, _) in zip(expected, answers(tmp_path, codes), codes, strict=True):
        assert np.abs(wanted - list(got.values())).max() < 1e-4, place.name


GREY = """
from torch import nn

def Sequential():
    return nn.Sequential(nn.Conv2d(1, 8, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5))
"""


@pytest.mark.usefixtures("no_pictures")
def test_a_network_of_grey_images(tmp_path):
    made: dict[str, Any] = {}
    exec(GREY, made)  # noqa: S102
    backbone = load_backbone(made["Sequential"](), preprocessing=Preprocessing(size=SIZE, resize=36))
    photos = write_photos(tmp_path / "photos", 6)
    run = frostline.fit(photos, backbone=backbone, plan="probe", out=tmp_path / "run", quiet=True)
    place = run.path / "model"
    (place / "my_code.py").write_text(GREY)
    wanted = frostline.load(run, model=made["Sequential"]()).predict_proba(draw_photo(place / "new.jpg", (301, 223)))
    (got,) = answers(tmp_path, [(place, printed(run))])
    assert np.allclose(wanted[0], list(got.values()), atol=1e-5)


def test_the_card_of_your_own_class_says_that_it_is_needed(run):
    card = (run.path / "model" / "MODEL_CARD.md").read_text()
    assert "The code of the class `Small` is needed." in card
    assert "from my_code import Small  # your own class" in printed(run)
    code = json.loads((run.path / "model" / "model.json").read_text())["code"]
    assert "model.head = torch.nn.Linear(in_features=24, out_features=3, bias=True)" in code


def test_masks_say_that_only_frostline_builds_the_network(segmented):
    card = (segmented.path / "model" / "MODEL_CARD.md").read_text()
    assert "which only Frostline builds" in card
    assert "load_state_dict" not in card
    assert read_description(segmented.path / "model").code == ""


def test_layers_of_odd_names():
    network = load_backbone(small_model(), preprocessing=Preprocessing(size=SIZE, resize=36)).network(3)
    network.model.add_module("odd-name", network.model.head)
    network.heads = ("odd-name",)
    code = building("Small", network, 3, "classification")
    assert 'model.set_submodule("odd-name", torch.nn.Linear(in_features=24, out_features=3, bias=True))' in code


def test_a_last_layer_of_a_class_of_its_own_is_made_with_its_network():
    class Own(torch.nn.Linear):
        pass

    network = load_backbone(small_model(), preprocessing=Preprocessing(size=SIZE, resize=36)).network(3)
    network.model.head = Own(24, 3)
    code = building("Small", network, 3, "classification")
    assert code.endswith("model = Small()  # with the arguments of the fit")


def test_the_default_backbone_has_the_name_of_timms_network_that_pads_alike():
    """Stumble 5."""
    network, made = load_backbone("efficientnet-lite0", "none").network(2), {}
    exec(building("bundled:efficientnet-lite0", network, 2, "classification"), made)  # noqa: S102
    made["model"].load_state_dict(network.model.state_dict())
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        torch.testing.assert_close(made["model"].eval()(images), network.model.eval()(images))
