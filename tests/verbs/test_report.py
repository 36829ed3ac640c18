from __future__ import annotations

import json

import pytest

from frostline.backbones import load_backbone
from frostline.cli import main
from frostline.errors import UsageError, WeightsError
from frostline.verbs.compare import compare
from frostline.verbs.report import make_report
from frostline.verbs.save import save_run


def test_what_is_no_run_has_no_page(tmp_path):
    with pytest.raises(UsageError, match="no run at"):
        make_report(tmp_path / "nothing")
    with pytest.raises(SystemExit) as end:
        main(["report", str(tmp_path)])
    assert end.value.code == 2


@pytest.mark.parametrize(
    "text", ["[1]", "{}", '[{"name": "a"}]', '[{"name": "a", "accuracy": 1}]', "[" * 100_000, "half", "\0"]
)
def test_a_damaged_comparison_is_told(text, tmp_path):
    (tmp_path / "comparison.json").write_text(text)
    with pytest.raises(WeightsError, match=r"comparison\.json is corrupt: .*; copy it again"):
        make_report(tmp_path)


@pytest.mark.parametrize("content", [{}, {"valid": 3}, {"phases": [], "classes": 3}])
def test_a_run_whose_figures_are_not_its_own_is_told(content, tmp_path):
    run = save_run(load_backbone("timm:test_resnet", weights="none").network(classes=2), ["a", "b"], tmp_path / "run")
    (run.path / "metrics.json").write_text(json.dumps(content))
    with pytest.raises(WeightsError, match=r"metrics\.json is corrupt: .* is no .*; copy it again"):
        make_report(run)


@pytest.mark.usefixtures("no_pictures")
def test_of_a_comparison_it_is_its_page(photos, tmp_path, capsys):
    names = ["timm:test_resnet@none", "timm:test_efficientnet@none"]
    compare(photos, backbone=names, plan="probe", image_size=64, out=tmp_path / "out", quiet=True)
    page = tmp_path / "out" / "comparison.html"
    before = page.read_text()
    page.unlink()
    with pytest.raises(SystemExit) as end:
        main(["report", str(tmp_path / "out")])
    assert end.value.code == 0
    assert capsys.readouterr().out.strip() == str(page)
    assert page.read_text() == before
    assert f"frostline compare {photos}" in before
