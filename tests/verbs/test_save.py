"""A network of one's own loop as a run: it answers as the network does, and everything else can use it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import frostline
from conftest import SIZE, Small, draw_images, small_backbone, small_model
from frostline.cli import main
from frostline.data.images import ImageSet
from frostline.network.network import Network
from frostline.preprocessing import Preprocessing
from frostline.tasks import task_of
from tasks_data import halves, several_labels


def trained(data: ImageSet, backbone=None) -> Network:
    """A network whose head was trained in a loop that knows nothing of runs."""
    network = (backbone or small_backbone()).network(len(data.classes), task=data.task)
    lower, upper = network.cut("head" if data.task != "segmentation" else network.stage_names()[-1])
    train = frostline.activations(lower, data.train, precision="fp32", cache=False)
    optimizer = torch.optim.Adam([p for p in upper.parameters() if p.requires_grad], lr=0.05)
    task = task_of(data.task)
    for _ in range(15):
        for x, y in train.batches(64):
            loss = next(iter(task.losses.values()))(upper(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    network.model.eval()
    return network


def test_the_run_answers_as_the_network_does(stripes, tmp_path):
    """Stumble 18."""
    network = trained(stripes)
    run = frostline.save_run(network, stripes.classes, tmp_path / "own", data=stripes)
    classifier = frostline.load(run, small_model())
    pixels = torch.from_numpy(np.stack(list(stripes.valid.pictures)))
    assert classifier.score(list(pixels), [stripes.classes[i] for i in stripes.valid.targets]) > 0.6
    assert run.metrics["valid"]["n"] == 24
    assert run.metrics["calibration"]["temperature"] == pytest.approx(classifier.temperature)
    measured = frostline.evaluate(run, stripes, split="valid", model=small_model())
    for name in ("accuracy", "loss", "ece"):
        assert measured[name] == pytest.approx(run.metrics["valid"][name], abs=1e-6), name
    assert "in a custom training loop" in (run.path / "model" / "MODEL_CARD.md").read_text()


def test_images_that_it_was_trained_on_are_told(stripes, tmp_path):
    run = frostline.save_run(trained(stripes), stripes.classes, tmp_path / "own", data=stripes)
    assert frostline.evaluate(run, stripes, split="train", model=small_model())["trained_on"] == 48
    assert len(run.predictions) == 24
    assert {record["split"] for record in run.split} == {"train", "valid", "test"}


def test_without_data_it_is_a_classifier_and_says_nothing_of_its_worth(stripes, tmp_path):
    network = trained(stripes)
    run = frostline.save_run(network, stripes.classes, tmp_path / "own")
    assert run.metrics["valid"] is None
    assert not (run.path / "model" / "MODEL_CARD.md").exists()
    prediction = frostline.predict(run, stripes.valid.pictures[0], model=small_model())[0]
    x = frostline.load(run, small_model()).predict_proba(stripes.valid.pictures[0])
    assert prediction.probability == pytest.approx(float(x.max()))
    assert frostline.evaluate(run, stripes, model=small_model())["n"] == 24


@pytest.mark.parametrize("make", [several_labels, halves])
def test_every_task(make, tmp_path):
    data = make()
    network = trained(data)
    run = frostline.save_run(network, data.classes, tmp_path / "own", data=data)
    assert run.metrics["task"] == data.task
    measured = frostline.evaluate(run, data, split="valid", model=small_model())
    assert measured["loss"] == pytest.approx(run.metrics["valid"]["loss"], abs=1e-5)


def test_a_network_around_a_module_of_ones_own(stripes, tmp_path):
    network = Network(Small(3), Preprocessing(size=SIZE, resize=36))
    run = frostline.save_run(network, stripes.classes, tmp_path / "own", data=stripes)
    assert run.metrics["backbone"]["name"] == "Small"
    assert frostline.load(run, small_model()).classes == stripes.classes


def test_a_named_backbone_needs_nothing_else_and_has_its_provenance(stripes, tmp_path, capsys):
    backbone = frostline.load_backbone("torchvision:mobilenet_v3_small", "none", image_size=32)
    network = backbone.network(3)
    run = frostline.save_run(network, stripes.classes, tmp_path / "own", data=stripes)
    assert frostline.load(run).predict(stripes.valid.pictures[0]).shape == (1,)
    assert run.metrics["backbone"] == {
        "name": "torchvision:mobilenet_v3_small",
        "weights": "none",
        "licence": "none",
        "sha256": None,
    }
    with pytest.raises(SystemExit, match="2"):
        main(["report", str(run.path)])
    assert "your own training loop" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("classes", "words"),
    [
        (("a", "b"), "has 3 outputs, but there are 2 classes"),
        (("a", "a", "b"), "each only once"),
        ((), "give at least one name"),
        (("plain", "tall", "flat"), "not those of the data"),
    ],
)
def test_classes_that_are_not_its_own_are_refused(classes, words, stripes, tmp_path):
    network = small_backbone().network(3)
    with pytest.raises(frostline.FrostlineError, match=words):
        frostline.save_run(network, classes, tmp_path / "own", data=stripes)
    assert not (tmp_path / "own").exists()


def test_outputs_are_those_of_the_head_that_it_has_now(tmp_path):
    network = small_backbone().network(3)
    network.model.head = torch.nn.Sequential(torch.nn.Linear(24, 4))
    with pytest.raises(frostline.errors.UsageError, match="the network has 4 outputs, but there are 3 classes"):
        frostline.save_run(network, ("a", "b", "c"), tmp_path / "own")


def test_a_folder_that_exists_and_a_task_that_is_none_are_refused(stripes, tmp_path):
    network = small_backbone().network(3)
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "kept.txt").write_text("mine")
    with pytest.raises(frostline.FrostlineError, match="already exists"):
        frostline.save_run(network, stripes.classes, tmp_path / "own")
    assert (tmp_path / "own" / "kept.txt").read_text() == "mine"
    with pytest.raises(frostline.FrostlineError, match="task is 'detection'"):
        frostline.save_run(network, stripes.classes, tmp_path / "other", task="detection")


def test_nothing_is_left_where_the_images_cannot_be_read(tmp_path):
    gone = frostline.Images([tmp_path / f"{i}.png" for i in range(30)], np.arange(30) % 3, [str(i) for i in range(30)])
    data = ImageSet("gone", ("a", "b", "c"), draw_images(12), gone)
    with pytest.raises(frostline.FrostlineError, match="cannot be read"):
        frostline.save_run(small_backbone().network(3), data.classes, tmp_path / "own", data=data)
    assert not (tmp_path / "own").exists()


def test_the_loop_goes_on_as_before(stripes, tmp_path):
    """Dropout and BatchNorm would have been off from the first save on."""
    network = trained(stripes)
    network.model.train()
    frozen = next(module for module in network.model.modules() if isinstance(module, torch.nn.BatchNorm2d)).eval()
    frostline.save_run(network, stripes.classes, tmp_path / "own", data=stripes)
    assert network.model.training
    assert not frozen.training


def test_the_outputs_of_a_network_that_cannot_be_traced_are_counted(tmp_path):
    class Branching(Small):
        def forward(self, x):
            return super().forward(x if x.sum() > -1e9 else -x)

    network = Network(Branching().eval(), Preprocessing(size=SIZE))
    assert network.trace is None
    with pytest.raises(frostline.errors.UsageError, match="the network has 5 outputs, but there are 3 classes"):
        frostline.save_run(network, ("a", "b", "c"), tmp_path / "own")
    assert not (tmp_path / "own").exists()


def predicted(network: Network, out, model=None) -> np.ndarray:
    """The probabilities of a run of the network, from its files."""
    pictures = [np.random.default_rng(i).integers(0, 256, (40, 50, 3), dtype=np.uint8) for i in range(3)]
    return frostline.load(frostline.save_run(network, ("a", "b", "c"), out), model).predict_proba(pictures)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_weights_of_another_type_are_float32_in_the_run(dtype, tmp_path, capsys):
    network = frostline.load_backbone("torchvision:mobilenet_v3_small", "none", image_size=32).network(3)
    expected = predicted(network, tmp_path / "plain")
    assert "note" not in capsys.readouterr().err
    network.model.to(dtype)
    assert np.allclose(predicted(network, tmp_path / "own"), expected, atol=0.01)
    assert f"weights of {str(dtype)[6:]}; the run has them as float32" in capsys.readouterr().err
    assert {parameter.dtype for parameter in network.model.parameters()} == {dtype}  # the loop may go on


@pytest.mark.parametrize("inner", [False, True])
def test_a_compiled_network_is_saved_as_the_one_inside(inner, tmp_path):
    network = frostline.load_backbone("torchvision:mobilenet_v3_small", "none", image_size=32).network(3)
    expected = predicted(network, tmp_path / "plain")
    if inner:
        network.model.features = torch.compile(network.model.features, backend="eager")
    else:
        network.model = torch.compile(network.model, backend="eager")
    assert np.array_equal(predicted(network, tmp_path / "own"), expected)
    around = Network(torch.compile(Small(3), backend="eager"), Preprocessing(size=SIZE))
    assert predicted(around, tmp_path / "around", torch.compile(small_model(), backend="eager")).shape == (3, 3)


def test_a_head_of_several_layers_needs_the_module_again_and_says_so(stripes, tmp_path, capsys):
    network = frostline.load_backbone("torchvision:mobilenet_v3_small", "none", image_size=32).network(3)
    network.model.classifier[3] = torch.nn.Sequential(torch.nn.Linear(1024, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
    run = frostline.save_run(network, stripes.classes, tmp_path / "own", data=stripes)
    told = f'loading the run needs the module: frostline.load("{run.path}", model=network.model)'
    assert told in capsys.readouterr().err
    assert run.metrics["backbone"]["name"] == "MobileNetV3"
    measured = frostline.evaluate(run, stripes, split="valid", model=network.model)
    assert measured["loss"] == pytest.approx(run.metrics["valid"]["loss"], abs=1e-5)
    with pytest.raises(frostline.errors.WeightsError, match=r"your own MobileNetV3; pass it: frostline\.load"):
        frostline.load(run)
    other = frostline.load_backbone("torchvision:mobilenet_v3_small", "none", image_size=32).model
    with pytest.raises(
        frostline.errors.WeightsError, match="model= must have the layers of the network that was saved"
    ):
        frostline.load(run, other)
