from __future__ import annotations

import pytest
import torch

from architectures import built
from conftest import SIZE, Small, small_model
from frostline.backbones import Backbone, load_backbone
from frostline.errors import UsageError, WeightsError
from frostline.preprocessing import Preprocessing
from frostline.verbs.inspect import inspect
from tasks_data import fitted, halves, several_labels

SMALL = sum(p.numel() for p in small_model().parameters())
SOME = (
    "torchvision:mobilenet_v2",
    "torchvision:resnet50",
    "timm:convnextv2_atto",
    "timm:mobilenetv4_conv_small",
)


def backbone(model: torch.nn.Module) -> Backbone:
    return load_backbone(model, preprocessing=Preprocessing(size=SIZE))


def by_name(about: dict) -> dict[str, dict]:
    return {stage["name"]: stage for stage in about["stages"]}


@pytest.mark.parametrize("name", SOME)
@pytest.mark.long
def test_stages_add_up_to_the_whole_wherever_the_frostline_lies(name):
    model, preprocessing = built(name)
    whole = load_backbone(model, preprocessing=preprocessing)
    names = [stage["name"] for stage in inspect(whole)["stages"]]
    for frostline in names[:: max(1, len(names) - 1)]:
        about = inspect(whole, frostline=frostline)
        stages = about["stages"]
        assert sum(stage["macs"] for stage in stages) == about["total_macs"] > 0
        assert sum(stage["parameters"] for stage in stages) == about["total_parameters"]
        assert sum(stage["trained_parameters"] for stage in stages) == about["trained_parameters"]
        assert about["trained_parameters"] + about["frozen_parameters"] == about["total_parameters"]
        assert about["trained_parameters"] == by_name(about)[frostline]["trains"]
        assert about["stored_bytes"] == by_name(about)[frostline]["stored_bytes"]
        above = names.index(frostline)
        assert [stage["frozen"] for stage in stages] == [True] * above + [False] * (len(stages) - above)
        assert about["trained_macs"] == sum(stage["macs"] for stage in stages[above:])


def test_stages_with_what_they_cost():
    about = inspect(backbone(small_model()))
    stages = by_name(about)
    assert list(stages) == ["stem", "block1", "block2", "pool", "head"]
    assert stages["stem"]["stored_bytes"] == 3 * SIZE * SIZE
    assert stages["block2"]["stored_bytes"] == 2 * 16 * 8 * 8
    assert stages["head"]["parameters"] == stages["head"]["trains"] == 25 * 5
    assert stages["stem"]["trains"] == SMALL
    assert stages["stem"]["macs"] == 16 * 16 * 8 * 3 * 9
    assert stages["block2"]["macs"] == 4 * 4 * 24 * (16 * 9 + 24 * 9 + 16)
    assert stages["pool"]["macs"] == 0
    assert about["untraceable"] == ""
    assert about["frostline"] == "head"
    assert (about["trained_parameters"], about["trained_macs"]) == (25 * 5, 24 * 5)
    assert about["stored_bytes"] == 2 * 24


def test_a_frostline_inside_a_stage_freezes_it_in_part():
    whole = load_backbone("torchvision:resnet18", "none", image_size=64)
    about, right_below = inspect(whole, frostline="layer4.1"), by_name(inspect(whole, frostline="layer4"))
    stages = by_name(about)
    assert [name for name, stage in stages.items() if stage["frozen"]] == ["stem", "layer1", "layer2", "layer3"]
    upper_block = 2 * 512 * 512 * 9 + 4 * 512
    assert stages["layer4"]["trained_parameters"] == upper_block < stages["layer4"]["parameters"]
    assert stages["layer4"]["trains"] == about["trained_parameters"] == upper_block + 513 * 1000
    assert stages["layer4"]["stored_bytes"] == about["stored_bytes"] == 2 * 512 * 2 * 2
    assert about["trained_macs"] == 2 * 512 * 512 * 9 * 2 * 2 + 512 * 1000
    for name in stages.keys() - {"layer4"}:
        assert stages[name]["trains"] == right_below[name]["trains"]
        assert stages[name]["stored_bytes"] == right_below[name]["stored_bytes"]


@pytest.mark.parametrize(
    ("glob", "name"), [("block*", "block1"), ("block[2-9]", "block2"), ("block2.*", "block2.conv1")]
)
def test_a_glob_is_the_frostline_that_it_means(glob, name):
    assert inspect(backbone(small_model()), frostline=glob) == inspect(backbone(small_model()), frostline=name)


def test_a_glob_of_nothing_names_the_nearest():
    with pytest.raises(UsageError, match=r"unknown stage 'blok\*'; nearest: .*block"):
        inspect(backbone(small_model()), frostline="blok*")


def test_a_stage_without_parameters_is_frozen_by_where_it_lies():
    assert by_name(inspect(backbone(small_model())))["pool"]["frozen"]
    assert not by_name(inspect(backbone(small_model()), frostline="pool"))["pool"]["frozen"]
    assert not by_name(inspect(backbone(small_model()), frostline="block2"))["pool"]["frozen"]


class Untraceable(Small):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x if x.sum() > 1e9 else x * 1.0)


@pytest.mark.parametrize(("frostline", "trained"), [("stem", SMALL), ("head", 25 * 5)])
def test_an_untraceable_network_has_two_stages(frostline, trained):
    about = inspect(backbone(Untraceable()), frostline=frostline)
    stem, head = about["stages"]
    assert about["untraceable"]
    assert about["cuts"] == 2
    assert (stem["name"], stem["output_shape"], stem["stored_bytes"]) == ("stem", [24], 3 * SIZE * SIZE)
    assert (head["name"], head["output_shape"], head["stored_bytes"]) == ("head", [5], 2 * 24)
    assert (stem["frozen"], head["frozen"]) == (frostline == "head", False)
    assert about["trained_parameters"] == trained
    assert head["macs"] == 24 * 5
    assert about["total_macs"] == inspect(backbone(small_model()))["total_macs"]


@pytest.mark.parametrize("kind", [Small, Untraceable])
def test_an_unknown_frostline_names_the_nearest(kind):
    with pytest.raises(UsageError, match=r"unknown stage 'heads'; nearest: .*head"):
        inspect(backbone(kind()), frostline="heads")


@pytest.mark.parametrize("kind", [Small, Untraceable])
@pytest.mark.parametrize("frostline", ["stem", "head"])
def test_the_layers_of_your_own_network_add_up(kind, frostline):
    about = inspect(backbone(kind()), frostline=frostline, layers=True)
    assert [layer["name"] for layer in about["layers"]][:2] == ["conv", "norm"]
    assert [layer["kind"] for layer in about["layers"]][-2:] == ["Dropout", "Linear"]
    for key in ("parameters", "trained_parameters", "macs"):
        assert sum(layer[key] for layer in about["layers"]) == about[key if key[0] == "t" else f"total_{key}"]
    head = about["layers"][-1]
    assert (head["output_shape"], head["output_bytes"], head["parameter_bytes"]) == ([5], 20, 4 * 125)


def test_a_bare_module_is_inspected():
    model = small_model()
    about = inspect(model, image_size=SIZE)
    assert (about["backbone"], about["total_parameters"]) == ("Small", sum(p.numel() for p in model.parameters()))
    assert "layers" not in about


@pytest.mark.parametrize("make", [several_labels, halves])
def test_a_run_of_every_task_is_inspected(make, tmp_path, no_pictures):
    run = fitted(tmp_path, make())
    about = inspect(run, layers=True, model=small_model())
    assert about["frostline"] == "block2"
    assert about["stages"][-1]["output_shape"][0] == len(run.classes)
    assert sum(layer["parameters"] for layer in about["layers"]) == about["total_parameters"]
    assert inspect(str(run.path), model=small_model())["stages"] == about["stages"]
    alone = inspect(run.path / "model", frostline="block2", model=small_model())
    assert alone["stages"] == about["stages"]
    assert inspect(run.path / "model", model=small_model())["frostline"] == "head"
    with pytest.raises(WeightsError, match="fitted with your own Small"):
        inspect(run)


def test_the_users_own_network_stays_as_it_was():
    model = small_model()
    model.conv.weight.requires_grad_(False)
    inspect(backbone(model), frostline="block2")
    assert not model.conv.weight.requires_grad
    assert all(p.requires_grad for name, p in model.named_parameters() if name != "conv.weight")


def test_with_data_every_phase_shows_its_options_and_the_choice(photos, tmp_path):
    about = inspect(backbone(small_model()), data=photos, plan="gradual", store=tmp_path / "cache")
    assert about["images"] == {"train": 32, "valid": 8}
    assert [phase["frostline"] for phase in about["storing"]] == ["head", "block2", "block1"]
    for phase in about["storing"]:
        *kept, nothing = phase["options"]
        assert (nothing["at"], nothing["bytes"]) == (None, 0)
        assert kept[-1]["at"] == phase["frostline"]
        assert phase["stored_at"] in [option["at"] for option in phase["options"]]
        assert phase["decode"] > 0
        assert all(option["seconds"] == pytest.approx(option["once"] + option["again"]) for option in phase["options"])


def test_a_small_budget_shows_in_what_fits(photos, tmp_path):
    about = inspect(backbone(small_model()), data=photos, plan="probe", store=tmp_path, cache_budget="10B")
    (phase,) = about["storing"]
    assert phase["stored_at"] is None
    assert not any(option["fits"] for option in phase["options"][:-1])
    assert "budget" in phase["reason"]
