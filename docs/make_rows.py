"""Write the rows of the test matrix, with their tests, into docs/reliability.md: python docs/make_rows.py

`test_A11_…` is a test of row A11. Rows that have no test have a reason in tests/matrix/__init__.py.
"""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "reliability.md"
TESTS = ROOT / "tests"
BEGIN, END = "<!-- rows: python docs/make_rows.py -->", "<!-- end of rows -->"
TEST = re.compile(r"^def (test_\w+)", re.M)
NAMED = re.compile(r"(?<=_)([A-D]\d\d)(?=_)")
ROWS = {
    "A01": "a JPEG cut in half",
    "A02": "a JPEG without its last two bytes",
    "A03": "the first twenty bytes of an image",
    "A04": "an empty file",
    "A05": "an HTML page named .jpg",
    "A06": "a PNG named .jpg",
    "A07": "SVG, PDF, HEIC and raw photographs",
    "A08": "flipped bits inside a JPEG",
    "A09": "a PNG with a wrong checksum or an end that is missing",
    "A10": "a header of 100,000 × 100,000 pixels",
    "A11": "a header of 12,000 × 12,000 pixels",
    "A12": "a small file of 13,000 × 13,000 pixels",
    "A13": "no, one, or very few pixels on one side",
    "A14": "CMYK and YCCK",
    "A15": "16 and 32 bits per pixel",
    "A16": "floating-point pixels",
    "A17": "one bit, grey, palettes, transparency",
    "A18": "the eight orientations of EXIF",
    "A19": "broken and huge EXIF and XMP",
    "A20": "animations and several pages",
    "A21": "colour profiles, broken ones too",
    "A22": "progressive, arithmetic, 12-bit JPEG; MPO",
    "A23": "JPEG XL, AVIF, JPEG 2000",
    "A24": "EPS, PSD, FITS and others named .jpg",
    "A25": "a PNG with 100 MB of text",
    "A26": "100,000 frames",
    "A27": "a file that changes during a fit",
    "A28": "a file that goes during a fit",
    "A29": "a file without permission",
    "A30": "pipes, sockets, devices, folders named .jpg",
    "A31": "links to nowhere, in circles, to a parent",
    "A32": "links that lead out of the data set",
    "A33": "hostile file names",
    "A34": "long paths and deep folders",
    "A35": "endings in capitals",
    "B01": "data that is missing, a file, or empty",
    "B02": "an empty class folder",
    "B03": "a class without readable images",
    "B04": "one class",
    "B05": "one image per class",
    "B06": "two images per class",
    "B07": "a validation split that lacks a class",
    "B08": "a split with a class of its own",
    "B09": "as many classes, with other names",
    "B10": "classes that differ in case or Unicode form",
    "B11": "classes named 0 to 10",
    "B12": "the same file in two splits",
    "B13": "the same image, encoded anew, in two splits",
    "B14": "the same image in two classes",
    "B15": "a class a hundred times as frequent as another",
    "B16": "20,000 classes",
    "B17": "a million files",
    "B18": "folders nested too deeply",
    "B19": "stray images, runs inside the data",
    "B20": "a manifest with missing files",
    "B21": "manifests of all forms",
    "B22": "labels that are empty or look like numbers",
    "B23": "rows that are there twice, or contradict each other",
    "B24": "paths that lead out, and addresses",
    "B25": "a manifest of ten million rows",
    "B26": "data that cannot be written",
    "B27": "class names that do not match the classifier",
    "B28": "an archive as data",
    "C01": "an unknown flag or verb",
    "C02": "an unknown key of a configuration or a plan",
    "C03": "hostile YAML",
    "C04": "a learning rate out of range",
    "C05": "numbers out of range",
    "C06": "an unknown backbone",
    "C07": "a pattern that freezes nothing",
    "C08": "a pattern that freezes everything",
    "C09": "phases that are no plan",
    "C10": "a device that is not here",
    "C11": "a precision that is not here",
    "C12": "an output folder that exists or cannot be written",
    "C13": "weights that are not here, without a network",
    "C14": "flags that contradict a run that is resumed",
    "C15": "a configuration of another version",
    "C16": "Ctrl-C at any moment",
    "C17": "pipes, closed output, terminals of few abilities",
    "C18": "no home, no temporary folder, no present folder",
    "C19": "odd names",
    "C20": "environment variables of no sense",
    "D01": "weights that hold code",
    "D02": "a whole module",
    "D03": "TorchScript, joblib and other programs",
    "D04": "broken safetensors",
    "D05": "a classifier with a flipped bit",
    "D06": "NaN and infinity in weights",
    "D07": "weights of another architecture",
    "D08": "another number of classes",
    "D09": "wrapped and renamed weights",
    "D10": "weights of other types",
    "D11": "a missing description, or one of another version",
    "D12": "resuming with other data or options",
    "D13": "resuming a finished run",
    "D14": "a damaged store",
    "D15": "a store of other weights of the same name",
    "D16": "an image that was edited in the same size and time",
    "D17": "an image more, an image less",
    "D18": "views that cannot be repeated",
    "D19": "stored and computed activations",
    "D20": "a store that cannot be written",
    "D21": "a loss or gradient that is no number",
    "D22": "a metric that is no number",
    "D23": "a batch of one image",
    "D24": "frozen layers after training",
    "D25": "what trains after resuming",
    "D26": "ONNX",
}


def found() -> dict[str, list[str]]:
    """For each row the files with its tests."""
    tests: dict[str, list[str]] = defaultdict(list)
    for file in sorted(TESTS.rglob("test_*.py")):
        for row in sorted(set(NAMED.findall(" ".join(TEST.findall(file.read_text("utf-8")))))):
            tests[row].append(file.relative_to(ROOT).as_posix())
    return tests


def dropped() -> dict[str, str]:
    """The rows without a test, with the reason; read as text, so that no test is imported."""
    module = ast.parse((TESTS / "matrix" / "__init__.py").read_text("utf-8"))
    values = [node.value for node in module.body if isinstance(node, (ast.Assign, ast.AnnAssign)) and node.value]
    reasons: dict[str, str] = ast.literal_eval(values[-1])
    return reasons


def table() -> str:
    tests, reasons = found(), dropped()
    lines = ["| row | what | tests |", "|---|---|---|"]
    for row, what in ROWS.items():
        places = ", ".join(f"`{file}`" for file in tests.get(row, ()))
        lines.append(f"| {row} | {what} | {places or reasons.get(row, 'none yet')} |")
    tested = sum(row in tests for row in ROWS)
    said = f"{tested} of {len(ROWS)} rows have tests; of the others the table says why not."
    return f"{said}\n\n" + "\n".join(lines)


def page(text: str) -> str:
    """The page with the table of now."""
    before, rest = text.split(BEGIN)
    return f"{before}{BEGIN}\n\n{table()}\n\n{END}{rest.split(END)[1]}"


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text("utf-8")), "utf-8")
