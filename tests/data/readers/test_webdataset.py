"""Tars are read in place: the same images as in the folder that they were made of."""

from __future__ import annotations

import gzip
import io
import json
import shutil
import subprocess
import tarfile
from pathlib import Path

import numpy as np
import pytest

import frostline
from conftest import TINY_FIT, write_photos
from frostline.cli import main
from frostline.data import read_data, read_for_evaluation, read_unlabelled
from frostline.data.decoding import open_image
from frostline.data.readers import webdataset
from frostline.data.readers.webdataset import expanded
from frostline.errors import DataError

Sample = dict[str, bytes]


def write_tar(file: Path, members: list[tuple[str, bytes]], format: int = tarfile.PAX_FORMAT) -> Path:  # noqa: A002
    with tarfile.open(file, "w", format=format) as tar:
        for name, content in members:
            about = tarfile.TarInfo(name)
            about.size = len(content)
            tar.addfile(about, io.BytesIO(content))
    return file


def samples(photos: Path, kind: str = "cls") -> list[tuple[str, bytes]]:
    """The members for the images of class folders, under the names that they have there."""
    members = []
    for file in sorted(photos.rglob("*.png")):
        name = file.relative_to(photos).as_posix()
        label = file.parent.name
        text = json.dumps({"label": label, "width": 40}) if kind == "json" else label + "\n"
        members += [(name, file.read_bytes()), (name.replace(".png", f".{kind}"), text.encode())]
    return members


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_photos(tmp_path_factory.mktemp("of") / "photos", 6)


@pytest.mark.parametrize("kind", ["cls", "json", "txt"])
@pytest.mark.parametrize("format", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
def test_a_tar_is_the_folder(kind: str, format: int, photos: Path, tmp_path: Path) -> None:  # noqa: A002
    tar = write_tar(tmp_path / "photos.tar", samples(photos, kind), format)
    folder, found = read_data(photos), read_data(tar)
    assert found.classes == folder.classes
    for split in ("train", "valid"):
        own, other = found.splits[split], folder.splits[split]
        assert list(own.names) == list(other.names)
        assert own.targets.tolist() == other.targets.tolist()
        assert own.digests == other.digests
        np.testing.assert_array_equal(open_image(own.pictures[0]), open_image(other.pictures[0]))


@pytest.mark.usefixtures("no_pictures")
def test_a_fit_from_a_tar_is_the_fit_from_the_folder(photos: Path, tmp_path: Path) -> None:
    tar = write_tar(tmp_path / "photos.tar", samples(photos))
    first = frostline.fit(photos, out=tmp_path / "a", **TINY_FIT)
    second = frostline.fit(tar, out=tmp_path / "b", **TINY_FIT)
    assert second.metrics["valid"] == first.metrics["valid"]
    assert second.metrics["phases"][0]["computed"] == 0  # a row belongs to the content, wherever it lies


def test_names_of_tars_are_splits_and_braces_are_numbers(photos: Path, tmp_path: Path) -> None:
    members = samples(photos)
    for i in range(3):
        write_tar(tmp_path / f"train-{i:03}.tar", members[8 * i : 8 * i + 8][: 8 if i < 2 else 4])
    write_tar(tmp_path / "val-000.tar", members[20:])
    found = read_data(tmp_path)
    assert (len(found.train), len(found.valid)) == (10, 2)
    assert read_data(f"{tmp_path}/train-{{000..002}}.tar").origin.endswith("train-{000..002}.tar")
    assert len(read_for_evaluation(tmp_path, found.classes)[0]) == 2
    assert read_for_evaluation(tmp_path, found.classes)[1] == "valid"
    assert read_for_evaluation(tmp_path / "val-000.tar", found.classes, "all")[1] == "all"
    assert len(read_unlabelled([str(tmp_path)])) == 12
    write_tar(tmp_path / "more.tar", members[:2])
    with pytest.raises(DataError, match=r"some tars name a split, but more.tar does not; begin it with train, val or"):
        read_data(tmp_path)
    with pytest.raises(DataError, match=r"1 of 4 tars of .* do not exist: train-003.tar"):
        read_data(f"{tmp_path}/train-{{000..003}}.tar")


def test_several_tars_may_number_their_samples_alike(photos: Path, tmp_path: Path) -> None:
    files = sorted(photos.rglob("*.png"))
    for tar, some in (("a", files[::2]), ("b", files[1::2])):
        members = [
            (f"{i:04}.{kind}", content)
            for i, file in enumerate(some)
            for kind, content in (("png", file.read_bytes()), ("cls", file.parent.name.encode()))
        ]
        write_tar(tmp_path / f"{tar}.tar", members)
    found = read_data(tmp_path)
    names = [name for part in found.splits.values() for name in part.names]
    assert len(set(names)) == 12
    assert "a.tar/0000.png" in names


def test_the_title_is_that_of_the_folder_and_names_that_cannot_be_are_told(photos: Path, tmp_path: Path) -> None:
    folder = tmp_path / "shards"
    folder.mkdir()
    tar = write_tar(folder / "a.tar", samples(photos))
    assert {read_data(data).name for data in (folder, tar)} == {"shards"}
    with pytest.raises(DataError, match="cannot be read: File name too long"):
        read_data("x" * 300 + ".tar")
    (tmp_path / "a.tar.gz").write_bytes(gzip.compress(tar.read_bytes()))
    with pytest.raises(DataError, match="is an archive; extract it, .*; if it is a WebDataset, gunzip a.tar.gz"):
        read_data(tmp_path / "a.tar.gz")


def test_braces() -> None:
    assert expanded("a-{08..10}.tar") == ["a-08.tar", "a-09.tar", "a-10.tar"]
    assert expanded("{0..1}-{1..2}.tar") == ["0-1.tar", "0-2.tar", "1-1.tar", "1-2.tar"]
    assert expanded("a.tar") == ["a.tar"]
    for bad in ("a-{5..1}.tar", "a-{0..9999999}.tar"):
        with pytest.raises(DataError, match="names no files, or more than 100,000"):
            expanded(bad)


def test_what_is_no_sample_is_left_out_with_a_note(photos: Path, tmp_path: Path) -> None:
    members = [*samples(photos), ("lonely.png", b"x"), ("alone.cls", b"flat"), ("._flat.png", b"junk")]
    tar = write_tar(tmp_path / "photos.tar", members)
    with tarfile.open(tar, "a") as more:
        for name, kind, to in (("link.png", tarfile.SYMTYPE, "/etc/passwd"), ("hard.png", tarfile.LNKTYPE, "x")):
            about = tarfile.TarInfo(name)
            about.type, about.linkname = kind, to
            more.addfile(about)
    found = read_data(tar)
    assert sum(map(len, found.splits.values())) == 12
    assert {note for note in found.notes if note.startswith("left out")} == {
        "left out 1 × image without a label",
        "left out 1 × sample without an image",
        "left out 2 × link, sparse or special file in a tar",
    }


def test_the_plain_image_of_a_sample_is_taken(photos: Path, tmp_path: Path) -> None:
    pieces = samples(photos)
    masks = [(name.replace(".png", ".seg.png"), b"mask") for name, _ in pieces if name.endswith(".png")]
    greys = [(name.replace(".seg.png", ".tiff"), b"grey") for name, _ in masks]
    found = read_data(write_tar(tmp_path / "photos.tar", sorted([*pieces, *masks, *greys])[::-1]))
    names = [name for part in found.splits.values() for name in part.names]
    assert sorted(names) == [name for name, _ in pieces if name.endswith(".png")]
    assert "left out 24 × further image of a sample (its name ends at the first dot)" in found.notes


def test_names_with_dots_are_told(photos: Path, tmp_path: Path) -> None:
    members = [(name.replace("/", "/img."), content) for name, content in samples(photos)]
    with pytest.raises(DataError, match=r"left out 10 × further image of a sample \(its name ends at the first dot\)"):
        read_data(write_tar(tmp_path / "photos.tar", members))


@pytest.mark.parametrize(
    ("label", "classes", "left_out"),
    [
        ('{"width": 3}', ("flat", "tall"), None),
        ('{"label": null}', ("flat", "tall"), None),
        ('{"label": null, "class": "tall"}', ("flat", "tall"), None),
        ('{"label": 1.0}', ("1", "flat", "tall"), None),
        ('{"label": 1.5}', ("flat", "tall"), "label that is no text or whole number"),
        ('{"label": false}', ("flat", "tall"), "label that is no text or whole number"),
        ("NaN", ("flat", "tall"), "label that is no text or whole number"),
    ],
)
def test_odd_labels_in_one_sample(
    label: str, classes: tuple[str, ...], left_out: str | None, photos: Path, tmp_path: Path
) -> None:
    members = samples(photos, "txt")
    members[1:1] = [(members[0][0].replace(".png", ".json"), label.encode())]
    found = read_data(write_tar(tmp_path / "photos.tar", members))
    assert (found.classes, sum(map(len, found.splits.values()))) == (classes, 11 if left_out else 12)
    assert [note for note in found.notes if "left out" in note] == ([f"left out 1 × {left_out}"] if left_out else [])


def test_names_that_lead_elsewhere_are_only_names(photos: Path, tmp_path: Path) -> None:
    members = [(f"../../{name}", content) for name, content in samples(photos)]
    found = read_data(write_tar(tmp_path / "photos.tar", members))
    assert found.train.digests[0] == read_data(photos).train.digests[0] or len(found.train) == len(
        read_data(photos).train
    )
    assert list(tmp_path.iterdir()) == [tmp_path / "photos.tar"]


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda content: content[: len(content) // 2 + 100], "is cut off after"),
        (lambda content: content[: content.rindex(b"ustar") - 257], "is cut off after 11 images"),
        (lambda content: content[: -(-len(content.rstrip(b"\0")) // 512) * 512], "is cut off after 11 images"),
        (lambda content: content[: content.rindex(b"ustar") + 9], "is cut off after 11 images"),
        (
            lambda content: content.replace(b"tall/002.png", b"tall/666.png"),
            "is no uncompressed tar (bad header at byte",
        ),
        (lambda content: gzip.compress(content), "is damaged, or is no uncompressed tar"),
        (lambda content: b"", "is damaged, or is no uncompressed tar"),
        (lambda content: b"PK" + content[2:1000], "is damaged, or is no uncompressed tar"),
    ],
)
def test_a_bad_tar_is_told(spoil, told: str, photos: Path, tmp_path: Path, capsys) -> None:
    tar = write_tar(tmp_path / "photos.tar", samples(photos))
    tar.write_bytes(spoil(tar.read_bytes()))
    with pytest.raises(SystemExit) as end:
        main(["fit", str(tar), "--out", str(tmp_path / "run")])
    assert end.value.code == 3
    assert told in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("a.cls", b"\xff\xfe", "the label in a.cls cannot be read"),
        ("a.json", b"{", "the label in a.json cannot be read"),
        ("a.json", b'{"label": ["a", "b"]}', "must be one text or whole number"),
        ("a.txt", b"x" * 1_000_001, "too many for a label"),
        ("b.txt", b"cat", "no images with labels in"),
    ],
)
def test_bad_labels_are_told(name: str, content: bytes, told: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=told):
        read_data(write_tar(tmp_path / "a.tar", [("a.png", b"x"), (name, content)]))


def test_the_headers_are_read_and_not_the_bodies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    big = [
        (f"{i}.{kind}", content)
        for i in range(8)
        for kind, content in (("png", bytes(1 << 20)), ("cls", b"%d" % (i % 2)))
    ]
    tar, read = write_tar(tmp_path / "a.tar", big), []

    class Counting(io.FileIO):
        def read(self, size: int = -1) -> bytes:
            read.append(size)
            return super().read(size)

    monkeypatch.setattr(webdataset, "_opened", lambda where, size: Counting(where))
    (place,) = webdataset.local_tars(tar) or []
    assert len(webdataset._indexed(place).names) == 8
    assert sum(read) < 50_000


def test_a_tar_that_changes_gives_no_other_images(photos: Path, tmp_path: Path) -> None:
    members = samples(photos)
    tar = write_tar(tmp_path / "photos.tar", members)
    images = read_data(tar).train
    digest = images.digests[0]
    write_tar(tar, [("first.cls", b"?" * 700), *members])
    _, same = images.digests.read_again(0)
    assert not same
    assert images.digests[0] == digest
    tar.write_bytes(b"")
    assert images.digests.read_again(0)[1]  # unreadable is no other content: decoding tells it
    with pytest.raises(frostline.data.decoding.UnreadableImageError, match="is shorter than it was"):
        open_image(images.pictures[0])


@pytest.mark.skipif(not shutil.which("tar"), reason="no program tar")
@pytest.mark.parametrize("kind", ["gnu", "posix", "ustar"])
def test_what_the_program_tar_writes_is_read(kind: str, photos: Path, tmp_path: Path) -> None:
    for name, content in samples(photos):
        file = tmp_path / "of" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    tar, sort = tmp_path / "photos.tar", "--sort=name"
    done = subprocess.run(["tar", "-C", tmp_path / "of", f"--format={kind}", sort, "-cf", tar, "."], check=False)
    if done.returncode:
        pytest.skip("this tar sorts no names")
    assert sum(map(len, read_data(tar).splits.values())) == 12


@pytest.mark.long
def test_what_the_real_library_writes_is_read(photos: Path, tmp_path: Path) -> None:
    writer = pytest.importorskip("webdataset", reason="no webdataset: pip install webdataset")
    with writer.TarWriter(str(tmp_path / "photos.tar")) as tar:
        for i, file in enumerate(sorted(photos.rglob("*.png"))):
            tar.write({"__key__": f"{i:06}", "png": file.read_bytes(), "cls": file.parent.name == "tall"})
    found = read_data(tmp_path / "photos.tar")
    assert sum(map(len, found.splits.values())) == 12
