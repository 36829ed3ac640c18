"""The files of a classifier: what is written loads, and what was changed since does not."""

from __future__ import annotations

import json
import re
import shutil
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn

import frostline
from conftest import SIZE, TINY_FIT, Small, draw_images, small_model, write_photos
from frostline.backbones import load_backbone
from frostline.classifier.artifact import golden_pictures
from frostline.cli import main
from frostline.errors import WeightsError
from frostline.files import sha256_of, write_tensors
from frostline.plan import Phase
from frostline.preprocessing import Preprocessing
from frostline.runs.run import Run

HOW = Preprocessing(size=SIZE, resize=36)


@pytest.fixture
def copied(run, tmp_path) -> Run:
    """A run that may be changed."""
    shutil.copytree(run.path, tmp_path / "run")
    return Run(tmp_path / "run")


def describe(run: Run, **values: Any) -> None:
    """Change model.json."""
    (run.path / "model" / "model.json").write_text(json.dumps({**described(run), **values}))


def described(run: Run) -> dict[str, Any]:
    return json.loads((run.path / "model" / "model.json").read_text())


@pytest.mark.parametrize("task", ["classification", "multilabel", "segmentation"])
def test_what_is_saved_loads_with_the_same_weights(task, run, labelled, segmented):
    run = {"classification": run, "multilabel": labelled, "segmentation": segmented}[task]
    assert (described(run)["format"], described(run)["task"]) == (4, task)
    state = load_file(run.path / "model" / "model.safetensors")
    loaded = frostline.load(run, model=small_model())
    assert not loaded.model.training
    assert state.keys() == loaded.model.state_dict().keys()
    assert all(torch.equal(value, loaded.model.state_dict()[name].cpu()) for name, value in state.items())
    own = {name.split(".")[0] for name in state}
    assert own <= {name for name, _ in small_model().named_children()} | {"segmentation"}


def test_your_own_network_has_to_be_given(run):
    with pytest.raises(WeightsError, match="fitted with your own Small; pass it"):
        frostline.load(run)
    with pytest.raises(WeightsError, match="do not fit Small"):
        frostline.load(run, model=torch.nn.Linear(3, 3))


def test_no_photograph_of_anybody_is_in_the_artefact(run, stripes):
    golden = load_file(run.path / "model" / "golden.safetensors")
    assert golden.keys() == {"pictures", "logits", "names"}
    assert torch.equal(golden["pictures"], golden_pictures())
    assert not any(np.array_equal(picture, other) for picture in golden["pictures"] for other in stripes.valid.pictures)
    card = (run.path / "model" / "MODEL_CARD.md").read_text()
    assert "synthetic pictures made from a seed" in card
    assert "This folder has no image of the data set" in card


@pytest.mark.parametrize("task", ["classification", "multilabel", "segmentation"])
def test_golden_logits_are_reproduced_by_the_way_that_predictions_go(task, run, labelled, segmented):
    run = {"classification": run, "multilabel": labelled, "segmentation": segmented}[task]
    classifier = frostline.load(run, model=small_model())
    golden = load_file(run.path / "model" / "golden.safetensors")
    assert len(golden["logits"]) == len(golden["pictures"]) == 4
    if task == "classification":
        for prediction, logits in zip(classifier.predictions(golden["pictures"]), golden["logits"], strict=True):
            expected = dict(zip(classifier.classes, logits.softmax(0).tolist(), strict=True))
            assert dict(prediction.top) == pytest.approx(expected, abs=1e-4)


def test_golden_pictures_are_always_the_same():
    assert torch.equal(golden_pictures(), golden_pictures())
    assert golden_pictures().shape == (4, 96, 128, 3)
    assert golden_pictures(1).shape == (4, 96, 128, 1)
    assert golden_pictures().double().std() > 25


CHANGES = {
    "mean": {"mean": [0.5, 0.5, 0.5]},
    "mean, a little": {"mean": [0.495, 0.466, 0.416]},
    "std, two exchanged": {"std": [0.224, 0.229, 0.225]},
    "interpolation": {"interpolation": "bicubic"},
    "resize": {"resize": 40},
    "crop": {"crop": "squash"},
}


@pytest.mark.parametrize("change", CHANGES)
def test_changed_preprocessing_is_noticed(change, copied):
    describe(copied, preprocessing={**described(copied)["preprocessing"], **CHANGES[change]})
    with pytest.raises(WeightsError, match="gives other outputs than when it was written"):
        frostline.load(copied, model=small_model())


def test_another_temperature_is_noticed(copied):
    describe(copied, temperature=described(copied)["temperature"] * 1.01)
    with pytest.raises(WeightsError, match="Its preprocessing or temperature in model.json"):
        frostline.load(copied, model=small_model())


def test_a_mismatch_is_said_in_figures(copied):
    """A temperature that is 2 % higher lowers all logits by 2 %."""
    describe(copied, temperature=described(copied)["temperature"] * 1.02)
    with pytest.raises(WeightsError) as raised:
        frostline.load(copied, model=small_model())
    golden = load_file(copied.path / "model" / "golden.safetensors")["logits"]
    expected = 100 * float(golden.abs().max()) * (1 - 1 / 1.02) / float(golden.std())
    said = re.search(r"by up to ([\d.]+) % of their spread, and at most 0.2 % is rounding", str(raised.value))
    assert said
    assert float(said[1]) == pytest.approx(expected, rel=0.02)


def test_the_description_has_figures_and_provenance(run):
    found, metrics = described(run), run.metrics
    assert found["metrics"].keys() == {"valid", "test"}
    assert found["metrics"]["valid"]["accuracy"] == metrics["valid"]["accuracy"]
    assert found["metrics"]["valid"]["interval"] == metrics["valid"]["interval"]
    assert "per_class" not in found["metrics"]["valid"]
    made = found["provenance"]
    assert made["images"] == {
        split: sum(r["split"] == split for r in run.split) for split in ("train", "valid", "test")
    }
    assert made["split_sha256"] == sha256_of(run.path / "split.csv")
    assert {"frostline", "torch"} <= made["packages"].keys()
    assert not any(record["path"] in json.dumps(found) for record in run.split)  # names of images are private


@pytest.mark.parametrize("name", ["model", "pets"])
def test_the_folder_of_the_classifier_is_enough(name, run, tmp_path):
    shutil.copytree(run.path / "model", tmp_path / name)
    pictures = list(draw_images(5, seed=3).pictures)
    alone, whole = (frostline.load(each, model=small_model()) for each in (tmp_path / name, run))
    assert np.array_equal(alone.predict_proba(pictures), whole.predict_proba(pictures))


def test_a_temperature_that_cannot_be_is_refused(copied):
    describe(copied, temperature=-1)
    with pytest.raises(WeightsError, match="cannot be used, its temperature is not a number above 0"):
        frostline.load(copied, model=small_model())


def test_classes_in_another_order_are_noticed(copied):
    describe(copied, classes=described(copied)["classes"][::-1])
    with pytest.raises(WeightsError, match="classes in model.json, or their order, have changed"):
        frostline.load(copied, model=small_model())


def test_other_code_and_another_number_of_classes_are_noticed(copied):
    class Changed(Small):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x * 1.05)

    with pytest.raises(WeightsError, match="the code of its network, has changed"):
        frostline.load(copied, model=Changed())
    describe(copied, classes=["flat", "tall"])
    with pytest.raises(WeightsError, match="do not fit Small"):
        frostline.load(copied, model=small_model())


@pytest.mark.parametrize("name", ["model.safetensors", "golden.safetensors"])
def test_a_flipped_bit_is_noticed(name, copied):
    file = copied.path / "model" / name
    content = bytearray(file.read_bytes())
    content[-7] ^= 1
    file.write_bytes(content)
    with pytest.raises(WeightsError, match=f"{name} differs from the file that was written"):
        frostline.load(copied, model=small_model())


@pytest.mark.parametrize("name", ["model.safetensors", "golden.safetensors"])
def test_a_missing_file_is_noticed(name, copied):
    (copied.path / "model" / name).unlink()
    with pytest.raises(WeightsError, match=f"{name} cannot be read"):
        frostline.load(copied, model=small_model())


@pytest.mark.parametrize("name", ["model.safetensors", "golden.safetensors"])
@pytest.mark.parametrize("deleted", [True, False])
def test_a_file_that_is_no_longer_listed_is_noticed(name, deleted, copied):
    """Without its golden examples another preprocessing would go unnoticed."""
    files = described(copied)["files"]
    del files[name]
    describe(copied, files=files)
    if deleted:
        (copied.path / "model" / name).unlink()
    for read in (frostline.load, frostline.inspect):
        with pytest.raises(WeightsError, match=f"has no SHA-256 of {name}, which every classifier needs"):
            read(copied, model=small_model())


def test_weights_that_were_exchanged_with_their_digest_are_noticed(copied):
    """Whoever mends the digest too is still told: the golden logits are of the old weights."""
    file = copied.path / "model" / "model.safetensors"
    state = load_file(file)
    state["conv.weight"] = state["conv.weight"] * 1.05
    save_file(state, file)
    describe(copied, files={**described(copied)["files"], file.name: sha256_of(file)})
    with pytest.raises(WeightsError, match="gives other outputs"):
        frostline.load(copied, model=small_model())


def test_the_card_may_be_edited(copied):
    (copied.path / "model" / "MODEL_CARD.md").write_text("# My own words")
    frostline.load(copied, model=small_model())


def test_the_command_line_ends_with_4(tmp_path, stripes, no_pictures, capsys):
    backbone = load_backbone("timm:test_resnet", "none", image_size=64)
    run = frostline.fit(stripes, backbone=backbone, plan="probe", out=tmp_path / "run", quiet=True)
    frostline.load(run)
    describe(run, preprocessing={**described(run)["preprocessing"], "mean": [0.1, 0.2, 0.3]})
    with pytest.raises(SystemExit) as end:
        main(["predict", str(run.path), "digits"])
    assert end.value.code == 4
    assert "fit again" in capsys.readouterr().err


class Dice(nn.Module):
    """A network that gives other outputs each time."""

    def __init__(self) -> None:
        super().__init__()
        self.small = small_model()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.small(x + 0.1 * torch.randn_like(x))


def test_a_network_that_throws_dice_can_still_be_loaded(tmp_path, stripes, capsys, no_pictures):
    backbone = load_backbone(Dice(), preprocessing=HOW)
    run = frostline.fit(stripes, backbone=backbone, plan="probe", out=tmp_path / "run")
    assert "no golden logits are written" in capsys.readouterr().err
    assert load_file(run.path / "model" / "golden.safetensors").keys() == {"pictures", "names"}
    assert len(list(frostline.load(run, model=Dice()).predictions(draw_images(2).pictures))) == 2


class Tied(nn.Module):
    """Two layers of one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, 2, 1)
        self.first, self.second = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1)
        self.second.weight = self.first.weight
        self.pool, self.flat, self.head = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.second(torch.relu(self.first(torch.relu(self.conv(x)))))
        return self.head(self.flat(self.pool(x)))


def test_tied_weights_are_fitted_saved_and_loaded(tmp_path, stripes, no_pictures):
    phase = Phase("first", epochs=1, views=1, batch_size=16)
    backbone = load_backbone(Tied(), preprocessing=HOW)
    run = frostline.fit(stripes, backbone=backbone, plan=[phase], out=tmp_path / "run", quiet=True)
    state = load_file(run.path / "model" / "model.safetensors")
    assert torch.equal(state["first.weight"], state["second.weight"])
    loaded = frostline.load(run, model=Tied()).model
    assert loaded.first.weight is loaded.second.weight


@pytest.mark.usefixtures("no_pictures")
def test_photographs_are_golden_examples_if_they_are_asked_for(tmp_path):
    photos = write_photos(tmp_path / "photos", 40)
    run = frostline.fit(photos, **TINY_FIT, golden="photographs", out=tmp_path / "run")
    golden = load_file(run.path / "model" / "golden.safetensors")
    own = [golden[name] for name in sorted(golden) if name.startswith("photograph_")]
    assert len(own) == 4
    files = [photos / each["path"] for each in run.split]
    valid = [np.asarray(Image.open(file).convert("RGB")) for file in files]
    assert all(any(np.array_equal(picture, other) for other in valid) for picture in own)
    assert golden["logits"].shape == (8, 2)
    assert "photographs of the data set" in (run.path / "model" / "MODEL_CARD.md").read_text()
    assert frostline.load(run).classes == ("flat", "tall")
    golden["logits"][7] += 1
    write_tensors(run.path / "model" / "golden.safetensors", golden)
    with pytest.raises(WeightsError, match="golden.safetensors differs from the file that was written"):
        frostline.load(run)
    digest = sha256_of(run.path / "model" / "golden.safetensors")
    describe(run, files={**described(run)["files"], "golden.safetensors": digest})
    with pytest.raises(WeightsError, match="gives other outputs than when it was written"):
        frostline.load(run)
