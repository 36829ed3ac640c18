"""The engine that runs a frozen part: torch, or OpenVINO if it is installed and faster.

The frozen part needs no gradients, so any engine may compute it that gives the same numbers within tolerance. On the
processor each core decodes and computes a few images of its own: no core waits for another, and the values between
two layers stay in the processor's cache (64 images at once take two to three times as long).

One engine computes a whole pass. If it fails on the way it raises `EngineError`, and the pass restarts with
`plain_engine`: rows of two engines are never mixed.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.metadata
import importlib.util
import json
import time
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, astuple, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from frostline import terminal
from frostline.engines import eager
from frostline.engines.checking import fault
from frostline.engines.eager import Run
from frostline.errors import MachineError, reason
from frostline.files import write_atomically
from frostline.machine import Machine, bf16_instructions, threads_kept
from frostline.network.fingerprint import NotCoveredError
from frostline.network.part import Part
from frostline.process import cpu_model, give_back_freed_memory

OF_TORCH = ("torch", "plain")  # its engines on any device
OTHERS = ("openvino",)  # modules of this package; each needs the package of its name
USUAL_SECONDS = 1.0  # to build an engine, until this machine is measured: 0.6 to 2
USUAL_SPEEDUP = 1.5  # over torch, until this machine is measured: OpenVINO was 1.1 to 2.4 times as fast
USUAL_SPEEDUP_WITH_AMX = 3.0  # in bf16: 3.4 to 4.3 times
FEW = 300  # images: with fewer, nothing is measured
LONG = 10.0  # seconds: longer passes are worth a careful measurement
ROUNDS = 3
REMEMBERED, CHOSEN = "engines.json", "chosen"
MOST_CHOSEN = 200
MOST = 1e12  # of seconds, images per second and rounds in that file; more is damage


class EngineError(MachineError):
    """An engine failed in the middle of a pass; `plain_engine` cannot fail like that."""


@dataclass(frozen=True)
class Engine:
    """Something that runs a frozen part.

    name: the provenance of the rows. run: pictures (B, size, size, 3) of uint8 -> rows as stored, for each output.
    parallel: several threads may call it at once, one core each; else one call uses the whole device.
    images: maximum per call.
    """

    name: str
    run: Run
    parallel: bool
    images: int


@dataclass(frozen=True)
class Measured:
    """The cost of an engine on this machine: seconds to build, images per second of all cores together (0: unusable).

    rounds: number of timed rounds: a quick measurement is enough for short passes, and repeated for a long one.
    """

    seconds: float
    rate: float
    rounds: int


# Torch's engine for the last part, and a faster one if built: passes in a row often run the same part.
_latest: tuple[object, Engine, Engine | None] | None = None


def engine_of(frozen: Part, machine: Machine) -> Engine:
    """Torch's fastest engine for this part, checked against the part; below the first stage it returns the pictures."""
    global _latest
    if frozen.is_image:
        return Engine("pictures", lambda pictures: [torch.from_numpy(pictures)], True, eager.step(frozen, machine))
    if not frozen.graphs:
        return plain_engine(frozen, machine)
    # An engine's copy of a network shares its hooks' and functions' closures. So the same fingerprint is not enough:
    # the layers must be the same objects.
    layers = tuple(weakref.ref(layer) for layer in frozen.modules() if not any(True for _ in layer.children()))
    key = (_fingerprint(frozen, True), layers, frozen.preprocessing, machine)
    latest = _latest  # read once: another thread may replace it
    if latest and latest[0] == key:
        return latest[1]
    del latest
    release()  # before the next one allocates memory
    engine = _fast_torch(frozen, machine)
    if key[0] is not None:  # a part without a fingerprint is never reused
        _latest = (key, engine, None)
    return engine


def release() -> None:
    """Release the engine that is kept for the next pass, with its copy of the network and its device memory."""
    global _latest
    _latest = None
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def plain_engine(frozen: Part, machine: Machine) -> Engine:
    """Torch with only BatchNorm folded, which always works."""
    parallel = machine.device.type == "cpu" and bool(frozen.graphs)
    return Engine("plain", eager.plain(frozen, machine), parallel, eager.step(frozen, machine))


def _fast_torch(frozen: Part, machine: Machine) -> Engine:
    """A CUDA graph on an NVIDIA device, else torch fused and in one precision; the plain engine if neither is exact."""
    plain = functools.cache(lambda: plain_engine(frozen, machine))

    def cast() -> Engine:
        return Engine("torch", eager.cast(frozen, machine), machine.device.type == "cpu", eager.step(frozen, machine))

    fast: Engine | None = None
    if machine.device.type == "cuda":
        graphs = functools.partial(_build, "graphs", frozen, machine)
        fast = _checked("the CUDA graph", graphs, plain, frozen, machine)
    if fast is None:
        fast = _checked("torch's fast path", cast, plain, frozen, machine)
    return fast or plain()


def fastest(
    frozen: Part, machine: Machine, pictures: np.ndarray, count: int, folder: Path | None, later: int = 0
) -> Engine:
    """The engine that takes least time for `count` images, and `later` more in other passes, including its build.

    The choice is remembered: a pass that was interrupted before its first rows were stored begins with the same one.
    pictures: the first images (B, size, size, 3) of uint8. folder: where measurements are remembered, None for nowhere.
    """
    base = engine_of(frozen, machine)
    count += later
    if not base.parallel or frozen.is_image or not len(pictures):
        return base
    if latest := _built_for(base):
        return latest
    if count < FEW:
        return base
    installed = [name for name in OTHERS if importlib.util.find_spec(name)]
    if not installed:
        return base
    key = _key(frozen, machine)
    before = _chosen(folder).get(f"{key} {count}")
    if before and (engine := engine_named(before, frozen, machine)):
        return engine
    known = _read(folder, key)
    if not (base.name in known and known[base.name].rate):
        known[base.name] = Measured(0.0, rate(base, pictures, machine.workers, 1), 1)
    expected = count / known[base.name].rate
    rounds = ROUNDS if expected > LONG else 1
    built: dict[str, Engine] = {}
    for name in installed:
        if name in known and (known[name].rounds >= rounds or not known[name].rate):
            continue
        if expected * (1 - 1 / _usual_speedup(machine)) > USUAL_SECONDS:
            if known[base.name].rounds < rounds:
                known[base.name] = Measured(0.0, rate(base, pictures, machine.workers, rounds), rounds)
            engine, known[name] = _measured(name, frozen, machine, base, pictures, rounds)
            built |= {name: engine} if engine else {}
            _write(folder, key, known)

    def whole(name: str) -> float:
        return (0.0 if name in built else known[name].seconds) + count / known[name].rate

    usable = [name for name in (base.name, *installed) if name in known and known[name].rate]
    best = min(usable, key=whole, default=base.name)
    _note_chosen(folder, f"{key} {count}", best)
    if best == base.name:
        built.clear()
        give_back_freed_memory()  # the slower engine's memory may be large
        return base
    engine = built.get(best) or _other(best, frozen, machine, base)
    return _kept(base, engine) if engine else base


def engine_named(name: str, frozen: Part, machine: Machine) -> Engine | None:
    """The engine that computed earlier rows, by its name; None if this machine lacks it or it fails its check."""
    base = engine_of(frozen, machine)
    if name in (base.name, "plain"):
        return base if name == base.name else plain_engine(frozen, machine)
    if name not in OTHERS or not base.parallel or frozen.is_image or not importlib.util.find_spec(name):
        return None
    latest = _built_for(base)
    engine = latest if latest and latest.name == name else _other(name, frozen, machine, base)
    return _kept(base, engine) if engine else None


def expected_speedup(frozen: Part, machine: Machine, count: int, seconds: float, folder: Path | None) -> float:
    """The expected speed-up over torch of a pass over `count` images.

    seconds: torch's time per image. It uses this machine's measurements for the part, else usual values.
    """
    if count < FEW or machine.device.type != "cpu" or not any(importlib.util.find_spec(name) for name in OTHERS):
        return 1.0
    rates = {name: known.rate for name, known in _read(folder, _key(frozen, machine)).items() if known.rate}
    if len(rates) > 1 and "torch" in rates:
        return max(rates.values()) / rates["torch"]
    usual = _usual_speedup(machine)
    return usual if count * seconds * (1 - 1 / usual) > USUAL_SECONDS else 1.0


def _usual_speedup(machine: Machine) -> float:
    amx = machine.precision == "bf16" and "amx_bf16" in bf16_instructions()
    return USUAL_SPEEDUP_WITH_AMX if amx else USUAL_SPEEDUP


def _built_for(base: Engine) -> Engine | None:
    """The faster engine that an earlier pass built for the same part."""
    latest = _latest
    return latest[2] if latest and latest[1] is base else None


def failed(engine: Engine) -> None:
    """Release an engine that failed in the middle of a pass; the next passes of its part use torch."""
    global _latest
    latest = _latest
    if latest and latest[2] is engine:
        _latest = (latest[0], latest[1], latest[1])


def _kept(base: Engine, engine: Engine) -> Engine:
    """Keep an engine for the next pass of its part."""
    global _latest
    latest = _latest
    if latest and latest[1] is base:
        _latest = (latest[0], base, engine)
    return engine


def _measured(
    name: str, frozen: Part, machine: Machine, base: Engine, pictures: np.ndarray, rounds: int
) -> tuple[Engine | None, Measured]:
    started = time.perf_counter()
    engine = _other(name, frozen, machine, base)
    seconds = time.perf_counter() - started
    return engine, Measured(seconds, rate(engine, pictures, machine.workers, rounds) if engine else 0.0, rounds)


def _other(name: str, frozen: Part, machine: Machine, base: Engine) -> Engine | None:
    return _checked(name, functools.partial(_build, name, frozen, machine), lambda: base, frozen, machine)


def _build(name: str, frozen: Part, machine: Machine) -> Engine:
    images = eager.step(frozen, machine)
    run: Run = importlib.import_module(f"frostline.engines.{name}").build(frozen, machine, images)
    return Engine(name, run, machine.device.type == "cpu", images)


def _checked(
    name: str, build: Callable[[], Engine], usual: Callable[[], Engine], frozen: Part, machine: Machine
) -> Engine | None:
    """The built engine if it gives the numbers of the part itself; else None, after a line that says why."""
    size = frozen.preprocessing.size
    pictures = np.random.default_rng(0).integers(0, 256, (2, size, size, frozen.preprocessing.channels), np.uint8)
    try:
        engine = build()
        right = eager.reference(frozen, machine, pictures)
        why = fault(engine.run(pictures), right, lambda: usual().run(pictures), machine.precision)
    except Exception as error:
        why = reason(error)
    if why is None:
        return replace(engine, run=functools.partial(_run, name, engine.run))
    terminal.say(f"not using {name} for the frozen part: {why}")
    return None


def _run(name: str, run: Run, pictures: np.ndarray) -> list[torch.Tensor]:
    try:
        return run(pictures)
    except Exception as error:
        raise EngineError(f"{name} failed in the middle of a pass: {reason(error)}") from error


def rate(engine: Engine, pictures: np.ndarray, workers: int, rounds: int = ROUNDS) -> float:
    """Images per second on all cores, the best of some rounds after a warm-up."""
    pictures = np.resize(pictures, (engine.images, *pictures.shape[1:]))
    workers = workers if engine.parallel else 1
    times = []
    with ThreadPoolExecutor(workers, initializer=alone) as pool, threads_kept():
        for _ in range(rounds + 1):
            started = time.perf_counter()
            list(pool.map(engine.run, [pictures] * workers))
            times.append(time.perf_counter() - started)
    return workers * engine.images / min(times[1:])


def alone() -> None:
    """Limit a thread that runs an engine beside others to one core."""
    torch.set_num_threads(1)


def _fingerprint(frozen: Part, weights: bool) -> str | None:
    try:
        return frozen.fingerprint(weights=weights)
    except NotCoveredError:
        return None


def _key(frozen: Part, machine: Machine) -> str:
    versions = [importlib.metadata.version(name) for name in OTHERS if importlib.util.find_spec(name)]
    about = (
        _fingerprint(frozen, False) or repr(frozen),  # it only affects the speed
        frozen.preprocessing.size,
        machine.precision,
        machine.workers,
        torch.__version__,
        versions,
        cpu_model(),
    )
    return hashlib.blake2b(repr(about).encode(), digest_size=16).hexdigest()


def _read(folder: Path | None, key: str) -> dict[str, Measured]:
    try:
        known = {name: Measured(**values) for name, values in _remembered(folder)[key].items()}
        usable = all(0 <= number < MOST for measured in known.values() for number in astuple(measured))
    except (KeyError, TypeError, AttributeError):
        return {}
    return known if usable else {}


def _write(folder: Path | None, key: str, known: dict[str, Measured]) -> None:
    _remember(folder, {key: {name: asdict(measured) for name, measured in known.items()}})


def _chosen(folder: Path | None) -> dict[str, str]:
    """The engine that was chosen for a part and a number of images."""
    chosen = _remembered(folder).get(CHOSEN)
    return {key: name for key, name in chosen.items() if isinstance(name, str)} if isinstance(chosen, dict) else {}


def _note_chosen(folder: Path | None, key: str, name: str) -> None:
    latest = list({**_chosen(folder), key: name}.items())[-MOST_CHOSEN:]
    _remember(folder, {CHOSEN: dict(latest)})


def _remembered(folder: Path | None) -> dict[str, Any]:
    try:
        content = json.loads((folder / REMEMBERED).read_text()) if folder else {}
    except (OSError, ValueError, RecursionError):
        content = {}
    return content if isinstance(content, dict) else {}


def _remember(folder: Path | None, more: dict[str, Any]) -> None:
    if folder is None:
        return
    content = {**_remembered(folder), **more}
    with contextlib.suppress(OSError):  # a read-only store: measure again next time
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / REMEMBERED, json.dumps(content, indent=1).encode())
