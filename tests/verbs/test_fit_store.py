"""A fit with a store in a bucket: the same result as without, from any machine, and no secret anywhere."""

from __future__ import annotations

from pathlib import Path

import pytest

import frostline
from buckets import SECRETS, served
from commands import command
from conftest import TINY_FIT
from frostline.store import sharing

pytest.importorskip("obstore", reason="the extra remote is not installed")

pytestmark = pytest.mark.usefixtures("no_pictures")
FIT = {**TINY_FIT, "plan": [frostline.Phase("layer4", epochs=1, views=2)], "image_size": 32, "precision": "fp32"}


@pytest.fixture
def bucket(monkeypatch):
    monkeypatch.setattr(sharing, "_refused", {})
    with served(monkeypatch) as own:
        yield own


def written(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def secrets_in(content: bytes) -> list[str]:
    return [secret for secret in SECRETS if secret.encode() in content]


def losses(run) -> list[float]:
    return [entry["train_loss"] for entry in run.history]


def test_a_fit_with_a_bucket_is_the_fit_without(bucket, stripes, tmp_path, monkeypatch, capsys):
    alone = frostline.fit(stripes, out=tmp_path / "alone", store=tmp_path / "own", **FIT)
    runs = []
    for machine in ("a", "b"):
        monkeypatch.setenv("FROSTLINE_CACHE", str(tmp_path / machine))
        runs.append(frostline.fit(stripes, out=tmp_path / f"run-{machine}", store="s3://bucket/team", **FIT))
    assert losses(runs[0]) == losses(runs[1]) == losses(alone)
    phases = [run.metrics["phases"][0] for run in runs]
    assert phases[0]["computed"] > 0
    assert phases[1]["computed"] == 0, "the second machine computed what the first had stored"
    said = capsys.readouterr()
    for name, content in {**written(tmp_path), "said": (said.out + said.err).encode()}.items():
        assert not secrets_in(content), name
    assert "store: s3://bucket/team" in (tmp_path / "run-a" / "config.yaml").read_text()


@pytest.mark.parametrize("fault", [403, 503])
def test_a_bucket_that_fails_ends_a_fit_at_once_in_one_line(bucket, photos, tmp_path, monkeypatch, fault):
    bucket.fault = lambda *_: fault
    words = [
        "--backbone",
        "timm:test_resnet",
        "--weights",
        "none",
        "--plan",
        "probe",
        "--out",
        tmp_path / "run",
    ]
    answer = command("fit", photos, "--store", "s3://bucket/team", *words)
    assert answer.code == 7
    assert "cannot list s3://bucket/team/activations: " in answer.err
    assert not secrets_in((answer.out + answer.err).encode())
    assert not (tmp_path / "run").exists()
