from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from frostline.data.readers.columns import MARKS, Wanted, marked, roles_of, with_endings
from frostline.data.readers.table import Table
from frostline.errors import DataError


def table(*names: str, **columns: list[object]) -> Table:
    cells = {name: list[object](["x"]) for name in names} | columns
    return Table("zoo.csv", "zoo", Path(), [2], cells)


@pytest.mark.parametrize(
    ("names", "path", "target"),
    [
        (("path", "label"), "path", "label"),
        (("id", "image", "choice"), "image", "choice"),
        (("id", "breed", "label"), "id", "label"),
        (("file_name", "mask"), "file_name", "mask"),
        (("image_id", "class", "labels"), "image_id", "class"),
    ],
)
def test_columns_are_known_by_their_usual_names(names, path, target):
    roles = roles_of(table(*names), Wanted(), "")
    assert (roles.path, roles.target, roles.split, roles.marks) == (path, target, "", ())
    assert set(roles.unused) == set(names) - {path, target}


def test_what_somebody_names_comes_first():
    roles = roles_of(table("path", "label", "thumb", "kind", "patient"), Wanted("Thumb", " kind", None, "patient"), "")
    assert (roles.path, roles.target, roles.unused) == ("thumb", "kind", ("path", "label"))


def test_the_column_of_groups_is_no_label():
    with pytest.raises(DataError, match="has no label column"):
        roles_of(table("path", "class"), Wanted(group="class"), "")


@given(st.lists(st.tuples(*[st.sampled_from(sorted(MARKS))] * 3), min_size=1, max_size=12))
def test_columns_of_0_and_1_are_labels(rows):
    cells = {name: list(column) for name, column in zip("abc", zip(*rows, strict=True), strict=True)}
    columns = {"path": [f"{i}.png" for i in range(len(rows))], **cells}
    roles = roles_of(table(**columns, note=["x"] * len(rows)), Wanted(), "")
    assert (roles.marks, roles.unused) == (("a", "b", "c"), ("note",))
    assert marked(columns, roles.marks) == [
        [name for name in "abc" if MARKS[columns[name][i]]] for i in range(len(rows))
    ]
    with pytest.raises(DataError, match="has no label column"):
        roles_of(table(path=columns["path"], a=cells["a"]), Wanted(), "")


def test_endings_are_those_of_files_that_are_there(tmp_path):
    (tmp_path / "a1.JPG").touch()
    assert with_endings(tmp_path, ["a1", "b2", "c3.png"]) == ["a1.JPG", "b2.JPG", "c3.png"]
    assert with_endings(tmp_path, ["b2"]) == ["b2"]  # no file tells
    (tmp_path / "ab12cd34-cat.jpg").touch()
    names = ["/data/upload/1/ab12cd34-cat.jpg", "/data/upload/1/ab12cd35-dog.jpg", "/data/pets/cat.jpg"]
    assert with_endings(tmp_path, names) == ["ab12cd34-cat.jpg", "dog.jpg", "/data/pets/cat.jpg"]
