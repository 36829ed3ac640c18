from __future__ import annotations

import pytest

from frostline.cli import main
from frostline.errors import UsageError
from frostline.verbs.compare import compare
from frostline.verbs.report import make_report


def test_what_is_no_run_has_no_page(tmp_path):
    with pytest.raises(UsageError, match="no run at"):
        make_report(tmp_path / "nothing")
    with pytest.raises(SystemExit) as end:
        main(["report", str(tmp_path)])
    assert end.value.code == 2


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
