"""The store of a URL on the command line: listed and checked, never emptied."""

from __future__ import annotations

import json

import pytest

from buckets import served
from commands import command
from conftest import write_photos
from frostline.cli import frostline as frostline_command
from frostline.cli import main
from frostline.engines.choice import plain_engine
from frostline.store import sharing

pytest.importorskip("obstore", reason="the extra remote is not installed")

FEATURES = ["--backbone", "timm:test_resnet", "--weights", "none", "--image-size", 32, "--precision", "fp32"]


@pytest.fixture
def bucket(monkeypatch):
    monkeypatch.setattr(sharing, "_refused", {})
    with served(monkeypatch) as own:
        yield own


def test_a_bucket_is_filled_listed_and_checked(bucket, tmp_path, capsys, monkeypatch):
    url = "s3://bucket/team"
    monkeypatch.setattr("frostline.verbs.features._say_costs", lambda *_: None)
    monkeypatch.setattr("frostline.store.filling.fastest", lambda frozen, machine, *_: plain_engine(frozen, machine))
    filled = command("features", write_photos(tmp_path / "photos", 6), *FEATURES, "--store", url, "--json").json
    assert (filled["store"], filled["rows"], filled["computed"]) == (url, 12, 12)
    (listed,) = command("cache", "ls", "--store", url, "--json").json
    assert listed["label"] == "below head"
    assert listed["bytes"] == sum(len(content) for name, content in bucket.files.items() if name.endswith(".shard"))
    text = command("cache", "ls", "--cache-dir", url).out
    assert f"{listed['key'][:12]}  " in text
    assert text.endswith(f"in 1 store under {url}\n")
    assert command("cache", "verify", "--store", url, "--json").json["damaged"] == []
    name = next(name for name in bucket.files if name.endswith(".shard"))
    bucket.files[name] = bucket.files[name][:100] + b"!" + bucket.files[name][101:]
    with pytest.raises(SystemExit, match="4"):
        main(["cache", "verify", "--store", url])
    said = capsys.readouterr()
    assert name.partition("/")[2].partition("/")[2] in said.out
    assert said.err == "1 damaged: they are not used; remove them with the tools of the bucket\n"


@pytest.mark.parametrize("words", [("prune",), ("clear",), ("verify", "--remove")])
def test_nothing_is_removed_from_a_bucket(bucket, words):
    bucket.files["team/activations/x"] = b"1"
    answer = command("cache", *words, "--store", "s3://bucket/team")
    assert answer.code == 2
    assert "removes nothing from a store that others share" in answer.error
    assert list(bucket.files) == ["team/activations/x"]


@pytest.mark.parametrize("verb", ["ls", "verify"])
def test_a_bucket_that_cannot_be_read(bucket, verb):
    bucket.fault = lambda *_: 403
    answer = command("cache", verb, "--store", "s3://bucket/team")
    assert answer.code == 7
    assert "cannot list s3://bucket/team" in answer.error


@pytest.mark.parametrize("words", [("cache", "ls"), ("cache", "clear"), ("features", "digits")])
@pytest.mark.parametrize("store", ["s3://me:secret@bucket", "s4://bucket", "s3://"])
def test_a_url_that_names_no_store(words, store):
    answer = command(*words, "--store", store)
    assert answer.code == 2
    assert "secret" not in answer.err + answer.out


def test_the_variable_names_a_folder_only(monkeypatch):
    monkeypatch.setenv("FROSTLINE_CACHE", "s3://bucket/x")
    answer = command("cache", "ls")
    assert answer.code == 2
    assert "give the URL with --store" in answer.error


@pytest.mark.parametrize("verb", ["ls", "verify"])
def test_a_folder_that_does_not_exist_is_no_store(verb, tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["cache", verb, "--store", str(tmp_path / "misspelt")])
    assert ended.value.code == 2
    assert "there is no store at" in capsys.readouterr().err


def test_an_empty_bucket_has_nothing():
    assert json.loads(command("cache", "ls", "--store", "memory://empty", "--json").out) == []


@pytest.mark.parametrize("verb", ["fit", "features", "check", "inspect"])
def test_the_old_name_of_the_flag_stays_valid(verb):
    names = {name for parameter in frostline_command.get_command(None, verb).params for name in parameter.opts}
    assert {"--store", "--cache-dir"} <= names
