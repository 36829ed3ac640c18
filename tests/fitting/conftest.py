from __future__ import annotations

import pytest

from conftest import small_backbone
from frostline.fitting.options import Options
from frostline.fitting.setup import prepare
from frostline.plan import Phase

PLAN = [Phase("head", epochs=0), Phase("block2", epochs=3, lr=1e-2), Phase("stem", epochs=2, lr=1e-3)]


@pytest.fixture
def job_of(stripes, tmp_path):
    """Jobs on the stripes and a small network, ready to run."""

    def make(name="run", data=stripes, **options):
        usual = {"backbone": small_backbone(), "plan": PLAN, "precision": "fp32", "quiet": True, "device": "cpu"}
        return prepare(Options(data, out=tmp_path / name, **{**usual, **options}))

    return make
