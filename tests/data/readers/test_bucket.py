"""Images at a URL: the same as in a local folder, read once, and never from another place."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

import frostline
from buckets import SECRETS, Bucket, served
from conftest import small_backbone, write_photos
from data.readers.test_webdataset import samples, write_tar
from frostline.cli import main
from frostline.data import read_data, read_for_evaluation, read_unlabelled
from frostline.data.readers import bucket as reading
from frostline.data.readers.columns import Wanted
from frostline.errors import DataError, MachineError, UsageError
from frostline.remote import at

pytest.importorskip("obstore", reason="no obstore: pip install 'frostline[remote]'")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_photos(tmp_path_factory.mktemp("of") / "photos", 6)


@pytest.fixture
def bucket(photos: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    with served(monkeypatch) as own:
        for file in sorted(photos.rglob("*.png")):
            own.files[f"photos/{file.relative_to(photos).as_posix()}"] = file.read_bytes()
        yield own


def listed(photos: Path, before: str = "") -> str:
    """A manifest of the photos, two of each person."""
    files = [file.relative_to(photos).as_posix() for file in sorted(photos.rglob("*.png"))]
    rows = [f"{before}{name},{name.partition('/')[0]},p{i // 2}" for i, name in enumerate(files)]
    return "path,label,who\n" + "\n".join(rows)


def failed(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    with pytest.raises(SystemExit) as end:
        main(list(words))
    said = capsys.readouterr().err
    assert not any(secret in said for secret in SECRETS)
    assert "Traceback" not in said
    return int(end.value.code or 0), said


def test_a_bucket_is_the_folder(bucket: Bucket, photos: Path, tmp_path: Path) -> None:
    bucket.files["list.csv"] = listed(photos, "photos/").encode()
    rows = [line.split(",") for line in listed(photos).splitlines()[1:]]
    full = [json.dumps({"path": f"s3://bucket/photos/{path}", "label": label}) for path, label, _ in rows]
    bucket.files["full.jsonl"] = "\n".join(full).encode()
    bucket.files["tars/photos.tar"] = write_tar(tmp_path / "photos.tar", samples(photos)).read_bytes()
    folder = read_data(photos)
    for url in ("s3://bucket/photos/", "s3://bucket/photos", "s3://bucket/tars", "s3://bucket/tars/photos.tar"):
        found = read_data(url)
        assert (found.classes, found.origin) == (folder.classes, url)
        assert [list(part.names) for part in found.splits.values()] == [list(p.names) for p in folder.splits.values()]
        assert found.train.digests == folder.train.digests
    for url in ("s3://bucket/list.csv", "s3://bucket/full.jsonl"):
        found = read_data(url)
        every = [digest for part in found.splits.values() for digest in part.digests]
        assert sorted(every) == sorted(digest for part in folder.splits.values() for digest in part.digests)
        assert sorted(found.train.names)[0] == "photos/flat/000.png"
    assert len(set(read_data("s3://bucket/list.csv", group="who").groups.values())) == 6
    assert len(read_for_evaluation("s3://bucket/photos", ("tall", "flat"))[0]) == 12
    assert len(read_for_evaluation("s3://bucket/list.csv", ("tall", "flat"))[0]) == 12


def test_rows_of_the_same_bytes_are_found_and_no_image_is_read_for_them_again(bucket: Bucket, photos: Path) -> None:
    options = {"backbone": small_backbone(), "augment": "none", "precision": "fp32", "quiet": True}
    first = frostline.features("s3://bucket/photos", **options)
    assert (first.computed, first.rows, first.unreadable) == (12, 12, ())
    bucket.asked.clear()
    assert frostline.features("s3://bucket/photos", **options).computed == 0
    assert bucket.counted("LIST") == 1
    assert bucket.counted("GET") <= 4  # a few rows are computed again: the store must hold what this network gives
    assert frostline.features(photos, **options).computed == 0
    bucket.files["photos/flat/000.png"] = (photos / "tall" / "000.png").read_bytes() + b"more"
    assert frostline.features("s3://bucket/photos", **options).computed == 1  # its tag is another one
    assert ("GET", "photos/flat/000.png") in bucket.asked


def test_an_empty_member_of_a_tar_is_one_unreadable_image(bucket: Bucket, photos: Path, tmp_path: Path) -> None:
    members = [(name, b"" if name == "flat/002.png" else content) for name, content in samples(photos)]
    bucket.files["tars/photos.tar"] = write_tar(tmp_path / "photos.tar", members).read_bytes()
    for data in ("s3://bucket/tars", tmp_path / "photos.tar"):
        found = frostline.features(data, backbone=small_backbone(), augment="none", quiet=True)
        assert (found.unreadable, found.images) == ((("flat/002.png", "empty file"),), 11)


def test_what_is_given_to_predict(bucket: Bucket) -> None:
    found = read_unlabelled(["s3://bucket/photos", "s3://bucket/photos/flat/001.png"])
    assert len(found) == 13
    assert (found.names[0], found.names[12]) == ("s3://bucket/photos/flat/000.png", "s3://bucket/photos/flat/001.png")


def test_single_images_that_fail_are_unreadable(bucket: Bucket) -> None:
    fails = {"photos/flat/001.png": 403, "photos/flat/002.png": 404, "photos/tall/003.png": "cut"}
    bucket.fault = lambda method, name, content: fails.get(name) if method == "GET" else None
    found = frostline.features("s3://bucket/photos", backbone=small_backbone(), augment="none", quiet=True)
    said = dict(found.unreadable)
    assert (said["flat/001.png"], said["tall/003.png"]) == ("it is forbidden (403)", "it was cut off")
    assert said["flat/002.png"] == "no such file: s3://bucket/photos/flat/002.png"
    assert (found.images, len(said)) == (9, 3)


@pytest.mark.parametrize(
    ("fault", "code", "told"),
    [
        (403, 7, "cannot list s3://bucket/photos: it is forbidden (403)"),
        (503, 7, "cannot list s3://bucket/photos: the service is busy (503)"),
        (404, 7, "cannot list s3://bucket/photos: there is no such bucket"),
        (
            b"<ListBucketResult><IsTruncated>false</IsTruncated></ListBucketResult>",
            3,
            "no images under s3://bucket/photos",
        ),
    ],
)
def test_a_bucket_that_cannot_be_listed_is_told(fault, code: int, told: str, bucket: Bucket, tmp_path, capsys) -> None:
    bucket.fault = lambda method, name, content: fault if method == "LIST" else None
    found, said = failed(capsys, "fit", "s3://bucket/photos", "--out", str(tmp_path / "run"))
    assert (found, told in said) == (code, True), said
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("path", "told"),
    [
        ("../other/a.png", "leads out of s3://bucket/photos"),
        ("flat/../../a.png", "leads out of s3://bucket/photos"),
        ("/etc/passwd", "leads out of s3://bucket/photos"),
        ("s3://bucket/private/a.png", "leads out of s3://bucket/photos"),
        ("s3://other/photos/a.png", "leads out of s3://bucket/photos"),
        ("http://127.0.0.1:1/a.png", "leads out of s3://bucket/photos"),
        ("file:///etc/passwd", "leads out of s3://bucket/photos"),
        ("flat/gone.png", "1 of 13 records of s3://bucket/photos/list.csv name files that do not exist: flat/gone.png"),
        ("s3://bucket/photos/flat/gone.png", "name files that do not exist: flat/gone.png (line 14)"),
    ],
)
def test_B24_paths_that_lead_out_are_refused(
    path: str, told: str, bucket: Bucket, photos: Path, tmp_path, capsys
) -> None:
    bucket.files["photos/list.csv"] = f"{listed(photos)}\n{path},flat,p9".encode()
    code, said = failed(capsys, "fit", "s3://bucket/photos/list.csv", "--out", str(tmp_path / "run"))
    assert (code, told in said) == (3, True), said
    assert {name for method, name in bucket.asked if method == "GET"} == {"photos/list.csv"}


def test_marks_of_folders_are_no_images(bucket: Bucket) -> None:
    whole = read_data("s3://bucket/photos").train.names
    bucket.files |= {"photos/flat/": b"", "photos/tall/dir.png/": b"", "photos/tall/dir.png/a.txt": b"x"}
    found = read_data("s3://bucket/photos")
    assert found.train.names == whole
    assert "skipped 1 file without an image extension" in found.notes


def test_bad_addresses_are_told(bucket: Bucket, tmp_path: Path) -> None:
    bucket.files["seg.csv"] = (
        b"path,mask\nphotos/flat/000.png,photos/tall/000.png\nphotos/flat/001.png,photos/tall/000.png"
    )
    for url, kind, told in [
        ("http://host/photos", UsageError, "is a web address"),
        ("ftp://host/photos", UsageError, "unknown scheme of a URL 'ftp'"),
        ("s3://key:secret@bucket/photos", UsageError, "holds a user or password"),
        ("s3://bucket/coco.json", UsageError, "are read from a local folder only"),
        ("s3://bucket/a.tar.gz", DataError, "is compressed; give what gunzip makes of it if it is a WebDataset"),
        ("s3://bucket/gone.csv", DataError, "no manifest s3://bucket/gone.csv"),
        ("s3://bucket/seg.csv", DataError, "masks are read from a local folder only"),
        ("s3://bucket/photos/a-{0..3}.tar", DataError, "4 of 4 tars of .* do not exist: a-0.tar"),
        ("s3://bucket/{0..3}/a.tar", DataError, "has braces in a folder"),
    ]:
        with pytest.raises(kind, match=told):
            read_data(url)
    bucket.files["list.csv"] = b"path,label\nphotos/flat/000.png,flat"
    with pytest.raises(UsageError, match="--images is for local manifests"):
        read_data("s3://bucket/list.csv", wanted=Wanted(images=tmp_path))


def test_parquet_in_a_bucket(bucket: Bucket, photos: Path, tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow", reason="no pyarrow: pip install 'frostline[parquet]'")
    parquet = pytest.importorskip("pyarrow.parquet")
    rows = [line.split(",") for line in listed(photos).splitlines()[1:]]
    parquet.write_table(
        pyarrow.table({"path": [row[0] for row in rows], "label": [row[1] for row in rows]}), tmp_path / "list.parquet"
    )
    bucket.files["photos/list.parquet"] = (tmp_path / "list.parquet").read_bytes()
    found, folder = read_data("s3://bucket/photos/list.parquet"), read_data(photos)
    assert found.train.digests == folder.train.digests


def test_a_manifest_does_not_list_a_place_with_many_more_files(bucket: Bucket, photos: Path, monkeypatch) -> None:
    monkeypatch.setattr(reading, "LISTED", 5)
    monkeypatch.setattr(reading, "LISTED_PER_RECORD", 0)
    bucket.files["photos/list.csv"] = f"{listed(photos)}\nflat/gone.png,flat,p9".encode()
    found = read_data("s3://bucket/photos/list.csv")
    assert len(found.train) + len(found.valid) == 13  # what is gone shows when it is read
    assert not found.train.digests.status.any()


def test_headers_of_a_large_tar_are_read_by_ranges(bucket: Bucket, tmp_path: Path, monkeypatch) -> None:
    pairs = [(("png", bytes(50_000)), ("cls", b"%d" % (i % 2))) for i in range(6)]
    members = [(f"{i}.{kind}", content) for i, pair in enumerate(pairs) for kind, content in pair]
    content = write_tar(tmp_path / "a.tar", members).read_bytes()
    bucket.files["tars/a.tar"] = content
    monkeypatch.setattr("frostline.data.readers.webdataset.AHEAD", 4096)
    sent: list[int] = []
    bucket.fault = lambda method, name, piece: sent.append(len(piece)) if method == "GET" else None
    assert len(read_data("s3://bucket/tars/a.tar").train) >= 4
    assert sum(sent) < len(content) + 6 * 8192
    sent.clear()
    monkeypatch.setattr("frostline.data.grouping.copies_together", lambda images, *_: images)
    found = reading.elsewhere("s3://bucket/tars/a.tar")
    assert len(found.names) == 6
    assert sum(sent) < len(content) // 4


def test_what_is_in_memory_is_not_remembered(photos: Path) -> None:
    remote = at("memory://test-bucket/photos")
    for file in photos.rglob("*.png"):
        remote.put(file.relative_to(photos).as_posix(), file.read_bytes())
    found = read_data("memory://test-bucket/photos")
    assert found.classes == ("flat", "tall")
    assert not found.train.pictures.marks.any()


def test_a_service_that_ends_in_mid_pass_ends_the_pass(bucket: Bucket, photos: Path) -> None:
    found = read_data("s3://bucket/photos")
    bucket.fault = lambda method, name, content: 503
    with pytest.raises(MachineError, match=r"cannot read s3://bucket/photos/.*: the service is busy"):
        found.train.digests.all()
