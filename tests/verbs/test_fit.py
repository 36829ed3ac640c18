from __future__ import annotations

import inspect
import subprocess
import sys

import pytest

import frostline
from conftest import small_model, write_photos
from frostline.backbones import load_backbone
from frostline.errors import DataError, UsageError
from frostline.fitting.options import Options
from frostline.settings import settings_of
from tasks_data import HOW


def test_the_signature_is_that_of_the_options():
    parameters = inspect.signature(frostline.fit).parameters
    assert list(parameters) == list(settings_of(Options))
    assert all(p.kind is p.KEYWORD_ONLY for name, p in parameters.items() if name != "data")
    assert {name: p.default for name, p in parameters.items() if name != "data"} == {
        name: setting.default for name, setting in settings_of(Options).items() if name != "data"
    }


def test_every_option_is_in_the_documentation_of_fit():
    for name, setting in settings_of(Options).items():
        assert setting.text, name
        assert f"    {name}: " in (frostline.fit.__doc__ or "")


def test_an_unknown_option_is_a_type_error_that_names_it():
    with pytest.raises(TypeError, match="unexpected keyword argument 'epoch'"):
        frostline.fit("digits", epoch=3)


def test_the_signature_needs_no_torch():
    code = "import sys; from frostline.verbs.fit import fit; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_flags_and_options_are_the_same():
    from frostline.cli.fit import command

    flags = {
        p.name: p
        for p in command.params
        if p.name not in ("data", "config", "folds", "resumed", "stop_here", "as_json")
    }
    settings = {name: setting for name, setting in settings_of(Options).items() if name != "data"}
    assert flags.keys() == settings.keys()
    for name, setting in settings.items():
        assert flags[name].default == setting.default, name
        assert tuple(getattr(flags[name].type, "choices", ())) == setting.choices, name


def with_bad_files(folder, empty: int, cut: int):
    """40 images, some of which are empty files and some end too early."""
    files = sorted(write_photos(folder, 20).rglob("*.png"))
    for file in files[:empty]:
        file.write_bytes(b"")
    for file in files[-cut:]:
        file.write_bytes(file.read_bytes()[:60])
    return folder


def test_bad_files_end_no_small_fit_and_many_end_none_that_may_skip_them(tmp_path):
    """Stumble 12."""
    options = {"backbone": load_backbone(small_model(2), preprocessing=HOW), "plan": "probe", "quiet": True}
    run = frostline.fit(with_bad_files(tmp_path / "few", 1, 2), out=tmp_path / "run", report=False, **options)
    assert len(run.metrics["unreadable"]) == 3
    many = with_bad_files(tmp_path / "many", 4, 8)
    with pytest.raises(DataError, match="12 of 40 images cannot be read; at most 10 may be"):
        frostline.fit(many, out=tmp_path / "again", **options)
    run = frostline.fit(many, out=tmp_path / "again", skip_unreadable=True, report=False, **options)  # its name is free
    assert (len(run.metrics["unreadable"]), run.metrics["valid"]["n"]) == (12, 28)


def test_what_can_be_refused_is_refused_before_an_image_is_computed(tmp_path, monkeypatch):
    """Stumbles 12 and 13."""
    monkeypatch.setattr("frostline.store.placement.Placement.extract", None)
    options = {"backbone": load_backbone(small_model(2), preprocessing=HOW), "plan": "probe", "quiet": True}
    with pytest.raises(DataError, match="11 of 40 images cannot be read"):
        frostline.fit(with_bad_files(tmp_path / "empty", 11, 1), out=tmp_path / "run", **options)
    assert not (tmp_path / "run").exists()
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "file").touch()
    monkeypatch.setattr("frostline.fitting.options.Options.read", None)
    with pytest.raises(UsageError, match="taken already exists"):
        frostline.fit(tmp_path / "empty", out=tmp_path / "taken", **options)
