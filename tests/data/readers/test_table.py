from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import frostline
from conftest import write_photos
from frostline.data import read_data
from frostline.data.readers.columns import Wanted
from frostline.data.readers.table import is_frame, table_of
from frostline.errors import DataError, UsageError
from frostline.values import csv_text, plain_cell


class Frame:
    """What is used of a DataFrame: its columns, [name], len() and iloc."""

    iloc = None

    def __init__(self, **columns: list[object]) -> None:
        self.columns, self._cells = list(columns), columns

    def __getitem__(self, name: str) -> list[object]:
        return self._cells[name]

    def __len__(self) -> int:
        return len(next(iter(self._cells.values())))


def photos(root: Path) -> list[Path]:
    return sorted(write_photos(root / "photos", 6).rglob("*.png"))


def test_cells_are_text_as_json_lines_have_it() -> None:
    frame = Frame(Path=[Path("a.png"), "b.png"], n=[3, 4.0], x=[np.int64(7), float("nan")], t=[True, None])
    found = table_of(frame)
    assert found.columns == {"path": ["a.png", "b.png"], "n": ["3", "4"], "x": ["7", None], "t": ["True", None]}
    assert found.where(found.lines[1]) == "the DataFrame, row 1"
    assert table_of(Frame(label=[["a", "b"], np.array([1, 2])])).columns == {"label": [["a", "b"], ["1", "2"]]}


@pytest.mark.parametrize("absolute", [True, False])
def test_a_frame_is_a_manifest(absolute: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = photos(tmp_path)
    monkeypatch.chdir(tmp_path)
    paths = [str(file if absolute else file.relative_to(tmp_path)) for file in files]
    frame = Frame(path=paths, label=[file.parent.name for file in files], weight=[1.0] * 12)
    assert is_frame(frame)
    images = read_data(frame)
    assert (images.classes, len(images.train) + len(images.valid)) == (("flat", "tall"), 12)
    assert all(Path(picture).is_file() for picture in images.train.pictures)
    names = {name for part in images.splits.values() for name in part.names}
    assert names == {str(file.relative_to(tmp_path)) for file in files}  # so both spellings give the same split
    assert "ignored column weight" in images.notes
    grouped = read_data(Frame(path=paths, label=frame["label"], box=[f"b{i // 3}" for i in range(12)]), group="box")
    assert len(set(grouped.groups.values())) == 4
    assert not grouped.notes


def test_a_fit_takes_a_frame(tmp_path: Path) -> None:
    """Stumble 21."""
    from conftest import small_model
    from frostline.backbones import load_backbone
    from tasks_data import HOW

    files = photos(tmp_path)
    frame = Frame(path=[str(file) for file in files], label=[file.parent.name for file in files])
    backbone = load_backbone(small_model(2), preprocessing=HOW)
    run = frostline.fit(frame, backbone=backbone, plan="probe", out=tmp_path / "run", quiet=True, report=False)
    assert run.metrics["valid"]["n"] == 12
    measured = frostline.evaluate(run, frame, model=small_model(2))
    assert (measured["n"], measured["trained_on"]) == (12, 12)


def test_parquet_is_read_by_pyarrow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the columns that have a role are read, and none of the rows of another export."""
    pyarrow = pytest.importorskip("pyarrow", reason="no pyarrow: pip install 'frostline[parquet]'")
    parquet = pytest.importorskip("pyarrow.parquet")
    files = photos(tmp_path)
    cells = {"Path": [f"photos/{f.parent.name}/{f.name}" for f in files], "label": [f.parent.name for f in files]}
    file = tmp_path / "photos.parquet"
    parquet.write_table(pyarrow.table(cells | {"vector": [[1.0, 2.0]] * 12, "n": [1.0] * 11 + [None]}), file)
    asked: list[str] = []
    real = parquet.ParquetFile.iter_batches

    def batches(opened: object, size: int, columns: list[str]) -> object:
        asked.extend(columns)
        return real(opened, size, columns=columns)

    monkeypatch.setattr(parquet.ParquetFile, "iter_batches", batches)
    images = read_data(file)
    assert len(images.train) + len(images.valid) == 12
    assert set(asked) == {"Path", "label"}
    assert "ignored columns vector, n" in images.notes
    table = table_of(file)
    assert table.where(2) == f"{file}, row 2"
    assert list(table.columns) == ["path", "label", "vector", "n"]
    assert table.columns["n"] == ["1"] * 11 + [None]
    assert table.columns["vector"][0] == ["1", "2"]
    labels = table.columns["label"]
    assert len({id(label) for label in labels}) == 2  # a million labels are not a million texts
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(DataError, match="is Parquet and needs pyarrow: pip install 'frostline.parquet.'"):
        read_data(file)


def test_parquet_that_is_cut_is_told(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow", reason="no pyarrow: pip install 'frostline[parquet]'")
    parquet = pytest.importorskip("pyarrow.parquet")
    file = tmp_path / "photos.parquet"
    parquet.write_table(pyarrow.table({"path": ["a.png"] * 5000, "label": [f"c{i}" for i in range(5000)]}), file)
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match="photos.parquet cannot be read: "):
        read_data(file)
    file.write_bytes(content[:50] + b"?" * (len(content) // 2) + content[50 + len(content) // 2 :])
    with pytest.raises(DataError, match="photos.parquet cannot be read: "):  # its footer is whole
        read_data(file)
    parquet.write_table(pyarrow.table({"path": ["a.png"], "Path": ["b.png"]}), file)
    with pytest.raises(DataError, match="has two columns called path"):
        read_data(file)


def test_columns_of_pictures_are_refused_and_not_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pandas = pytest.importorskip("pandas")
    pyarrow = pytest.importorskip("pyarrow", reason="no pyarrow: pip install 'frostline[parquet]'")
    parquet = pytest.importorskip("pyarrow.parquet")
    names = [f"photos/{f.parent.name}/{f.name}" for f in photos(tmp_path)]
    files, kinds = [b"PICTURE" * 50] * 12, ["flat", "tall"] * 6
    pictures = [{"bytes": content, "path": None} for content in files]
    tables = [
        ({"image": pictures, "label": kinds}, "column image holds pictures, not paths; save the pictures as files"),
        ({"image": files, "label": kinds}, "column image holds pictures, not paths; save"),
        ({"path": names, "mask": pictures}, "column mask holds pictures, not paths; save"),
        ({"path": names, "label": pictures}, "column label holds bytes or records, not text"),
        ({"path": names, "label": kinds, "split": files}, "column split holds bytes or records, not text"),
    ]
    monkeypatch.chdir(tmp_path)
    for columns, told in tables:
        parquet.write_table(pyarrow.table(columns), tmp_path / "list.parquet")
        for source in (tmp_path / "list.parquet", pandas.DataFrame(columns)):
            with pytest.raises(DataError, match=told) as caught:
                read_data(source)
            assert "PICTURE" not in str(caught.value)
    one_hot = {"flat": [1, 0] * 6, "tall": [0, 1] * 6}
    parquet.write_table(pyarrow.table({"path": names, "thumbnail": files, **one_hot}), tmp_path / "list.parquet")
    assert read_data(tmp_path / "list.parquet").classes == ("flat", "tall")


def test_what_describes_a_manifest_is_refused_without_one(tmp_path: Path) -> None:
    folder = write_photos(tmp_path / "photos", 3)
    with pytest.raises(UsageError, match=r"--path-column and --images describe a manifest, but .*photos is not one"):
        read_data(folder, wanted=Wanted(path="id", images=tmp_path))


cells = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1).filter(
    lambda text: text[0] != " " and text.strip()
)


@given(st.lists(st.tuples(cells, cells), min_size=1, max_size=6))
def test_what_is_written_as_csv_is_read_again(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str]]
) -> None:
    """Whatever is in a cell: separators, quotes, ends of lines, formulas. Spaces before a cell are not its text."""
    file = tmp_path_factory.getbasetemp() / "written.csv"
    file.write_bytes(csv_text(("path", "label"), rows).encode())
    columns = table_of(file).columns
    read = [tuple(map(plain_cell, row)) for row in zip(columns["path"], columns["label"], strict=True)]
    assert read == rows


@pytest.mark.parametrize("names", [("path", "label", "Label"), ("path", "a", "a ")])
def test_two_columns_of_one_name_are_refused(names: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(",".join(names) + "\na.png,1,2\n")
    with pytest.raises(DataError, match="has two columns called (label|a) "):
        table_of(tmp_path / "t.csv")
    (tmp_path / "t.jsonl").write_text("{" + ", ".join(f'"{name}": "1"' for name in names) + "}\n")
    with pytest.raises(DataError, match="line 1, has two columns called (label|a) "):
        table_of(tmp_path / "t.jsonl")


def test_values_that_pandas_calls_missing_are_empty_cells() -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"path": ["a", "b"], "label": pandas.array(["x", pandas.NA], "string")})
    assert table_of(frame).columns["label"] == ["x", None]
    frame = pandas.DataFrame({"path": ["a", "b"], "label": pandas.array([3, pandas.NA], "Int64")})
    assert table_of(frame).columns["label"] == ["3", None]
    twice = pandas.concat([frame, frame], axis=1)
    with pytest.raises(DataError, match="the DataFrame has two columns called label"):
        table_of(twice)
