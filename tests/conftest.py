from __future__ import annotations

import gzip
import importlib.machinery
import logging
import os
import shutil
import sys
import tempfile
import types
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import settings
from PIL import Image
from torch import nn

import frostline
from frostline.backbones import Backbone, load_backbone
from frostline.data.images import Images, ImageSet
from frostline.fitting.options import Options
from frostline.fitting.setup import prepare
from frostline.machine import find_machine
from frostline.plan import Phase
from frostline.preprocessing import Preprocessing

SIZE = 32

TINY_FIT = {"backbone": "timm:test_resnet", "weights": "none", "plan": "probe", "quiet": True}

settings.register_profile("short", max_examples=25)


def pytest_configure(config: pytest.Config) -> None:
    """The default suite tries fewer examples of each law; `make test-long` and a single test try hypothesis' 100."""
    if config.getoption("markexpr") == "not long":
        settings.load_profile("short")


if not hasattr(os, "mkfifo"):  # Windows has no such files
    os.mkfifo = lambda *_: pytest.skip("no pipes in folders here")

logging.getLogger("torch.__trace").setLevel(logging.ERROR)  # pytest would record each of 100,000 steps of an export

if "PYTEST_XDIST_WORKER" in os.environ:  # one process per core: more threads would only wait for each other
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No test sees what another one stored."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("FROSTLINE_CACHE", str(folder))
    return folder


@pytest.fixture(autouse=True)
def on_the_processor(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is not about accelerators gives the same on a machine that has one."""
    if request.path.stem != "test_gpu":
        monkeypatch.setattr("torch.cuda.is_available", lambda: False)
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")


@pytest.fixture
def reports() -> None:
    """Ask for it where a fit is to leave its page."""


@pytest.fixture(autouse=True)
def few_reports(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """No pages but where they are asked for: gathering one takes as long as the fit of a small network."""
    if "reports" not in request.fixturenames:
        monkeypatch.setattr("frostline.fitting.finish._gathered", lambda *_: {})
        monkeypatch.setattr("frostline.fitting.finish._found", lambda *_: {})
        monkeypatch.setattr("frostline.fitting.finish._write_page", lambda *_: None)


@pytest.fixture
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs without plots, which take longer than training a small network."""
    for name in ("draw_curves", "draw_confusion", "draw_shots"):
        monkeypatch.setattr(f"frostline.report.gallery.{name}", lambda *_: None)


@pytest.fixture(scope="session")
def shared() -> Path:
    folder = Path(os.environ.get("FROSTLINE_SHARED", Path(__file__).parents[2] / "shared"))
    if not (folder / "data").is_dir():
        pytest.skip(f"no shared data at {folder}: set FROSTLINE_SHARED")
    return folder


def draw(kind: int, chance: np.random.Generator, size: int = 40) -> np.ndarray:
    """A noisy colour picture of a class: horizontal, vertical or no stripes, each in a colour of its own."""
    picture = chance.integers(0, 90, (size, size, 3))
    stripes = (np.arange(size) // 5) % 2 * 120
    picture[..., kind % 3] += stripes[:, None] if kind == 0 else stripes[None, :] if kind == 1 else 60
    return picture.clip(0, 255).astype(np.uint8)


def draw_images(count: int, kinds: int = 3, seed: int = 0) -> Images:
    chance = np.random.default_rng(seed)
    targets = np.arange(count) % kinds
    pictures = np.stack([draw(int(kind), chance) for kind in targets])
    return Images(pictures, targets.astype(np.int64), [f"picture-{i}" for i in range(count)])


class Counted(Sequence[np.ndarray]):
    """Pictures that count how often one of them is asked for."""

    def __init__(self, count: int) -> None:
        self.count, self.asked = count, 0

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, number: int) -> np.ndarray:
        self.asked += 1
        return draw(number % 2, np.random.default_rng(number))


@pytest.fixture(scope="session")
def stripes() -> ImageSet:
    return ImageSet(
        "stripes", ("flat", "tall", "plain"), draw_images(48), draw_images(24, seed=1), draw_images(24, seed=2)
    )


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder of class folders: 20 pictures a class, two classes, without splits."""
    return write_photos(tmp_path / "photos", 20)


def write_photos(root: Path, count: int, classes: tuple[str, ...] = ("flat", "tall"), seed: int = 3) -> Path:
    chance = np.random.default_rng(seed)
    for kind, name in enumerate(classes):
        (root / name).mkdir(parents=True)
        for i in range(count):
            Image.fromarray(draw(kind, chance)).save(root / name / f"{i:03}.png")
    return root


def write_idx(file: Path, array: np.ndarray) -> None:
    """An array of uint8 or int32 in the format of MNIST, packed if the name ends in .gz."""
    kind = {"uint8": 8, "int32": 12}[array.dtype.name]
    head = bytes([0, 0, kind, array.ndim]) + np.array(array.shape, ">i4").tobytes()
    file.parent.mkdir(parents=True, exist_ok=True)
    content = head + array.astype(array.dtype.newbyteorder(">")).tobytes()
    file.write_bytes(gzip.compress(content, 1) if file.suffix == ".gz" else content)


class Small(nn.Module):
    """A residual network with BatchNorm, dropout in the middle and before its head: 6 k parameters."""

    def __init__(self, classes: int = 5) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, 2, 1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.relu = nn.ReLU(inplace=True)
        self.block1 = Block(8, 16)
        self.block2 = Block(16, 24)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.drop = nn.Dropout(0.2)
        self.head = nn.Linear(24, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.relu(self.norm(self.conv(x)))
        x = self.block2(self.block1(x))
        return self.head(self.drop(torch.flatten(self.pool(x), 1)))


class Block(nn.Module):
    def __init__(self, inside: int, outside: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inside, outside, 3, 2, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(outside)
        self.drop = nn.Dropout2d(0.1)
        self.conv2 = nn.Conv2d(outside, outside, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(outside)
        self.down = nn.Conv2d(inside, outside, 1, 2, bias=False)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.drop(self.relu(self.norm1(self.conv1(x))))
        return self.relu(self.norm2(self.conv2(y)) + self.down(x))


def small_model(seed: int = 0) -> Small:
    """A Small whose BatchNorm statistics and weights are as unlike their initial values as a pretrained one's."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = Small()
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.normal_(module.bias, std=0.2)
                nn.init.normal_(module.running_mean, std=0.2)
                nn.init.uniform_(module.running_var, 0.5, 1.5)
    return model.eval()


def small_backbone() -> Backbone:
    return load_backbone(small_model(), preprocessing=Preprocessing(size=SIZE, resize=36))


@pytest.fixture
def small() -> Backbone:
    return small_backbone()


@pytest.fixture(scope="session")
def fp32():
    return find_machine("cpu", "fp32", 2)


def state_of(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def assert_same_state(before: dict[str, torch.Tensor], module: nn.Module) -> None:
    after = module.state_dict()
    assert before.keys() == after.keys()
    changed = [name for name in before if not torch.equal(before[name], after[name])]
    assert changed == []


JOB_PLAN = [Phase("head", epochs=0), Phase("block2", epochs=3, lr=1e-2), Phase("stem", epochs=2, lr=1e-3)]


@pytest.fixture
def job_of(stripes, tmp_path):
    """Jobs on the stripes and a small network, ready to run."""

    def make(name="run", data=stripes, **options):
        usual = {"backbone": small_backbone(), "plan": JOB_PLAN, "precision": "fp32", "quiet": True, "device": "cpu"}
        return prepare(Options(data, out=tmp_path / name, **{**usual, **options}))

    return make


@pytest.fixture
def several_here(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Three small backbones as if their pretrained weights were on this machine; random ones, each time the same."""
    from frostline.backbones import timm
    from frostline.backbones.provenance import Provenance, tensors_sha256

    real = timm.build

    def build(name: str, weights: str) -> tuple[nn.Module, Preprocessing, Provenance]:
        model, preprocessing, _ = real(name, "none")
        about = Provenance(f"{name}.test", "mit", tensors_sha256(model)) if weights == "pretrained" else Provenance()
        return model, preprocessing, about

    here = ["timm:test_resnet", "timm:test_efficientnet", "timm:test_convnext"]
    monkeypatch.setattr(timm, "build", build)
    monkeypatch.setattr("frostline.fitting.choosing.on_this_machine", lambda: list(here))
    return here


@pytest.fixture(scope="session")
def untrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of three classes that can be predicted with; nobody changes it."""
    folder = tmp_path_factory.mktemp("untrained") / "run"
    network = load_backbone("timm:test_resnet", weights="none").network(classes=3)
    frostline.save_run(network, ["flat", "tall", "wide"], folder)
    return folder


@pytest.fixture
def nobodys() -> Iterator[Path]:
    """A folder that everybody may enter and write to, for tests without the rights of root."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o777)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def victim(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """`frostline serve` in a process of its own, with the limits that ship (tests/attacking.py); alive to the end."""
    from attacking import serving

    folder = tmp_path_factory.mktemp("served")
    network = load_backbone("timm:test_resnet", weights="none").network(classes=3)
    frostline.save_run(network, ["flat", "tall", "wide"], folder / "run")
    with serving(folder / "run", folder / "log") as process:
        process.alive()
        yield process
        process.alive()


@pytest.fixture(scope="session")
def browser() -> Iterator:
    webdriver = pytest.importorskip("selenium.webdriver", reason="no selenium: pip install selenium")
    binary, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not binary or not driver:
        pytest.skip("no Chromium with its driver: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=1200,900"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    chrome = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield chrome
    chrome.quit()


@pytest.fixture
def fitted(stripes, tmp_path, monkeypatch) -> Callable[..., Any]:
    """Fits a small network on stripes, in a folder of its own, and gives the run."""
    monkeypatch.chdir(tmp_path)

    def fit(**options: Any) -> frostline.Run:
        plan = [Phase("head", epochs=0), Phase("block2", epochs=3, lr=1e-2, patience=3)]
        usual = {"backbone": small_backbone(), "plan": plan, "precision": "fp32", "device": "cpu"}
        return frostline.fit(stripes, **{**usual, "out": "run", **options})

    return fit


@pytest.fixture
def stand_in(monkeypatch) -> Callable[..., types.ModuleType]:
    """Puts a module of that name and those attributes where a package would be."""

    def put(name: str, **attributes: Any) -> types.ModuleType:
        module = types.ModuleType(name)
        module.__spec__ = importlib.machinery.ModuleSpec(name, None, origin="a test")
        vars(module).update(attributes)
        monkeypatch.setitem(sys.modules, name, module)
        return module

    return put
