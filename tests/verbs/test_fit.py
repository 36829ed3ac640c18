from __future__ import annotations

import inspect
import subprocess
import sys

import pytest

import frostline
from frostline.fitting.options import Options
from frostline.settings import settings_of


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

    flags = {p.name: p for p in command.params if p.name not in ("data", "config", "as_json")}
    settings = {name: setting for name, setting in settings_of(Options).items() if name != "data"}
    assert flags.keys() == settings.keys()
    for name, setting in settings.items():
        assert flags[name].default == setting.default, name
        assert tuple(getattr(flags[name].type, "choices", ())) == setting.choices, name
