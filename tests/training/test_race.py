"""Which settings a phase may train with."""

from __future__ import annotations

import pytest

from frostline.plan import Phase
from frostline.training.race import Heat, candidates

PHASE = Phase("layer4", race=True)


@pytest.mark.parametrize(
    ("has_batchnorm", "pretrained", "modes"),
    [(True, True, {"frozen"}), (True, False, {"updated"}), (False, True, {"frozen"}), (False, False, {"frozen"})],
)
def test_what_is_tried_is_what_the_network_has(has_batchnorm, pretrained, modes):
    found = candidates(PHASE, has_batchnorm=has_batchnorm, pretrained=pretrained)
    assert {phase.batchnorm for phase in found} == modes
    assert all(phase.lr for phase in found)
    assert len(set(found)) == len(found) > 1


def test_the_gentlest_comes_last():
    for known in ({"has_batchnorm": True, "pretrained": True}, {"has_batchnorm": False, "pretrained": True}):
        found = candidates(PHASE, **known)
        assert found[-1].lr == min(phase.lr for phase in found)


def test_sgd_takes_ten_times_the_rates_of_adamw():
    known = {"has_batchnorm": True, "pretrained": True}
    adamw, sgd = (candidates(Phase("layer4", race=True, optimizer=name), **known) for name in ("adamw", "sgd"))
    assert [phase.lr for phase in sgd] == pytest.approx([10 * phase.lr for phase in adamw])


def test_what_somebody_names_stays():
    phase = Phase("layer4", race=True, lr=0.5, batchnorm="updated")
    assert candidates(phase, has_batchnorm=True, pretrained=True) == [phase]
    only = candidates(Phase("layer4", race=True, batchnorm="updated"), has_batchnorm=False, pretrained=True)
    assert {each.batchnorm for each in only} == {"updated"}


def test_a_heat_is_a_value():
    heat = Heat(lr=1e-3, batchnorm="frozen", epochs=2, images=9, loss=0.5)
    assert heat == Heat(1e-3, "frozen", 2, 9, 0.5, losses=(), accuracies=())
