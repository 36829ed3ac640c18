"""One virtual environment a peer, so that no library decides which versions another one runs with."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PEERS = ROOT / "benchmarks" / "peers"
SCRIPTS = {  # of each environment: the script that runs in it, and its requirements under the same name
    "tutorial": "tutorial_loop",
    "fastai": "fastai_learner",
    "lightning": "lightning_finetuning",
    "huggingface": "huggingface_trainer",
    "sklearn": "timm_sklearn",
    "frostline": "frostline",
}
LIST_PACKAGES = (
    "import importlib.metadata as m, json, platform; "
    "print(json.dumps({'python': platform.python_version()} | {d.name.lower(): d.version for d in m.distributions()}))"
)


def interpreter(name: str, folder: Path, given: Mapping[str, Path]) -> Path:
    """The Python of an environment: the given one, else that of `folder`/envs/`name`, which is made if need be."""
    if name in given:
        return given[name]
    home = folder / "envs" / name
    python = home / "bin" / "python"
    wanted = (PEERS / f"{SCRIPTS[name]}.txt").read_text()
    installed = home / "installed.txt"  # written last: an interrupted installation is begun again
    if not installed.is_file() or installed.read_text() != wanted:
        print(f"making the environment of {name}", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(home)], check=True)
        install = [str(python), "-m", "pip", "install", "--quiet", "-r", str(PEERS / f"{SCRIPTS[name]}.txt")]
        subprocess.run(install, check=True, cwd=ROOT)
        installed.write_text(wanted)
    return python


def versions(python: Path) -> dict[str, str]:
    """Of Python and of all packages but CUDA's, which are the same everywhere and used nowhere here."""
    printed = subprocess.run([str(python), "-c", LIST_PACKAGES], check=True, capture_output=True, text=True).stdout
    found: dict[str, str] = json.loads(printed)
    return {name: found[name] for name in sorted(found) if not name.startswith(("nvidia-", "cuda-"))}


def surroundings(folder: Path) -> dict[str, str]:
    """Environment variables for every run: no hub is asked, and compiled bytecode is kept as on a user's machine."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    own = {"HF_HOME": str(folder / "huggingface"), "HF_HUB_OFFLINE": "1", "FROSTLINE_OFFLINE": "1"}
    return kept | own


def machine() -> dict[str, str | int | float]:
    """Model of the processor, cores that this process may use, and memory in GiB."""
    facts = Path("/proc/cpuinfo").read_text() + Path("/proc/meminfo").read_text()
    pairs = [line.partition(":") for line in facts.splitlines()]
    lines = {name.strip(): value.strip() for name, _, value in pairs}
    memory = round(int(lines["MemTotal"].split()[0]) / 2**20, 1)
    return {"cpu": lines.get("model name", "unknown"), "cores": len(os.sched_getaffinity(0)), "memory_gib": memory}
