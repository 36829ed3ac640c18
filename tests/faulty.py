"""Fits whose Nth operation on the disk fails, each in a fork of one process, because importing torch takes seconds.

`Faulty` stands in for the module `os` in `frostline.files`, where every byte that Frostline writes passes. As a script
this file reads tasks from standard input, one JSON document per line, and answers each with what was found afterwards.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import itertools
import json
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from frostline import files
from frostline.cli import main

PLAN = "- {frostline: head, epochs: 0}\n- {frostline: layer4, epochs: 2, views: 2}\n"
SECONDS = 120  # after which a fork that hangs is killed
OPERATIONS = ("open", "write", "fsync", "replace")


class Faulty:
    """The module `os`, of which operation number `last` fails.

    kind: an error's name, as EIO; ENOSPC and EROFS hit all later operations, too. Or kill, or "".
    under: only operations on files below a folder of this name count.
    """

    def __init__(self, kind: str = "", last: int = 0, under: str = "") -> None:
        self.kind, self.last, self.under, self.count = kind, last, under, 0

    def __getattr__(self, name: str) -> Any:
        original = getattr(os, name)
        return self._watched(name, original) if name in OPERATIONS else original

    def _watched(self, name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def watched(*given: Any, **more: Any) -> Any:
            if name == "open" and not given[1] & os.O_CREAT:  # for reading
                return original(*given, **more)
            if self.under:
                file = Path(f"/proc/self/fd/{given[0]}").readlink() if isinstance(given[0], int) else Path(given[0])
                if self.under not in file.parts:
                    return original(*given, **more)
            self.count += 1
            fails = self.count == self.last or (self.kind in ("ENOSPC", "EROFS") and 0 < self.last < self.count)
            if fails and self.kind == "kill":
                if name == "write":
                    original(given[0], bytes(given[1])[: len(given[1]) // 2])
                os.kill(os.getpid(), signal.SIGKILL)
            if fails:
                number = getattr(errno, self.kind)
                raise OSError(number, os.strerror(number))
            return original(*given, **more)

        return watched


def _fit(root: Path, folder: Path, fault: Sequence[Any] = (), report: bool = False) -> int:
    """`frostline fit` of root/photos into folder/run with the store folder/store; returns the number of operations."""
    os.environ["FROSTLINE_CACHE"] = str(folder / "store")
    files.os = faulty = Faulty(*fault)  # type: ignore[attr-defined]
    flags = f"--backbone timm:test_resnet --weights none --image-size 32 --precision fp32 --plan {root / 'plan.yaml'}"
    flags += f" --workers 1 --seed 3 --augment light {'' if report else '--no-report'} --out {folder / 'run'}"
    try:
        main(["fit", str(root / "photos"), *flags.split()])
    except SystemExit as end:
        if end.code:
            raise
    finally:
        files.os = os  # type: ignore[attr-defined]
    return faulty.count


@contextlib.contextmanager
def _counted(file: Path, seconds: float = 0.0, last: int = 0) -> Iterator[None]:
    """Append a byte to a file for every row that is computed; each batch takes some seconds, the last one kills."""
    from frostline.store.filling import FeatureExtraction

    original, left = FeatureExtraction.add, [last]

    def add(self: Any, samples: Any, rows: Any) -> bool:
        time.sleep(seconds)
        with file.open("ab") as stream:
            stream.write(b"." * len(samples))
        left[0] -= 1
        if not left[0]:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(self, samples, rows)

    FeatureExtraction.add = add  # type: ignore[method-assign]
    try:
        yield
    finally:
        FeatureExtraction.add = original  # type: ignore[method-assign]


def _weights(run: Path) -> str:
    return hashlib.sha256((run / "model" / "model.safetensors").read_bytes()).hexdigest()


def _whole(folder: Path) -> list[str]:
    """What is wrong with the files of a folder, except temporary ones."""
    import yaml
    from PIL import Image
    from safetensors import safe_open

    def tensors(file: Path) -> None:
        with safe_open(file, "pt") as opened:
            [opened.get_tensor(name) for name in opened.keys()]  # noqa: SIM118

    readers: Mapping[str, Callable[[Path], object]] = {
        ".json": lambda file: json.loads(file.read_bytes()),
        ".safetensors": tensors,
        ".yaml": lambda file: yaml.safe_load(file.read_text()),
        ".csv": lambda file: file.read_text().index("\n"),
        ".html": lambda file: file.read_text().rindex("</html>"),
        ".png": lambda file: Image.open(file).load(),
    }
    wrong = []
    for file in sorted(folder.rglob("*")):
        if file.is_file() and not file.name.endswith(".tmp") and file.suffix in readers:
            try:
                readers[file.suffix](file)
            except Exception as error:
                wrong.append(f"{file}: {error!r}")
    return wrong


def _after(root: Path, folder: Path) -> dict[str, Any]:
    """What a run and a store are after a fault, what another fit makes of the store, and how the first one goes on."""
    from frostline import load
    from frostline.runs.run import is_finished
    from frostline.store.shards import check, entries

    found: dict[str, Any] = {"wrong": _whole(folder)}
    finished = is_finished(folder / "run")
    found["loads"] = bool(load(folder / "run").model) if finished else None
    found["weights"] = _weights(folder / "run") if finished else None
    found["damaged"] = [str(file) for entry in entries(folder / "store") for file, _ in check(entry.folder).damaged]
    (folder / "again").mkdir()
    (folder / "store").rename(folder / "again" / "store")
    _fit(root, folder / "again")
    found["again"] = _weights(folder / "again" / "run")
    found["resumed"] = None if finished else _resumed(folder / "run")
    cleared = ("again", "run") if found["resumed"] else ("again",)
    found["left"] = [str(file) for name in cleared for file in (folder / name).rglob("*.tmp")]
    return found


def _resumed(run: Path) -> str | None:
    """The weights of a fit that goes on after its fault; None if it had not begun."""
    if not (run / "config.yaml").is_file():
        return None
    try:
        main(["fit", "--resume", str(run), "--no-report"])
    except SystemExit as end:
        if end.code:
            raise
    return _weights(run)


def _begun(work: Callable[[], object], output: Path) -> int:
    """Do something in a fork, with its output in a file; returns the number of the process."""
    if child := os.fork():
        return child
    code = 1
    signal.alarm(SECONDS)
    torch.set_num_threads(1)  # makes a pool of threads anew, which several threads of a fork must not do at once
    try:
        with output.open("w") as stream:
            sys.stdout = sys.stderr = stream
            try:
                work()
            except SystemExit:
                raise
            except BaseException:
                stream.write(traceback.format_exc())
                raise
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 0
    finally:
        os._exit(code)


def _ended(child: int) -> int:
    """The exit code of a process, negative for a signal."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _limit(name: str, most: int) -> None:
    """Limit a resource of this process."""
    import resource

    resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (most, most))


def _intact(root: Path, folder: Path, task: dict[str, Any]) -> dict[str, Any]:
    """A fit without a fault, in this process: what it imports and measures is there for all forks."""
    with _counted(folder / "rows"):
        operations = _fit(root, folder, report=task["report"])
    rows = (folder / "rows").stat().st_size
    return {"operations": operations, "rows": rows, "weights": _weights(folder / "run")}


def _failing(root: Path, folder: Path, task: dict[str, Any]) -> dict[str, Any]:
    """A fit with a fault, and what is found afterwards."""

    def after() -> None:
        (folder / "found.json").write_text(json.dumps(_after(root, folder)))

    def first() -> None:
        if task["limits"]:
            _limit(*task["limits"])
        _fit(root, folder, (task["kind"], task["last"], task["under"]), task["report"])

    code = _ended(_begun(first, folder / "first.txt"))
    answer = {**task, "code": code, "said": (folder / "first.txt").read_text()}
    if _ended(_begun(after, folder / "second.txt")):
        return {**answer, "failed": (folder / "second.txt").read_text()}
    return answer | json.loads((folder / "found.json").read_text())


def _together(root: Path, folder: Path, task: dict[str, Any]) -> dict[str, Any]:
    """Several fits at once with one store; with `last` the first one is killed while the others wait for it."""
    count, claims = task["count"], "activations/*/lock"

    def fit(number: int) -> None:
        own = folder / str(number)
        own.mkdir()
        (own / "store").symlink_to(folder / "store")
        with _counted(folder / "rows", 0.05, 0 if number else task["last"]):
            _fit(root, own)

    children = []
    for number in range(count):
        children.append(_begun(lambda number=number: fit(number), folder / f"{number}.txt"))
        while task["last"] and not list((folder / "store").glob(claims)):
            time.sleep(0.01)
    runs = [folder / str(number) / "run" for number in range(count)]
    return {
        "codes": [_ended(child) for child in children],
        "rows": (folder / "rows").stat().st_size,
        "weights": [_weights(run) if (run / "model").is_dir() else None for run in runs],
        "said": [(folder / f"{number}.txt").read_text() for number in range(count)],
    }


def _serve() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        task = json.loads(line)
        folder = Path(task["folder"])
        (folder / "store").mkdir(parents=True)
        answer = {"none": _intact, "together": _together}.get(task["kind"], _failing)
        answers.write(json.dumps(answer(folder.parent, folder, task)) + "\n")
        answers.flush()
    os._exit(0)


Ask = Callable[..., dict[str, Any]]


@contextlib.contextmanager
def asking(folder: Path) -> Iterator[Ask]:
    """A function that lets a fit fail: (kind, number of the operation) -> what was found."""
    (folder / "plan.yaml").write_text(PLAN)
    source = Path(__file__).parents[1] / "src"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(source), *sys.path]), "OMP_NUM_THREADS": "1"}
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, __file__], env=environment, **pipes) as process:
        tasks, answers = process.stdin, process.stdout
        assert tasks is not None
        assert answers is not None
        numbers = itertools.count()

        def ask(kind: str, last: int = 0, **more: Any) -> dict[str, Any]:
            task = {"kind": kind, "last": last, "report": False, "under": "", "limits": [], "count": 1} | more
            task["folder"] = str(folder / str(next(numbers)))
            tasks.write(json.dumps(task) + "\n")
            tasks.flush()
            answer: dict[str, Any] = json.loads(answers.readline())
            return answer

        try:
            yield ask
        finally:
            tasks.close()


if __name__ == "__main__":
    _serve()
