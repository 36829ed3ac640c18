"""The program of docs/how-to/deploy.md answers like the run where there is neither Frostline nor PyTorch."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import frostline
from conftest import TINY_FIT, draw, write_photos

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "deploy.md"
HERE = ("onnxruntime", "Pillow")  # what the page says is needed


def with_needs(names: tuple[str, ...]) -> set[str]:
    """These packages and those that they need."""
    found, queue = set(), list(names)
    while queue:
        name = queue.pop()
        if name not in found:
            found.add(name)
            needs = [each for each in metadata.requires(name) or [] if "extra ==" not in each]
            queue += [re.split(r"[^\w.-]", each)[0] for each in needs]
    return found


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory):
    """Runs a program where only these packages can be imported, and gives what it printed."""
    packages = tmp_path_factory.mktemp("packages")
    for name in with_needs(HERE):
        distribution = metadata.distribution(name)
        for top in {file.parts[0] for file in distribution.files or () if file.parts[0] != ".."}:
            if not (packages / top).exists():
                (packages / top).symlink_to(str(distribution.locate_file(top)))

    def run(code: str, folder: Path) -> subprocess.CompletedProcess[str]:
        """-S: without the packages of this interpreter."""
        command = [sys.executable, "-S", "-c", code]
        return subprocess.run(command, cwd=folder, env={"PYTHONPATH": str(packages)}, capture_output=True, text=True)

    return run


@pytest.mark.parametrize("name", ["torch", "torchvision", "timm", "frostline", "safetensors", "onnx"])
def test_there_is_nothing_else(elsewhere, tmp_path, name):
    assert f"No module named '{name}'" in elsewhere(f"import {name}", tmp_path).stderr


def program_with(words: str) -> str:
    """The program of the page that has these words."""
    (program,) = (each for each in re.findall(r"```python\n([^`]*)```", PAGE.read_text("utf-8")) if words in each)
    return program


@pytest.mark.long
def test_the_program_answers_like_the_run(elsewhere, tmp_path):
    program = program_with("import onnxruntime\n")
    run = frostline.fit(write_photos(tmp_path / "photos", 10), **TINY_FIT, out=tmp_path / "run", report=False)
    frostline.export_run(run, "onnx", tmp_path / "pets.onnx", quiet=True)
    (tmp_path / "new").mkdir()
    for kind, size in enumerate([(40, 40), (90, 61), (33, 200)]):
        picture = draw(kind, np.random.default_rng(kind), max(size))[: size[0], : size[1]]
        Image.fromarray(picture).save(tmp_path / "new" / "000.png")
        told = elsewhere(program, tmp_path)
        assert told.returncode == 0, told.stderr
        answered = ast.literal_eval(told.stdout)
        (expected,) = frostline.predict(run, [tmp_path / "new" / "000.png"])
        assert list(answered) == ["flat", "tall"]
        assert np.abs(np.array(list(answered.values())) - expected.probabilities).max() < 1e-4
    opening = program_with("has_transparency_data")
    (line,) = (line for line in program.splitlines() if "Image.open" in line)
    deep = np.linspace(0, 65_535, 40 * 50).reshape(40, 50).astype(np.uint16)
    clear = np.dstack([draw(0, np.random.default_rng(0), 40), np.arange(1_600).reshape(40, 40) % 256])
    for pixels in (deep, clear.astype(np.uint8)):
        Image.fromarray(pixels).save(tmp_path / "new" / "000.png")
        told = elsewhere(program.replace(line, opening), tmp_path)
        assert told.returncode == 0, told.stderr
        answered = ast.literal_eval(told.stdout)
        (expected,) = frostline.predict(run, [tmp_path / "new" / "000.png"])
        assert np.abs(np.array(list(answered.values())) - expected.probabilities).max() < 1e-4
