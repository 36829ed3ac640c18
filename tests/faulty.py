"""Fits whose Nth operation on the disk fails, each in a fork of one process, because importing torch takes seconds.

`Faulty` stands in for the module `os` in `frostline.files`, where every byte that Frostline writes passes. As a script
this file reads tasks from standard input, one JSON document per line, and answers each with what was found afterwards.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

PLAN = "- {frostline: head, epochs: 0}\n- {frostline: layer4, epochs: 2, views: 2}\n"
OPERATIONS = ("open", "write", "fsync", "replace")


class Faulty:
    """The module `os`, of which operation number `last` fails; `kind`: ENOSPC (the later ones too), EIO, kill, ""."""

    def __init__(self, kind: str = "", last: int = 0) -> None:
        self.kind, self.last, self.count = kind, last, 0

    def __getattr__(self, name: str) -> Any:
        original = getattr(os, name)
        return self._watched(name, original) if name in OPERATIONS else original

    def _watched(self, name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def watched(*given: Any, **more: Any) -> Any:
            if name == "open" and not given[1] & os.O_CREAT:  # for reading
                return original(*given, **more)
            self.count += 1
            fails = self.count == self.last or (self.kind == "ENOSPC" and 0 < self.last < self.count)
            if fails and self.kind == "kill":
                if name == "write":
                    original(given[0], bytes(given[1])[: len(given[1]) // 2])
                os.kill(os.getpid(), signal.SIGKILL)
            if fails:
                number = getattr(errno, self.kind)
                raise OSError(number, os.strerror(number))
            return original(*given, **more)

        return watched


def _fit(root: Path, folder: Path, kind: str = "", last: int = 0, report: bool = False) -> int:
    """`frostline fit` of root/photos into folder/run with the store folder/store; returns the number of operations."""
    from frostline import files
    from frostline.cli import main

    os.environ["FROSTLINE_CACHE"] = str(folder / "store")
    files.os = faulty = Faulty(kind, last)  # type: ignore[attr-defined]
    flags = "--backbone timm:test_resnet --weights none --image-size 32 --precision fp32 --workers 1 --seed 3".split()
    flags += ["--augment", "light", *([] if report else ["--no-report"]), "--plan", str(root / "plan.yaml")]
    try:
        main(["fit", str(root / "photos"), *flags, "--out", str(folder / "run")])
    except SystemExit as end:
        if end.code:
            raise
    finally:
        files.os = os  # type: ignore[attr-defined]
    return faulty.count


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
    """What a run and a store are after a fault, and what another fit makes of the store."""
    from frostline import load
    from frostline.store.shards import check, entries

    found: dict[str, Any] = {"wrong": _whole(folder)}
    finished = (folder / "run" / "model" / "model.json").is_file()
    found["loads"] = bool(load(folder / "run").model) if finished else None
    found["weights"] = _weights(folder / "run") if finished else None
    found["damaged"] = [str(file) for entry in entries(folder / "store") for file, _ in check(entry.folder).damaged]
    (folder / "again").mkdir()
    (folder / "store").rename(folder / "again" / "store")
    _fit(root, folder / "again")
    found["again"] = _weights(folder / "again" / "run")
    found["left"] = [str(file) for file in (folder / "again").rglob("*.tmp")]
    return found


def _forked(work: Callable[[], object], output: Path) -> int:
    """Do something in a fork, with its output in a file; returns its exit code, negative for a signal."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    code = 1
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


def _answered(task: dict[str, Any]) -> dict[str, Any]:
    """One task: a fit with a fault, and what is found afterwards."""
    folder = Path(task["folder"])
    root = folder.parent
    (folder / "store").mkdir(parents=True)
    code = _forked(lambda: _fit(root, folder, task["kind"], task["last"], task["report"]), folder / "first.txt")
    answer = {**task, "code": code, "said": (folder / "first.txt").read_text()}
    second = _forked(lambda: (folder / "found.json").write_text(json.dumps(_after(root, folder))), folder / "second.txt")
    if second:
        return {**answer, "failed": (folder / "second.txt").read_text()}
    return answer | json.loads((folder / "found.json").read_text())


def _serve() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        task = json.loads(line)
        if task["kind"] == "none":  # in this process: what it imports and measures is there for all forks
            folder = Path(task["folder"])
            (folder / "store").mkdir(parents=True)
            answer = {"operations": _fit(folder.parent, folder, report=task["report"]), "weights": _weights(folder / "run")}
        else:
            answer = _answered(task)
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


Ask = Callable[..., dict[str, Any]]


@contextlib.contextmanager
def asking(folder: Path) -> Iterator[Ask]:
    """A function that lets a fit fail: (kind, number of the operation) -> what was found."""
    (folder / "plan.yaml").write_text(PLAN)
    source = Path(__file__).parents[1] / "src"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(source), *sys.path]), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, __file__]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        made = 0

        def ask(kind: str, last: int = 0, report: bool = False) -> dict[str, Any]:
            nonlocal made
            made += 1
            task = {"kind": kind, "last": last, "report": report, "folder": str(folder / str(made))}
            process.stdin.write(json.dumps(task) + "\n")  # type: ignore[union-attr]
            process.stdin.flush()  # type: ignore[union-attr]
            answer: dict[str, Any] = json.loads(process.stdout.readline())  # type: ignore[union-attr]
            return answer

        try:
            yield ask
        finally:
            process.stdin.close()


if __name__ == "__main__":
    _serve()
