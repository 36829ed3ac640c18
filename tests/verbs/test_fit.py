from __future__ import annotations

import inspect

import frostline
from frostline.cli.options import described


def test_every_option_is_described_and_has_one_default():
    parameters = inspect.signature(frostline.fit).parameters
    assert described(frostline.fit).keys() == parameters.keys()
    assert all(p.kind is p.KEYWORD_ONLY and p.default is not p.empty for n, p in parameters.items() if n != "data")


def test_flags_and_parameters_are_the_same():
    from frostline.cli.fit import command

    flags = {parameter.name for parameter in command.params} - {"data", "config", "as_json"}
    assert flags == set(frostline.fit.__kwdefaults__)
    for parameter in command.params:
        if parameter.name in flags:
            assert parameter.default == frostline.fit.__kwdefaults__[parameter.name], parameter.name
