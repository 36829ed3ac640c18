from __future__ import annotations

from conftest import SIZE, small_model
from frostline.backbones import load_backbone
from frostline.inspection import inspect
from frostline.preprocessing import Preprocessing


def test_stages_with_what_they_cost():
    about = inspect(load_backbone(small_model(), preprocessing=Preprocessing(size=SIZE)))
    stages = {stage["name"]: stage for stage in about["stages"]}
    assert list(stages) == ["stem", "block1", "block2", "pool", "head"]
    assert stages["stem"]["stored_bytes"] == 3 * SIZE * SIZE
    assert stages["block2"]["stored_bytes"] == 2 * 16 * 8 * 8
    assert stages["head"]["parameters"] == stages["head"]["trains"] == 25 * 5
    assert stages["stem"]["trains"] == sum(p.numel() for p in small_model().parameters())
    assert about["untraceable"] == ""
