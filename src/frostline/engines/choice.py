"""What runs a frozen part: torch, or an inference engine where one is installed and faster here.

The frozen part needs no gradients, so anything may compute it that gives the same numbers to tolerance. On the
processor each core works alone on a few images of its own, which it also decodes: nothing waits for anything, and what
is between two layers stays in the cache (64 images at once take two to three times as long).
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib
import importlib.util
import json
import shutil
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from frostline import terminal
from frostline.engines import eager
from frostline.errors import reason
from frostline.files import write_atomically
from frostline.machine import Machine, give_back_freed_memory, threads_kept
from frostline.network.fingerprint import NotCoveredError
from frostline.network.part import Part

TOLERANCES = {"fp32": 1e-3, "bf16": 0.06}  # of the outputs' norm, against fp32 without any change
NEEDS = {"openvino": "openvino", "onnxruntime": "onnxruntime", "compiled": "torch"}  # package of each, best first
USUAL_SECONDS = {"openvino": 3.0, "onnxruntime": 5.0, "compiled": 60.0}  # to build, before it was measured here
WORTH = 20.0  # an engine is tried where the pass would take so many times that
FEW = 500  # images for which nothing is measured
ROUNDS = 3
REMEMBERED = "engines.json"

_latest: dict[object, Engine] = {}  # the one of the last part: several passes in a row are of the same
Run = Callable[[np.ndarray], list[Tensor]]  # (B, size, size, 3) of uint8 -> rows as stored, for each output


@dataclass(frozen=True)
class Engine:
    """Something that runs a frozen part.

    parallel: several threads may call it at once, a core each; else one call takes all there is.
    images: most in one call.
    """

    name: str
    run: Run
    parallel: bool
    images: int


@dataclass(frozen=True)
class Measured:
    """What an engine takes on this machine: seconds to build, images per second of all cores together (0: unusable)."""

    seconds: float
    rate: float


def engine_of(frozen: Part, machine: Machine) -> Engine:
    """Torch as fast as it runs this part here, checked against the part itself; below the first stage, the pictures."""
    images = eager.step(frozen, machine)
    if frozen.is_image:
        return Engine("pictures", lambda pictures: [torch.from_numpy(pictures)], True, images)
    parallel = machine.device.type == "cpu" and bool(frozen.graphs)
    if not frozen.graphs:
        return Engine("torch", eager.plain(frozen, machine), parallel, images)
    key = (_fingerprint(frozen, True), frozen.preprocessing, machine)
    if key not in _latest:
        plain = functools.cache(lambda: eager.plain(frozen, machine))
        slow = Engine("torch", lambda pictures: plain()(pictures), parallel, images)
        fast: Engine | None = None
        if machine.device.type == "cuda":
            fast = _checked(
                "the CUDA graph", functools.partial(_build, "graphs", frozen, machine), slow, frozen, machine
            )
        if fast is None:
            fast = _checked(
                "torch's fast path", lambda: replace(slow, run=eager.cast(frozen, machine)), slow, frozen, machine
            )
        _latest.clear()
        if key[0] is None:  # it cannot be told from others, so it is never taken for another
            return fast or slow
        _latest[key] = fast or slow
    return _latest[key]


def fastest(frozen: Part, machine: Machine, pictures: np.ndarray, count: int, folder: Path | None) -> Engine:
    """The engine that soonest has computed `count` images, its own building included; measured once, then remembered.

    pictures: the first of the images (B, size, size, 3) of uint8. folder: where it is remembered, if anywhere.
    """
    base = engine_of(frozen, machine)
    if not base.parallel or frozen.is_image or not len(pictures) or count < FEW:
        return base
    key, installed = _key(frozen, machine), _installed()
    known = _read(folder, key)
    speed = known[base.name].rate if base.name in known else rate(base, pictures, machine.workers, rounds=1)
    engines = {base.name: base}
    for name in installed:
        if name not in known and count / speed > WORTH * USUAL_SECONDS[name]:
            known.setdefault(base.name, Measured(0.0, rate(base, pictures, machine.workers)))
            started = time.perf_counter()
            built = _checked(name, functools.partial(_build, name, frozen, machine), base, frozen, machine)
            seconds = time.perf_counter() - started
            known[name] = Measured(seconds, rate(built, pictures, machine.workers) if built else 0.0)
            if built and known[name].rate > max(known[other].rate for other in engines):
                engines = {base.name: base, name: built}  # a slower one is not kept: it may be large
            del built
            give_back_freed_memory()
            _write(folder, key, known)
    usable = [name for name in (base.name, *installed) if name in known and known[name].rate]

    def whole(name: str) -> float:
        return (0.0 if name in engines else known[name].seconds) + count / known[name].rate

    best = min(usable, key=whole, default=base.name)
    if best == base.name:
        return base
    engine = engines.get(best) or _checked(
        best, functools.partial(_build, best, frozen, machine), base, frozen, machine
    )
    return replace(engine, run=_or_else(engine, base)) if engine else base


def _installed() -> list[str]:
    there = [name for name, package in NEEDS.items() if importlib.util.find_spec(package)]
    return [name for name in there if name != "compiled" or shutil.which("g++")]


def _build(name: str, frozen: Part, machine: Machine) -> Engine:
    images = eager.step(frozen, machine)
    run: Run = importlib.import_module(f"frostline.engines.{name}").build(frozen, machine, images)
    return Engine(name, run, machine.device.type == "cpu", images)


def _checked(name: str, build: Callable[[], Engine], base: Engine, frozen: Part, machine: Machine) -> Engine | None:
    """What is built, if it gives the numbers of the part itself; None, and a line that says why, if it does not."""
    size = frozen.preprocessing.size
    pictures = np.random.default_rng(0).integers(0, 256, (2, size, size, 3), np.uint8)
    try:
        engine = build()
        right = eager.reference(frozen, machine, pictures)
        error = _difference(engine.run(pictures), right)
        if error <= TOLERANCES[machine.precision] or error <= 1.5 * _difference(base.run(pictures), right):
            return engine
        why = f"its numbers differ by {error:.1%}"
    except Exception as error:
        why = reason(error)
    terminal.say(f"{name} is not used for the frozen part: {why}")
    return None


def _difference(rows: list[Tensor], right: list[Tensor]) -> float:
    """The largest distance of any output, relative to its norm; infinite where one is not finite."""
    pairs = [(got.float(), want.float()) for got, want in zip(rows, right, strict=True)]
    errors = [float((got - want).norm() / want.norm().clamp(min=1e-12)) for got, want in pairs]
    return max(error if error == error else float("inf") for error in errors)


def _or_else(engine: Engine, base: Engine) -> Run:
    """The engine's run, torch's from the first failure on."""
    failed: list[str] = []

    def run(pictures: np.ndarray) -> list[Tensor]:
        if not failed:
            try:
                return engine.run(pictures)
            except Exception as error:
                failed.append(reason(error))
                terminal.say(f"{engine.name} failed ({failed[0]}); torch goes on")
        return base.run(pictures)

    return run


def rate(engine: Engine, pictures: np.ndarray, workers: int, rounds: int = ROUNDS) -> float:
    """Images per second with all cores at work, the best of some rounds after a first one."""
    pictures = np.resize(pictures, (engine.images, *pictures.shape[1:]))
    times = []
    with ThreadPoolExecutor(workers, initializer=alone) as pool, threads_kept():
        for _ in range(rounds + 1):
            started = time.perf_counter()
            list(pool.map(engine.run, [pictures] * workers))
            times.append(time.perf_counter() - started)
    return workers * engine.images / min(times[1:])


def alone() -> None:
    """What a thread does first that runs an engine beside others: keep to one core."""
    torch.set_num_threads(1)


def _fingerprint(frozen: Part, weights: bool) -> str | None:
    try:
        return frozen.fingerprint(weights=weights)
    except NotCoveredError:
        return None


def _key(frozen: Part, machine: Machine) -> str:
    versions = [importlib.util.find_spec(package) is not None for package in NEEDS.values()]
    about = (
        _fingerprint(frozen, False) or repr(frozen),  # it decides the speed only
        frozen.preprocessing.size,
        machine.precision,
        machine.workers,
        torch.__version__,
        versions,
    )
    return hashlib.blake2b(repr(about).encode(), digest_size=16).hexdigest()


def _read(folder: Path | None, key: str) -> dict[str, Measured]:
    try:
        found = json.loads((folder / REMEMBERED).read_text())[key] if folder else {}
        return {name: Measured(**values) for name, values in found.items()}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _write(folder: Path | None, key: str, known: dict[str, Measured]) -> None:
    if folder is None:
        return
    try:
        content = json.loads((folder / REMEMBERED).read_text())
    except (OSError, ValueError):
        content = {}
    content = content if isinstance(content, dict) else {}
    content[key] = {name: asdict(measured) for name, measured in known.items()}
    with contextlib.suppress(OSError):  # a read-only store: it is measured again next time
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / REMEMBERED, json.dumps(content, indent=1).encode())
