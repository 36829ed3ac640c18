from __future__ import annotations

import csv
import io
import json
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from conftest import write_photos
from frostline.data import read_data
from frostline.data.images import Images, ImageSet
from frostline.data.masks import NOTHING, Masks
from frostline.data.readers.columns import Wanted
from frostline.data.readers.manifest import read_column, read_manifest, read_manifest_for
from frostline.data.readers.table import table_of
from frostline.data.texts import Paths, Texts
from frostline.data.unreadable import empty_files
from frostline.errors import DataError, UsageError
from frostline.fitting.options import Options

ROWS = [(f"{kind}/{i}.png", kind) for i in range(5) for kind in ("cat", "dog")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures {cat,dog,emu}/{0 … 9}.png; tests write nothing but manifests there, under names of their own."""
    root = tmp_path_factory.mktemp("zoo")
    for kind in ("cat", "dog", "emu"):
        (root / kind).mkdir()
        for i in range(10):
            Image.new("L", (4, 4), i).save(root / kind / f"{i}.png")
    return root


def write(file: Path, text: str | bytes) -> Path:
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return file


def table(rows: list[tuple[str, ...]], header: str = "path,label") -> str:
    return "\n".join([header, *(",".join(row) for row in rows)])


def labels(images: Images, classes: tuple[str, ...]) -> dict[str, set[str]]:
    """What every image shows, by its name."""
    targets = images.targets
    assert isinstance(targets, np.ndarray)
    held = np.eye(len(classes), dtype=bool)[targets] if targets.ndim == 1 else targets
    return {name: {classes[i] for i in np.flatnonzero(row)} for name, row in zip(images.names, held, strict=True)}


def all_labels(images: ImageSet) -> dict[str, set[str]]:
    return {name: told for split in images.splits.values() for name, told in labels(split, images.classes).items()}


texts = st.text(
    st.characters(codec="utf-8", exclude_characters="|\x00", exclude_categories=["Cc", "Cs", "Z"]), min_size=1
)
kinds = st.lists(texts, min_size=2, max_size=4, unique_by=str.strip)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=40)
@given(kinds, st.sampled_from([("csv", ","), ("csv", ";"), ("csv", "\t"), ("tsv", "\t")]), st.booleans(), st.booleans())
def test_every_way_of_writing_a_table_says_the_same(
    folder: Path, some: list[str], way: tuple[str, str], bom: bool, windows: bool
) -> None:
    rows = [(f"cat/{i}.png", some[i % len(some)]) for i in range(10)]
    lines = "\n".join(json.dumps({"path": path, "label": label}) for path, label in rows)
    wanted = read_manifest(write(folder / "ways.jsonl", lines), 0)
    text = io.StringIO(newline="")
    csv.writer(text, delimiter=way[1], lineterminator="\r\n" if windows else "\n").writerows([("path", "label"), *rows])
    data = text.getvalue().encode("utf-8-sig" if bom else "utf-8")
    found = read_manifest(write(folder / f"ways.{way[0]}", data), 0)
    assert found.classes == wanted.classes == tuple(sorted(some))
    assert all_labels(found) == all_labels(wanted) == {path: {label} for path, label in rows}
    assert found.valid.names == wanted.valid.names


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=40)
@given(st.lists(st.sets(st.sampled_from("abcde")), min_size=8, max_size=10))
def test_several_labels_an_image(folder: Path, told: list[set[str]]) -> None:
    told = [{"a", "b"}, {"a", "c"}, *told]
    names = [f"{kind}/{i}.png" for kind in ("cat", "dog") for i in range(10)][: len(told)]
    wanted = dict(zip(names, told, strict=True))
    text = table([(name, "|".join(some)) for name, some in wanted.items()])
    lines = "\n".join(json.dumps({"path": name, "labels": sorted(some)}) for name, some in wanted.items())
    for file in (write(folder / "several.csv", text), write(folder / "several.jsonl", lines)):
        images = read_manifest(file, 0)
        assert images.task == "multilabel"
        assert images.classes == tuple(sorted(set().union(*told)))
        assert images.train.targets.dtype == bool
        assert all_labels(images) == wanted


def test_one_label_an_image(folder: Path) -> None:
    images = read_manifest(write(folder / "pets.csv", table(ROWS)), 0)
    assert (images.name, images.classes, images.task, images.notes) == ("pets", ("cat", "dog"), "classification", ())
    assert {name: len(split) for name, split in images.splits.items()} == {"train": 8, "valid": 2}
    assert images.train.targets.dtype == np.int64
    assert sorted(images.valid.targets) == [0, 1]
    assert all_labels(images) == {path: {label} for path, label in ROWS}
    for split in images.splits.values():
        assert [folder / name for name in split.names] == split.pictures


@pytest.mark.parametrize("path", ["path", "image", "file_name", "filename", " Path ", "FILENAME"])
@pytest.mark.parametrize("label", ["label", "class", "labels", "Label "])
def test_names_of_columns(path: str, label: str, folder: Path) -> None:
    text = table([("7", label, path) for path, label in ROWS], f"id,{label},{path}")
    assert all_labels(read_manifest(write(folder / "columns.csv", text), 0)) == {p: {told} for p, told in ROWS}
    lines = "\n".join(json.dumps({path: p, "id": 7, label: told}) for p, told in ROWS)
    assert all_labels(read_manifest(write(folder / "columns.jsonl", lines), 0)) == {p: {told} for p, told in ROWS}


@pytest.mark.parametrize("valid", ["val", "valid", "VALIDATION", " Val "])
def test_the_column_split_decides(valid: str, folder: Path) -> None:
    rows = [(*row, ("train", "", valid, valid, "Test", "Train")[i % 6]) for i, row in enumerate(ROWS)]
    images = read_manifest(write(folder / "split.csv", table(rows, "path,label,split")), 0)
    kinds = ("train", "train", "valid", "valid", "test", "train")
    wanted = {kind: [path for i, (path, _) in enumerate(ROWS) if kinds[i % 6] == kind] for kind in images.splits}
    assert {name: list(split.names) for name, split in images.splits.items()} == wanted


def test_without_a_validation_split_a_fifth_comes_from_training_and_never_from_test(folder: Path) -> None:
    rows = [(f"{kind}/{i}.png", kind, "test" if i > 4 else "train") for i in range(10) for kind in ("cat", "dog")]
    images = read_manifest(write(folder / "fifth.csv", table(rows, "path,label,split")), 3)
    assert {name: len(split) for name, split in images.splits.items()} == {"train": 8, "valid": 2, "test": 10}
    assert sorted(images.valid.targets) == [0, 1]
    assert all(int(Path(name).stem) > 4 for name in images.test.names)


def test_numbers_are_classes_by_their_text(folder: Path) -> None:
    values = ["10", "2", "1.50", "-3", '"2"']
    lines = "\n".join(f'{{"path": "cat/{i}.png", "label": {values[i % 5]}}}' for i in range(10))
    images = read_manifest(write(folder / "numbers.jsonl", lines), 0)
    assert images.classes == ("-3", "1.50", "10", "2")
    assert all_labels(images)["cat/4.png"] == all_labels(images)["cat/1.png"] == {"2"}


def test_quotes_blank_lines_spaces_and_short_rows(folder: Path) -> None:
    text = (
        '\r\npath;label;split;\r\n\r\n"cat/0.png"; "a; ""b"" ";train;\r\n;;;\r\n cat/1.png;c\r\ncat/2.png;c;val;;;\r\n'
    )
    images = read_manifest(write(folder / "odd.csv", text), 0)
    assert images.classes == ('a; "b"', "c")
    assert (images.train.names, images.valid.names) == (["cat/0.png", "cat/1.png"], ["cat/2.png"])


def test_separators_of_lines_within_json(folder: Path) -> None:
    lines = "\r\n".join(f'{{"path": "cat/{i}.png", "label": "a\u2028{i % 2}"}}' for i in range(6)) + "\r\n\r\n"
    assert read_manifest(write(folder / "lines.jsonl", lines), 0).classes == ("a\u20280", "a\u20281")


def test_a_label_that_is_missing_among_several_is_none(folder: Path) -> None:
    told = {"cat/0.png": "a|b", "cat/1.png": "", "cat/2.png": "|", "cat/3.png": " b | a|a|", "cat/4.png": "a"}
    images = read_manifest(write(folder / "none.csv", table(list(told.items()))), 0)
    found = all_labels(images)
    assert [found[name] for name in told] == [{"a", "b"}, set(), set(), {"a", "b"}, {"a"}]


def test_rows_said_again_are_noted_and_count_once(folder: Path) -> None:
    rows = [*ROWS, ROWS[0], (f"./{ROWS[1][0]}", ROWS[1][1])]
    images = read_manifest(write(folder / "again.csv", table(rows)), 0)
    assert len(images.train) + len(images.valid) == len(ROWS)
    assert images.notes == ("skipped 2 duplicate records in again.csv",)


def test_the_spelling_of_the_paths_decides_nothing(folder: Path) -> None:
    plain = read_manifest(write(folder / "plain.csv", table(ROWS)), 0)
    rows = [(f".//{path}", label) for path, label in ROWS]
    odd = read_manifest(write(folder / "odd.csv", table(rows)), 0)
    assert list(odd.valid.names) == list(plain.valid.names)
    assert list(odd.train.names) == list(plain.train.names)


def test_links_below_the_folder_are_followed(tmp_path: Path, folder: Path) -> None:
    (tmp_path / "zoo").symlink_to(folder)
    images = read_manifest(write(tmp_path / "linked.csv", table([(f"zoo/{path}", label) for path, label in ROWS])), 0)
    assert len(images.train) == 8


def masked(root: Path, *held: tuple[int, ...]) -> list[tuple[str, str]]:
    (root / "m").mkdir()
    for i, values in enumerate(held):
        Image.fromarray(np.array([[value] for value in values], np.uint8)).save(root / "m" / f"{i}.png")
        Image.new("RGB", (1, len(values))).save(root / f"{i}.jpg")
    return [(f"{i}.jpg", f"m/{i}.png") for i in range(len(held))]


def test_masks(tmp_path: Path) -> None:
    rows = masked(tmp_path, (0, 1), (1, 1), (0, 0), (0, 1), (255, 0))
    images = read_manifest(write(tmp_path / "sea.csv", table(rows, "image,mask")), 0)
    assert (images.name, images.classes, images.task) == ("sea", ("0", "1"), "segmentation")
    for split in images.splits.values():
        assert isinstance(split.targets, Masks)
        assert [
            (n, str(m.relative_to(tmp_path))) for n, m in zip(split.names, split.targets.pictures, strict=True)
        ] == [row for row in rows if row[0] in split.names]


def test_classes_of_masks_are_named_beside_the_manifest(tmp_path: Path) -> None:
    rows = [
        (*row, split) for row, split in zip(masked(tmp_path, (0, 1), (1, 1), (0, 0)), ("", "val", "test"), strict=True)
    ]
    (tmp_path / "classes.txt").write_text("sky\nsea\n")
    file = write(tmp_path / "sea.csv", table(rows, "image,mask,split"))
    assert read_manifest(file, 0).classes == ("sky", "sea")
    images, split = read_manifest_for(file, ("sea", "sky"), "", "segmentation")
    assert (split, images.names) == ("test", ["2.jpg"])
    assert isinstance(images.targets, Masks)
    assert images.targets.numbers[[0, 1, 255]].tolist() == [1, 0, NOTHING]


def test_masks_are_checked(tmp_path: Path) -> None:
    rows = masked(tmp_path, (0, 1), (1, 1), (0, 0))
    file = write(tmp_path / "sea.csv", table(rows, "image,mask"))
    Image.new("L", (5, 5)).save(tmp_path / "m" / "1.png")
    with pytest.raises(DataError, match=r"m/1.png: 5 × 5 pixels, but its image has 1 × 2"):
        read_manifest(file, 0)
    (tmp_path / "m" / "1.png").unlink()
    with pytest.raises(DataError, match=r"1 of 3 records of .* do not exist: m/1.png \(line 3\)"):
        read_manifest(file, 0)


@pytest.mark.parametrize(
    ("splits", "wanted", "chosen", "names"),
    [
        (("train", "val", "test"), "", "test", {"cat/2.png"}),
        (("train", "val", "val"), "", "valid", {"cat/1.png", "cat/2.png"}),
        (("", "", ""), "", "all", {"cat/0.png", "cat/1.png", "cat/2.png"}),
        (("train", "val", "test"), "train", "train", {"cat/0.png"}),
        (("train", "val", "test"), "all", "all", {"cat/0.png", "cat/1.png", "cat/2.png"}),
        (("test", "test", "val"), "valid", "valid", {"cat/2.png"}),
    ],
)
def test_which_split_is_evaluated(
    splits: tuple[str, ...], wanted: str, chosen: str, names: set[str], folder: Path
) -> None:
    rows = [(f"cat/{i}.png", "ab"[i % 2], split) for i, split in enumerate(splits)]
    file = write(folder / "which.csv", table(rows, "path,label,split"))
    images, split = read_manifest_for(file, ("z", "b", "a"), wanted, "classification")
    assert (split, set(images.names)) == (chosen, names)
    assert labels(images, ("z", "b", "a")) == {path: {label} for path, label, _ in rows if path in names}


def test_the_task_decides_what_the_targets_are(folder: Path) -> None:
    file = write(folder / "task.csv", table([*ROWS, ("emu/0.png", "")]))
    images, _ = read_manifest_for(file, ("dog", "cat", "emu"), "", "multilabel")
    assert labels(images, ("dog", "cat", "emu")) == {**{path: {told} for path, told in ROWS}, "emu/0.png": set()}
    images, _ = read_manifest_for(file, ("dog", "cat"), "", "classification")
    assert labels(images, ("dog", "cat")) == {path: {told} for path, told in ROWS}
    with pytest.raises(DataError, match=r"has no mask column. Found: path, label; call it mask$"):
        read_manifest_for(file, ("dog", "cat"), "", "segmentation")
    several = write(folder / "task2.csv", table([*ROWS, ("emu/0.png", "cat|dog")]))
    with pytest.raises(DataError, match=r"line 12: cat\|dog; give one label"):
        read_manifest_for(several, ("dog", "cat"), "", "classification")


def test_files_of_other_splits_need_not_be_there_to_evaluate(folder: Path) -> None:
    file = write(
        folder / "part.csv", table([("gone.png", "cat", "train"), ("cat/0.png", "cat", "test")], "path,label,split")
    )
    assert read_manifest_for(file, ("cat", "dog"), "", "classification")[0].names == ["cat/0.png"]
    with pytest.raises(DataError, match="1 of 2 records"):
        read_manifest_for(file, ("cat", "dog"), "all", "classification")


def test_what_cannot_be_evaluated(folder: Path) -> None:
    file = write(folder / "unknown.csv", table(ROWS))
    with pytest.raises(
        DataError, match=r"unknown.csv \(line 3\) has classes .* training data: dog; the training classes are ant, cat$"
    ):
        read_manifest_for(file, ("ant", "cat"), "", "classification")
    with pytest.raises(DataError, match="has no test split; it has train$"):
        read_manifest_for(file, ("cat", "dog"), "test", "classification")


@pytest.mark.parametrize(
    "path", ["/etc/passwd", "../secret.png", "cat/../../secret.png", "cat/../cat/0.png", "//host/share.png"]
)
def test_paths_stay_in_the_folder(path: str, folder: Path) -> None:
    file = write(folder / "out.csv", table([*ROWS, (path, "cat")]))
    with pytest.raises(
        DataError, match=f"out.csv, line 12: {path} leads out of .*; put the manifest above the images, or name"
    ):
        read_manifest(file, 0)
    with pytest.raises(DataError, match="leads out"):
        read_manifest_for(file, ("cat", "dog"), "", "classification")
    masks = write(folder / "out.jsonl", json.dumps({"path": "cat/0.png", "mask": path}))
    with pytest.raises(DataError, match=f"line 1: {path} leads out"):
        read_manifest(masks, 0)


def test_missing_files_are_counted_and_the_first_named(folder: Path) -> None:
    rows = [*ROWS, *((f"gone/{i}.png", "cat") for i in range(6)), ("cat", "cat"), ("x" * 5000, "cat")]
    with pytest.raises(DataError) as caught:
        read_manifest(write(folder / "gone.csv", table(rows)), 0)
    assert str(caught.value).startswith(
        f"8 of 18 records of {folder / 'gone.csv'} name files that do not exist: gone/0.png"
    )
    assert "gone/4.png (line 16) …" in str(caught.value)
    assert "gone/5.png" not in str(caught.value)
    assert caught.value.exit_code == 3
    with pytest.raises(DataError, match="name files that do not exist"):  # longer than any name of a file
        read_manifest(write(folder / "gone.csv", table([("x" * 300, "cat"), *ROWS])), 0)


def test_urls_in_a_local_manifest_are_told(folder: Path) -> None:
    rows = [("s3://zoo/cat/1.png", "cat"), *ROWS]
    told = r"exist: s3://zoo/cat/1.png \(line 2\).*; for images in a bucket copy urls.csv there, and give its URL"
    with pytest.raises(DataError, match=told):
        read_manifest(write(folder / "urls.csv", table(rows)), 0)
    with pytest.raises(DataError, match="leads out"):
        read_manifest(write(folder / "urls.csv", table([("s3://../../x.png", "cat"), *ROWS])), 0)
    with pytest.raises(UsageError, match="images is s3://zoo; it must be a local folder: for images in a bucket copy"):
        Options("list.csv", images="s3://zoo")


@pytest.mark.parametrize(
    ("again", "told"),
    [
        (("cat/0.png", "dog", "train"), r"as cat \(train\) in line 2 and as dog \(train\) in line 12"),
        (("cat/0.png", "cat", "test"), r"as cat \(train\) in line 2 and as cat \(test\) in line 12"),
        (("cat//0.png", "cat|dog", ""), r"as cat \(train\) in line 2 and as cat\|dog \(train\) in line 12"),
    ],
)
def test_two_things_said_of_one_image(again: tuple[str, ...], told: str, folder: Path) -> None:
    file = write(folder / "twice.csv", table([*((*row, "train") for row in ROWS), again], "path,label,split"))
    with pytest.raises(DataError, match=f"lists cat/0.png twice: {told}; list each image once"):
        read_manifest(file, 0)


GOOD = table(ROWS)


@pytest.mark.parametrize(
    ("name", "data", "why"),
    [
        ("a.csv", b"", "has no records"),
        ("a.csv", b"\n \n", "has no records"),
        ("a.csv", b"path,label\n", "has no records"),
        ("a.jsonl", b"\n\n", "has no records"),
        ("a.csv", b"name,kind\na.png,cat\n", "has no path column .* Found: name, kind; name yours with --path-column$"),
        ("a.csv", b"path,kind\na.png,cat\n", "has no label column .* Found: path, kind"),
        ("a.tsv", b"path,label\na.png,cat\n", "has no path column .* Found: path,label"),
        ("a.csv", b"path,label,mask\na.png,cat,b.png\n", "has the columns label and mask; remove the one"),
        ("a.csv", b"path,label\ncat/0.png,a,b\n", r"line 2: 3 cells for 2 columns; put text with ',' in quotes"),
        ("a.csv", b"path,label\n,cat\n", "line 2: the path is missing"),
        ("a.csv", b"path,mask\ncat/0.png,\n", "line 2: the path is missing"),
        (
            "a.csv",
            b"path,label,split\ncat/0.png,cat,dev\n",
            "line 2: unknown split 'dev'; it must be train, val or test; if dev is meant for val, write val$",
        ),
        (
            "a.csv",
            b"path,label,split\ncat/0.png,cat,3\n",
            "line 2: unknown split '3'; .*; if these are folds, write val for the one to hold out, and train for the",
        ),
        (
            "a.csv",
            b"path,label,split\ncat/0.png,cat,cat\n",
            "line 2: unknown split 'cat'; it must be train, val or test$",
        ),
        ("a.csv", b"path,label,split\ncat/0.png,cat,val\n", "has no training images: the column split has only valid"),
        ("a.csv", b"path,label\ncat/0.png,cat\ncat/1.png,cat\n", "too few classes in .*: cat; .* at least two"),
        ("a.csv", b"path,label\ncat/0.png,\ncat/1.png,\n", "too few classes in .*: none"),
        ("a.csv", b'path,label\ncat/0.png,"cat\ncat/1.png,dog\n', "line 3: unexpected end of data"),
        ("a.csv", b"path,label\ncat/0.png," + b"x" * 200_000, "line 2: field larger than field limit"),
        ("a.csv", GOOD.encode("utf-16"), r"is not UTF-8 text \(byte 0\); save it as UTF-8"),
        ("a.csv", "path,label\na.png,käse".encode("latin-1"), r"not UTF-8 text \(byte 18\)"),
        ("a.jsonl", b'{"path": "cat/0.png", "label": "cat"}\n{"path":\n', "line 2: not valid JSON"),
        ("a.jsonl", b'["cat/0.png", "cat"]', 'line 1: write an object like {"path": "a.jpg", "label": "cat"}'),
        ("a.jsonl", b"[" * 200_000, "line 1: not valid JSON"),
        ("a.jsonl", b'{"path": "cat/0.png", "label": "\\ud800"}', "line 1: not valid JSON .*surrogates not allowed"),
        (
            "a.jsonl",
            b'{"path": "cat/0.png", "label": true}',
            "line 1: the label is True; it must be text, a number or a list",
        ),
        ("a.jsonl", b'{"path": "cat/0.png", "label": {"a": 1}}', "line 1: the label is {'a': '1'}"),
        ("a.jsonl", b'{"path": "cat/0.png", "label": ["a", null]}', "line 1: the label is"),
        ("a.jsonl", b'{"path": ["cat/0.png"], "label": "cat"}', "line 1: the path is .*; it must be text"),
        ("a.jsonl", b'{"path": "cat/0.png", "label": "cat"}\n{"label": "cat"}', "line 2: the path is missing"),
        ("a.xlsx", b"PK", r"does not have the extension of a manifest \(\.csv, \.tsv, \.jsonl, \.parquet\)"),
    ],
)
def test_tables_that_cannot_be_used(name: str, data: bytes, why: str, folder: Path) -> None:
    with pytest.raises(DataError, match=why):
        read_manifest(write(folder / name, data), 0)


def test_a_manifest_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read: "):
        read_manifest(tmp_path / "none.csv", 0)


@pytest.mark.parametrize("split", ["val", "test"])
def test_classes_that_training_does_not_know(split: str, folder: Path) -> None:
    rows = [*((*row, "train") for row in ROWS), ("emu/0.png", "emu", split), ("emu/1.png", "ape", split)]
    told = r"\(line 12\) has classes that are not in the training data: ape, emu; the training classes are cat, dog$"
    with pytest.raises(DataError, match=told):
        read_manifest(write(folder / "new.csv", table(rows, "path,label,split")), 0)


def test_no_object_is_kept_for_each_image(folder: Path) -> None:
    """Names and paths are in one piece, with the labels in an array: a million of them take what their letters take."""
    images = read_manifest(write(folder / "many.csv", table(ROWS)), 0)
    for part in images.splits.values():
        assert isinstance(part.pictures, Paths)
        assert isinstance(part.names, Texts)
        assert [folder / name for name in part.names] == list(part.pictures)


cells = st.dictionaries(st.sampled_from(["path", "label", "split", "note"]), st.sampled_from("abc"), max_size=4)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
@given(st.lists(cells, min_size=1, max_size=8))
def test_columns_hold_what_each_line_says_and_nothing_where_it_says_nothing(
    folder: Path, records: list[dict[str, str]]
) -> None:
    file = write(folder / "columns2.jsonl", "\n\n".join(map(json.dumps, records)))
    found = table_of(file)
    lines, columns = found.lines, found.columns
    assert lines == [1 + 2 * i for i in range(len(records))]
    assert columns.keys() == set().union(*records)
    for name, column in columns.items():
        assert column == [record.get(name) for record in records]


def test_images_without_a_label_are_left_out_with_a_note(folder: Path) -> None:
    """Stumble 33."""
    file = write(folder / "empty.csv", table([*ROWS, ("emu/0.png", ""), ("emu/1.png", "")]))
    images = read_manifest(file, 0)
    assert set(all_labels(images)) == {path for path, _ in ROWS}
    assert f"skipped 2 images without a label, the first in {file}, line 12" in images.notes


def test_a_column_of_numbers_that_all_differ_is_hardly_one_of_classes(folder: Path) -> None:
    """Stumble 32."""
    rows = [(path, f"{number}.5") for number, (path, _) in enumerate(ROWS)]
    with pytest.raises(DataError, match=r"10 classes in 10 images of .*ages.csv, .* are 0.5, 1.5, 2.5 … classes\?"):
        read_manifest(write(folder / "ages.csv", table(rows)), 0)


def test_columns_that_are_not_used_are_said(folder: Path) -> None:
    """Stumble 8."""
    rows = [(*row, str(i % 5), "x") for i, row in enumerate(ROWS)]
    images = read_manifest(write(folder / "more.csv", table(rows, "path,label,fold,camera")), 0)
    hint = "; to hold out one fold, add a column split with val for that fold and train for the others"
    assert f"ignored columns fold, camera{hint}" in images.notes
    images = read_manifest(write(folder / "one.csv", table([row[:3] for row in rows], "path,label,fold")), 0)
    assert f"ignored column fold{hint}" in images.notes
    for name, said in (("camera", ""), ("K_Fold", hint), ("kfold", hint), ("folder", "")):
        images = read_manifest(write(folder / "k.csv", table([row[:3] for row in rows], f"path,label,{name}")), 0)
        assert images.notes == (f"ignored column {name.lower()}{said}",)
    assert not read_manifest(write(folder / "none.csv", table(ROWS)), 0).notes


@pytest.mark.parametrize("marks", [("True", "False"), ("1", "0"), ("true", "FALSE")])
def test_fastais_column_of_the_split_is_understood(marks: tuple[str, str], folder: Path) -> None:
    """Stumble 8."""
    rows = [(*row, marks[i >= 4]) for i, row in enumerate(ROWS)]
    images = read_manifest(write(folder / "valid.csv", table(rows, "path,label,is_valid")), 0)
    assert set(images.valid.names) == {path for path, _ in ROWS[:4]}
    assert (images.validation, images.notes) == ("given", ())
    with pytest.raises(DataError, match="line 2: is_valid is 'yes'; it must be True or False"):
        read_manifest(write(folder / "yes.csv", table([(*ROWS[0], "yes")], "path,label,is_valid")), 0)


def test_absolute_paths_inside_the_folder_are_as_good_as_others(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stumble 14."""
    rows = [(str(folder.resolve() / path), label) for path, label in ROWS]
    expected = all_labels(read_manifest(write(folder / "plain.csv", table(ROWS)), 0))
    assert all_labels(read_manifest(write(folder / "abs.csv", table(rows)), 0)) == expected
    monkeypatch.chdir(folder)
    assert all_labels(read_manifest(Path("abs.csv"), 0)) == expected


def test_endings_may_be_left_out_and_columns_named(folder: Path, tmp_path: Path) -> None:
    """Stumble 31."""
    rows = [(path.removesuffix(".png"), label) for path, label in ROWS]
    file = write(tmp_path / "train.csv", table(rows, "ID,Breed"))
    wanted = Wanted("id", "breed", folder)
    images = read_manifest(file, 0, wanted)
    assert all_labels(images) == {path: {label} for path, label in ROWS}
    assert all(picture.is_file() for picture in images.train.pictures)
    measured, _ = read_manifest_for(file, ("cat", "dog"), "", "classification", wanted)
    assert labels(measured, ("cat", "dog")) == all_labels(images)
    with pytest.raises(
        DataError, match=r"train.csv has no label column .* Found: id, breed; name yours with --label-column"
    ):
        read_manifest(file, 0)
    with pytest.raises(DataError, match=r"has no column kind \(--label-column\); it has id, breed"):
        read_manifest(file, 0, Wanted("id", "kind", folder))


def test_a_folder_beside_the_manifest_that_has_the_files_is_named(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "photos").symlink_to(folder)
    rows = [(path.removesuffix(".png"), label) for path, label in ROWS]
    with pytest.raises(DataError, match=f"they are in {tmp_path / 'photos'}: give --images {tmp_path / 'photos'}"):
        read_manifest(write(tmp_path / "train.csv", table(rows, "id,label")), 0)


@pytest.mark.parametrize("several", [False, True])
def test_a_column_for_each_class_will_do(several: bool, folder: Path) -> None:
    """Stumble 31."""
    rows = [(path, str(int(label == "cat")), str(int(label == "dog" or several)), "note") for path, label in ROWS]
    images = read_manifest(write(folder / "marks.csv", table(rows, "image,cat,dog,remark")), 0)
    assert (images.classes, images.task) == (("cat", "dog"), "multilabel" if several else "classification")
    assert all_labels(images) == {path: {label, "dog"} if several else {label} for path, label in ROWS}
    assert "ignored column remark" in images.notes


def test_paths_of_label_studio_are_taken_by_their_names(folder: Path) -> None:
    """Stumble 31."""
    rows = [(f"/data/upload/7/ab12cd34-{path.split('/')[1]}", label) for path, label in ROWS if label == "cat"]
    rows += [(f"/data/upload/7/{i}.png", "dog") for i in range(5, 9)]
    file = write(folder / "studio.csv", table([(*row, "17") for row in rows], "image,choice,annotator"))
    images = read_manifest(file, 0, Wanted(images=folder / "cat"))
    assert set(all_labels(images)) == {f"{i}.png" for i in range(9)}


def test_labels_with_commas_are_one_class_each_and_that_is_said(folder: Path) -> None:
    """Stumble 9."""
    rows = [(path, f'"{label}, {("old", "young")[i // 2 % 2]}"') for i, (path, label) in enumerate(ROWS)]
    images = read_manifest(write(folder / "commas.csv", table(rows)), 0)
    assert any(note.endswith("write cat|old if these are several labels") for note in images.notes)
    alone = read_manifest(write(folder / "alone.csv", table([(p, f'"{k}, the animal"') for p, k in ROWS])), 0)
    assert any("the animal" in name for name in alone.classes)


def test_a_table_without_a_head_is_told_so(folder: Path) -> None:
    """Stumble 31."""
    with pytest.raises(DataError, match="no header line: it begins with cat/0.png; write path,label"):
        read_manifest(write(folder / "headless.csv", table(ROWS[1:], "cat/0.png,cat")), 0)


def test_a_column_is_read_by_the_names_that_images_get(folder: Path) -> None:
    rows = [(str(folder / path), label, f"p{i % 3}") for i, (path, label) in enumerate(ROWS)]
    file = write(folder / "groups.csv", table(rows, "path,label,patient"))
    assert read_column(file, "Patient") == {path: f"p{i % 3}" for i, (path, _) in enumerate(ROWS)}
    with pytest.raises(DataError, match="has no column vet; it has path, label, patient"):
        read_column(file, "vet")


@pytest.mark.parametrize(("separator", "ages"), [(";", ("old", "young")), (" ", ("cat", "dog"))])
def test_labels_with_other_separators_are_said_too(folder: Path, separator: str, ages: tuple[str, str]) -> None:
    """Stumble 9."""
    rows = [(path, f"{label}{separator}{ages[i // 2 % 2]}") for i, (path, label) in enumerate(ROWS[:-4])]
    rows += ROWS[-4:]
    rows[0] = (rows[0][0], "cat")
    images = read_manifest(write(folder / "several.csv", table(rows)), 0)
    assert any("if these are several labels" in note for note in images.notes)


def test_class_names_of_two_words_are_no_several_labels(folder: Path) -> None:
    rows = [(path, f"{label} retriever") for path, label in ROWS]
    images = read_manifest(write(folder / "dogs.csv", table(rows)), 0)
    assert not any("several labels" in note for note in images.notes)


def one_hot(folder: Path, rows: list[str]) -> tuple[str, ...]:
    lines = [f"{path},{row}" for (path, _), row in zip(ROWS[: len(rows)], rows, strict=True)]
    (folder / "marks.csv").write_text("\n".join(["path,cat,dog,glasses,fold", *lines]) + "\n")
    return read_manifest(folder / "marks.csv", 0).notes


def test_a_column_without_a_one_and_one_of_folds_are_said(folder: Path) -> None:
    notes = one_hot(folder, [f"{i % 2},{1 - i % 2},0,{i % 2}" for i in range(8)])
    assert any(note.startswith("ignored column fold; to hold out one fold") for note in notes)
    assert "no image has a 1 in the column glasses, so it is no class" in notes
    assert not any("several" in note for note in notes)


def test_one_hot_records_with_several_ones_are_said(folder: Path) -> None:
    notes = one_hot(folder, [*[f"{i % 2},{1 - i % 2},0,0" for i in range(7)], "1,1,1,0"])
    assert "1 of 8 images have no 1 or several, so each image may have several labels" in notes


def test_a_manifest_is_read_without_a_question_about_each_image(tmp_path, monkeypatch):
    """On a network disk a million questions take longer than the rest; a folder is listed, and names what it lacks."""
    files = sorted(write_photos(tmp_path / "photos", 60).rglob("*.png"))
    split = ["train", "val", "val"] * 40
    lines = [f"photos/{file.parent.name}/{file.name},{file.parent.name},{split[i]}" for i, file in enumerate(files)]
    table = tmp_path / "list.csv"
    table.write_text("path,label,split\n" + "\n".join(lines))
    asked, real = [], os.stat

    def stat(path, *rest, **more):
        asked.append(str(path))
        return real(path, *rest, **more)

    monkeypatch.setattr(os, "stat", stat)
    data = read_data(table)
    assert not [path for path in asked if path.endswith(".png")]
    for part in data.splits.values():
        empty_files(part)
        part.digests.recall(tmp_path)
    assert len([path for path in asked if path.endswith(".png")]) == len(files)  # once each, for all that follows
    files[3].unlink()
    (tmp_path / "photos" / "flat" / "folder.png").mkdir()
    table.write_text("path,label,split\n" + "\n".join([*lines, "photos/flat/folder.png,flat,train"]))
    with pytest.raises(DataError, match=f"2 of 121 records .*{files[3].name} .line 5.; photos/flat/folder.png"):
        read_data(table)
