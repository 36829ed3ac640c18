from __future__ import annotations

import pytest

from frostline.cli import main
from frostline.errors import UsageError
from frostline.verbs.report import make_report


def test_what_is_no_run_has_no_page(tmp_path):
    with pytest.raises(UsageError, match="no run at"):
        make_report(tmp_path / "nothing")
    with pytest.raises(SystemExit) as end:
        main(["report", str(tmp_path)])
    assert end.value.code == 2
