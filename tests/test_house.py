"""The house rules: imports point down, files and functions stay small, modules have tests, verbs have pages."""

from __future__ import annotations

import ast
import inspect
import re
from pathlib import Path

import pytest

import frostline
from frostline.cli import VERBS

HOUSE = Path(frostline.__file__).parent
TESTS = Path(__file__).parent
ROOT = TESTS.parent
FLOORS = [  # a module imports from floors below its own, never from above or beside
    ["__main__"],
    ["cli", "estimator"],
    ["verbs"],
    ["fitting"],
    ["report", "export", "serve"],
    ["checks"],
    ["classifier", "training"],
    ["store", "runs"],
    ["completion"],
    ["engines", "backbones", "tasks", "plan"],
    ["network", "data", "machine", "trackers"],
    ["cluster", "notebook", "remote"],
    ["distributed", "extras", "files", "preprocessing", "process", "settings", "signals", "terminal", "values"],
    ["errors"],
]
FLOOR_OF = {name: height for height, names in enumerate(reversed(FLOORS)) for name in names}
FILES = sorted(HOUSE.rglob("*.py"))
MOST_LINES = 400
MOST_FUNCTION_LINES = 60


def room(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


def imported(tree: ast.AST) -> list[tuple[str, int]]:
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "frostline":
            names = [node.module] if node.module != "frostline" else [f"frostline.{a.name}" for a in node.names]
            found += [(name, node.lineno) for name in names]
        if isinstance(node, ast.Import):
            found += [(a.name, node.lineno) for a in node.names if a.name.startswith("frostline.")]
    return found


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(HOUSE)))
def test_imports_point_down(file):
    here = file.relative_to(HOUSE).parts[0].removesuffix(".py")
    if here == "__init__":
        return
    for module, line in imported(ast.parse(file.read_text())):
        there = room(module)
        assert there == here or FLOOR_OF[there] < FLOOR_OF[here], f"{file}:{line} imports {module}"


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(HOUSE)))
def test_files_and_functions_are_small(file):
    text = file.read_text()
    assert text.count("\n") <= MOST_LINES, file
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and node.name != "fit":
            length = (node.end_lineno or 0) - node.lineno + 1
            assert length <= MOST_FUNCTION_LINES, f"{file}:{node.lineno} {node.name} has {length} lines"


STATE = {
    "Guard",
    "Keeper",
    "Logbook",
    "Passage",
    "Stepper",
    "Tally",
}  # each is filled or counted up while something goes on


def test_values_cannot_be_changed():
    """Two parts of the program may hold one value, and neither has to think of the other."""
    changeable = {
        node.name
        for file in FILES
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.ClassDef)
        for mark in map(ast.unparse, node.decorator_list)
        if mark.partition("(")[0] == "dataclass" and "frozen=True" not in mark
    }
    assert changeable == STATE


def test_every_module_has_a_floor_and_tests():
    tests = {path.name for path in TESTS.rglob("test_*.py")}
    for file in FILES:
        inside = file.relative_to(HOUSE)
        first = inside.parts[0].removesuffix(".py")
        if first in ("__init__", "__main__"):
            continue
        assert first in FLOOR_OF, f"{file} is on no floor of tests/test_house.py"
        name = "main" if first == "cli" else inside.stem
        if name == "__init__":
            assert (TESTS / inside.parent).is_dir(), f"{file} has no folder of tests"
            continue
        assert f"test_{name}.py" in tests, f"{file} has no tests/**/test_{name}.py"


MODULES_OF_CODE = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}
CALLS_OF_CODE = {"eval", "exec", "__import__", "os.system", "os.popen", "torch.hub.load", "torch.jit.load"}
LAST_NAMES = {"extractall", "unpack_archive"}  # whatever they are called on: archives are not extracted
FORBIDDEN_VALUES = {"shell": True, "allow_pickle": True, "trust_remote_code": True, "weights_only": False}


def runs_code(tree: ast.AST) -> list[str]:
    """What in a source could run code that comes from a file."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
            found += [f"import {name}" for name in names if name.partition(".")[0] in MODULES_OF_CODE]
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            values = {word.arg: word.value for word in node.keywords}
            wrong = name in CALLS_OF_CODE or name.rpartition(".")[2] in LAST_NAMES
            wrong |= name in ("yaml.load", "yaml.unsafe_load", "yaml.full_load", "yaml.load_all")
            wrong |= name == "torch.load" and ast.unparse(values.get("weights_only", ast.Constant(None))) != "True"
            for word, bad in FORBIDDEN_VALUES.items():  # a value that is computed may be the bad one
                value = values.get(word)
                wrong |= value is not None and not (isinstance(value, ast.Constant) and value.value is not bad)
            found += [ast.unparse(node)] * wrong
    return found


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from joblib import load",
        "eval(text)",
        "exec(text)",
        "yaml.load(text, yaml.Loader)",
        "yaml.unsafe_load(text)",
        "subprocess.run(line, shell=True)",
        "os.system(line)",
        "np.load(file, allow_pickle=True)",
        "AutoModel.from_pretrained(name, trust_remote_code=True)",
        "torch.load(file)",
        "torch.load(file, weights_only=False)",
        "torch.load(file, weights_only=safe)",
        "torch.hub.load(name)",
        "tarfile.open(file).extractall(folder)",
    ],
)
def test_what_runs_code_is_found(source):
    assert runs_code(ast.parse(source))
    assert not runs_code(ast.parse("torch.load(file, weights_only=True); network.eval(); re.compile(x)"))


def test_nothing_that_runs_code_from_files():
    """Trust: weights, plans and data sets are read, never executed."""
    for file in FILES:
        if file.name == "pickling.py":  # takes values from rank 0 of the same fit, and from no file
            continue
        assert runs_code(ast.parse(file.read_text())) == [], file


def test_what_security_says_is_refused_is_refused():
    from frostline.backbones.weights import PICKLED, PROGRAMS

    page = (ROOT / "SECURITY.md").read_text()
    assert all(f"`{ending}`" in page for ending in PICKLED)
    told = {".pt2", ".pkl", ".joblib", ".keras", ".h5", ".mar"}
    assert {ending for ending in PROGRAMS if f"`{ending}`" in page} == told


def test_public_names_are_there():
    for name in frostline.__all__:
        assert getattr(frostline, name).__module__.startswith("frostline.")
    assert callable(frostline.fit)
    assert callable(frostline.activations)


def test_every_public_name_is_documented():
    for name in frostline.__all__:
        assert (getattr(frostline, name).__doc__ or "").strip(), name
        assert f"`{name}" in (ROOT / "docs/python/index.md").read_text(), f"{name} is not in docs/python/index.md"
        assert f"\n::: frostline.{name}\n" in (ROOT / "docs/api.md").read_text(), f"{name} is not in docs/api.md"


def test_every_verb_is_a_command_and_documented():
    files = {file.stem for file in (HOUSE / "cli").glob("*.py")} - {"__init__", "options"}
    assert files == set(VERBS)
    for verb in VERBS:
        page = (ROOT / "docs" / "commands" / f"{verb}.md").read_text()
        assert page.startswith(f"# frostline {verb}\n"), f"docs/commands/{verb}.md is not about {verb}"
        flags = f"<!-- flags: {verb} -->\n`frostline {verb} --help` prints them.\n"
        assert flags in page, f"docs/commands/{verb}.md lacks the place of the flags, which are generated"


def test_every_flag_of_fit_is_documented():
    page = (ROOT / "docs" / "commands" / "fit.md").read_text()
    for name in inspect.signature(frostline.fit).parameters:
        assert name == "data" or f"--{name.replace('_', '-')}" in page or f"--no-{name}" in page, name


def anchors(page: Path) -> set[str]:
    """The names of a page's headings, as Markdown's readers make them."""
    prose = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.M | re.S)
    headings = re.findall(r"^#+ (.+)$", prose, re.M)
    return {re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", heading).strip().lower()) for heading in headings}


def test_links_between_pages_lead_somewhere():
    for page in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]:
        for target, anchor in re.findall(r"\]\((?!https?:)([^)#]*)(?:#([^)]+))?\)", page.read_text()):
            there = (page.parent / target) if target else page
            assert there.exists(), f"{page.name} links to {target}"
            assert not anchor or anchor in anchors(there), f"{page.name} links to {target}#{anchor}"
