"""Do the tests notice? Changes one place of the modules that decide correctness at a time and runs their tests.

`make mutants` runs it. cosmic-ray makes the changes; each is tried in a process forked from this one, which has PyTorch
imported already. First come the tests that mirror the module, then the wider ones of its package. A change that all of
them let pass is a survivor: read it, and write the test that is missing.
"""

from __future__ import annotations

import argparse
import ast
import compileall
import difflib
import fnmatch
import functools
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NoReturn

ROOT = Path(__file__).parents[1]
COPY = ROOT / "build/mutants-tree"
TOOL = ROOT / "build/mutants-tool"

# What decides correctness, and the tests that are asked where those of the module itself pass. HOUSE is asked of all.
HOUSE = "test_house.py::test_values_cannot_be_changed"
WIDER = {
    "store/*.py": [
        "store/test_activations.py",
        "store/test_changes.py",
        "store/test_mutations.py",
        "store/test_filling.py",
        "store/test_reading.py",
        "store/test_placement.py",
    ],
    "network/*.py": [
        "network/test_network.py",
        "network/test_part.py",
        "network/test_untraced.py",
        "store/test_changes.py",
    ],
    "training/*.py": ["training/test_training.py", "fitting/test_phase.py"],
    "tasks/*.py": ["tasks", "verbs/test_evaluate.py"],
    "plan.py": ["verbs/test_plan.py", "fitting/test_options.py"],
    "preprocessing.py": ["data/test_decoding.py", "classifier/test_classifier.py"],
    "data/decoding.py": ["data/test_pictures.py", "matrix/test_images.py"],
    "data/split.py": ["data/test_grouping.py", "verbs/test_fit_test_split.py", "matrix/test_data_sets.py"],
    "verbs/evaluate.py": ["verbs/test_predict.py", "tasks"],
}

# The same for None and for True; ruff refuses them anyway.
SAME = ("_Is_Eq", "_IsNot_NotEq", "_Eq_Is", "_NotEq_IsNot")
MEMORY = 12 << 30


@dataclass(frozen=True)
class Mutant:
    file: str  # below src/frostline
    line: int
    operator: str
    source: str  # of the changed file

    @property
    def key(self) -> tuple[str, str, str]:
        return self.file, self.operator, self.change

    @functools.cached_property
    def change(self) -> str:
        before = (COPY / "src/frostline" / self.file).read_text(encoding="utf-8").splitlines()
        lines = difflib.unified_diff(before, self.source.splitlines(), lineterm="", n=0)
        return "\n".join(line for line in lines if line[:3] not in ("---", "+++") and line[:2] != "@@")


@dataclass(frozen=True)
class Outcome:
    file: str
    line: int
    operator: str
    change: str
    asked: str  # "own" or "wider" tests
    noticed: str | None  # by failing "tests" or by their "time"; None if they passed
    seconds: float

    @property
    def key(self) -> tuple[str, str, str]:
        return self.file, self.operator, self.change


def modules() -> list[str]:
    package = ROOT / "src/frostline"
    found = {str(file.relative_to(package)): None for pattern in WIDER for file in sorted(package.glob(pattern))}
    return [name for name in found if (package / name).read_text(encoding="utf-8").count("\n") > 1]


def own_tests(file: str) -> tuple[str, ...]:
    """`store/rows.py` is mirrored by `store/test_rows.py`, and a package's `__init__.py` by its name."""
    path = Path(file)
    name = path.parent.name if path.stem == "__init__" else path.stem
    return (str(path.parent / f"test_{name}.py"),)


def refuse_missing_tests() -> None:
    """An hour of changes is not to end at a test that has another name now."""
    named = {test.partition("::")[0] for tests in [(HOUSE,), *WIDER.values()] for test in tests}
    gone = sorted(test for test in named if not (ROOT / "tests" / test).exists())
    if gone:
        raise SystemExit(f"no such tests: {', '.join(gone)}")


def wider_tests(file: str) -> tuple[str, ...]:
    return (HOUSE, *next(tests for pattern, tests in WIDER.items() if fnmatch.fnmatch(file, pattern)))


def unevaluated(tree: ast.AST) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """Where a change changes nothing: annotations and `if TYPE_CHECKING`."""
    spots: list[ast.AST | None] = []
    for node in ast.walk(tree):
        if isinstance(node, (ast.arg, ast.AnnAssign)):
            spots.append(node.annotation)
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            spots.append(node.returns)
        elif isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            spots.append(node)
    return [((s.lineno, s.col_offset), (s.end_lineno, s.end_col_offset)) for s in spots if s is not None]  # type: ignore[attr-defined]


def places(file: str) -> dict[tuple[int, int], list[tuple[str, int]]]:
    """The places of a module that can be changed, each with the changes that cosmic-ray knows there."""
    from cosmic_ray.ast import ast_nodes, get_ast
    from cosmic_ray.plugins import get_operator, operator_names

    source = (ROOT / "src/frostline" / file).read_text(encoding="utf-8")
    nodes, skipped = list(ast_nodes(get_ast(source))), unevaluated(ast.parse(source))
    found: dict[tuple[int, int], list[tuple[str, int]]] = {}
    for name in operator_names():
        operator = get_operator(name)
        if operator.arguments() or name.endswith(SAME):
            continue
        spots = [start for node in nodes for start, _ in operator().mutation_positions(node)]
        for occurrence, start in enumerate(spots):
            if not any(first <= start < last for first, last in skipped):
                found.setdefault(start, []).append((name, occurrence))
    return found


def is_python(source: str) -> bool:
    try:
        ast.parse(source)
    except SyntaxError:
        return False
    return True


def sample(count: int, seed: int) -> Iterator[Mutant]:
    """At least two places of every module, the others by its size; one change of each place by chance."""
    from cosmic_ray.mutating import mutate_code
    from cosmic_ray.plugins import get_operator

    known = {file: places(file) for file in modules()}
    total = sum(len(found) for found in known.values())
    for file, found in known.items():
        chance = random.Random(f"{seed} {file}")  # noqa: S311
        wanted = max(2, round(count * len(found) / total))
        source = (ROOT / "src/frostline" / file).read_text(encoding="utf-8")
        for start in sorted(chance.sample(sorted(found), min(wanted, len(found)))):
            for name, occurrence in chance.sample(found[start], len(found[start])):
                changed = mutate_code(source, get_operator(name)(), occurrence)
                if is_python(changed):
                    yield Mutant(file, start[0], name.split("/")[1], changed)
                    break


def copy_tree() -> None:
    """The changes are made in a copy, so that somebody can work on the code meanwhile."""
    shutil.rmtree(COPY, ignore_errors=True)
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    for name in listed.stdout.splitlines():
        if (ROOT / name).is_file():
            (COPY / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, COPY / name)
    compileall.compile_dir(COPY / "src", quiet=1)


def warm_up() -> None:
    """Imports for all forks what takes seconds to import and is not under test."""
    import hypothesis
    import pytest
    import scipy.stats
    import sklearn.linear_model
    import timm
    import torch
    import torchvision

    assert all((hypothesis, pytest, scipy.stats, sklearn.linear_model, timm, torch, torchvision))
    assert "frostline" not in sys.modules, "frostline must be imported by the forks, after the change"


def forked(tests: Sequence[str], limit: float, changed: bool) -> int | None:
    """The exit status of pytest in a process of its own; None if it took longer than `limit` seconds."""
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        _try(tests, changed)
    end = time.monotonic() + limit
    status = None
    while status is None and time.monotonic() < end:
        done, code = os.waitpid(child, os.WNOHANG)
        if done:
            status = code
        else:
            time.sleep(0.02)
    _end_group(child)
    if status is None:
        os.waitpid(child, 0)
    return status


def _end_group(child: int) -> None:
    try:
        os.killpg(child, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        return


def _try(tests: Sequence[str], changed: bool) -> NoReturn:
    code = 3
    try:
        import pytest

        os.setsid()  # so that what the tests start can be ended with them
        os.chdir(COPY)
        resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
        log = os.open(COPY / "log.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(log, 1)
        os.dup2(log, 2)
        if changed:  # a compiled module of the same length and second would be taken for that of the next change
            os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
            sys.dont_write_bytecode = True
        sys.path.insert(0, str(COPY / "src"))
        options = ["-x", "-q", "-p", "no:cacheprovider", "-m", "not long", "--tb", "line"]
        code = int(pytest.main([*options, f"--basetemp={COPY}/temporary", *(f"tests/{name}" for name in tests)]))
    finally:
        os._exit(code)


@functools.cache
def patience(tests: tuple[str, ...]) -> float:
    """Seconds after which tests hang, which notices a change too. They must pass on the code as it is."""
    begin = time.monotonic()
    if forked(tests, 600, changed=False) != 0:
        raise SystemExit(f"{' '.join(tests)} fail without any change: see {COPY}/log.txt")
    return 20 + 3 * (time.monotonic() - begin)


def fails(mutant: Mutant, tests: tuple[str, ...]) -> str | None:
    file, limit = COPY / "src/frostline" / mutant.file, patience(tests)
    status, content = file.stat(), file.read_bytes()
    try:
        file.write_text(mutant.source, encoding="utf-8")
        code = forked(tests, limit, changed=True)
    finally:
        file.write_bytes(content)
        os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))  # its compiled form is valid again
    return "time" if code is None else "tests" if code else None


def judge(mutant: Mutant, asked: str) -> Outcome:
    begin = time.monotonic()
    noticed = fails(mutant, (own_tests if asked == "own" else wider_tests)(mutant.file))
    seconds = round(time.monotonic() - begin, 1)
    return Outcome(mutant.file, mutant.line, mutant.operator, mutant.change, asked, noticed, seconds)


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=320, help="how many changes (default: 320)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, help="only so many of them, for want of time")
    parser.add_argument("--only", default="*", help="modules, as a pattern: store/*")
    parser.add_argument("--again", action="store_true", help="forget which changes passed all tests in an earlier run")
    parser.add_argument("--out", type=Path, default=ROOT / "build/mutants.jsonl")
    return parser.parse_args()


def earlier(out: Path, again: bool) -> dict[tuple[str, ...], Outcome]:
    """The last outcome of each change that was tried before: a run that was ended goes on where it was."""
    lines = out.read_text(encoding="utf-8").splitlines() if out.is_file() else []
    found = {outcome.key: outcome for outcome in (Outcome(**json.loads(line)) for line in lines)}
    return {key: outcome for key, outcome in found.items() if outcome.noticed or not again}


def main() -> int:
    given = options()
    refuse_missing_tests()
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"  # they take longer to import than most tests to run
    sys.path.append(str(TOOL))  # last: what Frostline's tests use stays theirs
    copy_tree()
    mutants = [mutant for mutant in sample(given.count, given.seed) if fnmatch.fnmatch(mutant.file, given.only)]
    random.Random(given.seed).shuffle(mutants)  # noqa: S311  # a run that is ended early has tried some of everything
    mutants = mutants[: given.first]
    sys.path.remove(str(TOOL))
    warm_up()
    os.environ["PYTHONPATH"] = str(COPY / "src")
    given.out.parent.mkdir(parents=True, exist_ok=True)
    known = earlier(given.out, given.again)
    for asked in ("own", "wider"):
        for number, mutant in enumerate(mutants, 1):
            before = known.get(mutant.key)
            if before and (before.noticed or asked == "own" or before.asked == "wider"):
                continue
            outcome = known[mutant.key] = judge(mutant, asked)
            with given.out.open("a", encoding="utf-8") as out:
                out.write(json.dumps(asdict(outcome)) + "\n")
            print(f"{asked} {number}/{len(mutants)} {outcome.noticed or 'no'} {outcome.seconds} s", flush=True)
    left = [mutant for mutant in mutants if not known[mutant.key].noticed]
    for mutant in left:
        print(f"\n{mutant.file}:{mutant.line} {mutant.operator}\n{mutant.change}")
    print(f"\n{len(mutants) - len(left)} of {len(mutants)} changes noticed")
    return 1 if len(left) > 0.05 * len(mutants) else 0


if __name__ == "__main__":
    sys.exit(main())
