"""MODEL_CARD.md as people read it and as the Hub does."""

from __future__ import annotations

import json

import numpy as np
import pytest
import yaml
from huggingface_hub import ModelCard

import frostline
from conftest import Small, draw_images
from frostline.backbones import load_backbone
from frostline.data.images import Images, ImageSet, join
from frostline.report.card import card_of, plain, write_card
from frostline.runs.run import Run
from tasks_data import HOW, probed, several_labels

pytestmark = pytest.mark.usefixtures("no_pictures")


@pytest.fixture(scope="module")
def run(stripes, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("frostline.report.gallery.draw_shots", lambda *_: None)
        copies = stripes.train.take(np.arange(5))
        leaky = stripes.with_splits(
            {"test": join([draw_images(40, seed=5), Images(copies.pictures, copies.targets, "abcde")])}
        )
        return probed(leaky, tmp_path_factory.mktemp("card") / "run")


def test_the_hub_reads_its_figures(run):
    card = ModelCard((run.path / "model" / "MODEL_CARD.md").read_text())
    figures = {result.metric_type: result.metric_value for result in card.data.eval_results}
    for name in ("accuracy", "macro_f1", "loss", "ece"):
        assert figures[name] == pytest.approx(run.metrics["test"][name], abs=1e-6)
    assert (card.data.library_name, card.data.pipeline_tag) == ("frostline", "image-classification")
    assert card.data.license == "unknown"
    assert {result.dataset_split for result in card.data.eval_results} == {"test"}


def test_the_card_of_a_folder_for_the_hub_shows_timm(run):
    text = card_of(run, hub=True)
    card = ModelCard(text)
    assert (card.data.library_name, card.data.tags[-1]) == ("timm", "timm")
    assert {result.metric_type for result in card.data.eval_results} >= {"accuracy", "loss"}
    assert "timm.create_model(" in text
    assert "import frostline" not in text


def test_without_data_the_accuracy_is_unknown(tmp_path, small):
    made = frostline.save_run(small.network(2), ("a", "b"), tmp_path / "run")
    text = card_of(made, hub=True)
    assert "saved without data, so its accuracy is unknown" in text
    assert "## Figures" not in text
    assert ModelCard(text).data.eval_results is None


def test_people_read_figures_with_their_intervals_and_its_limits(run):
    card, own = card_of(run), run.metrics["test"]
    low, high = own["interval"]
    assert f"| {own['accuracy']:.4f} (95 %: {low:.4f} … {high:.4f}) |" in card
    assert "- flat\n- tall\n- plain" in card
    assert "the 24 validation images are those of one solution." in card
    assert "5 of the measured images are also in another split; without them its accuracy is" in card
    assert "images: 48 for training, 24 for validation, 45 for test" in card
    assert "also for images of no known class" in card


def test_a_figure_of_few_images_is_called_rough(run, stripes, tmp_path):
    few = stripes.with_splits({"test": None})
    text = card_of(probed(few, tmp_path / "few"))
    assert "Its accuracy is only roughly known: by 24 images it is between" in text


def test_of_many_classes_some_are_named(tmp_path, run):
    import shutil

    copy = Run(tmp_path / "copy")
    shutil.copytree(run.path, copy.path)
    file = copy.path / "model" / "model.json"
    described = json.loads(file.read_text())
    described["classes"] = [f"class {i}" for i in range(250)]
    file.write_text(json.dumps(described))
    text = card_of(copy)
    assert "- class 199\n- and 50 more\n" in text
    (copy.path / "config.yaml").unlink()
    assert "trained with Frostline on images:" in card_of(copy)


HOSTILE = ["<script>x</script>", "a: b\n- c", "---", "[x](y)", "{{ 1 }}", "|", "`code`", "# title"]


def test_hostile_names_are_text(tmp_path):
    pictures = draw_images(48, seed=1)
    targets = np.arange(48) % 8
    part = Images(pictures.pictures, targets, [f"{HOSTILE[t]} {i}" for i, t in enumerate(targets)])
    run = probed(
        ImageSet("hostile", tuple(HOSTILE), part.take(np.arange(24)), part.take(np.arange(24, 48))), tmp_path / "run"
    )
    card = card_of(run)
    assert "<script>" not in card
    assert "\\<script\\>x\\</script\\>" in card
    head, body = card.split("---\n")[1], card.split("---\n", 2)[2]
    assert yaml.safe_load(head)["model-index"][0]["name"] == "run"
    assert "\n# title" not in body


@pytest.mark.parametrize(
    ("licence", "head"),
    [
        ("Apache-2.0", {"license": "apache-2.0"}),
        ("none", {"license": "unknown"}),
        ("Own-1.0", {"license": "other", "license_name": "Own-1.0"}),
    ],
)
def test_the_licence_is_that_of_the_weights(licence, head, run, tmp_path):
    import shutil

    copy = Run(tmp_path / "copy")
    shutil.copytree(run.path, copy.path)
    file = copy.path / "model" / "model.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "licence": licence}))
    write_card(copy)
    read = yaml.safe_load((copy.path / "model" / "MODEL_CARD.md").read_text().split("---\n")[1])
    assert {key: read[key] for key in read if key.startswith("license")} == head


def test_several_labels_have_a_card_too(tmp_path):
    images = several_labels()
    backbone = load_backbone(Small(len(images.classes)), preprocessing=HOW)
    run = frostline.fit(images, backbone=backbone, plan="probe", out=tmp_path / "run", quiet=True)
    text = card_of(run)
    assert "with several labels per image" in text
    assert "Mean average precision" in text
    assert "predict --coverage" not in text


def test_names_are_escaped():
    assert plain("a_b*c|d") == "a\\_b\\*c\\|d"
