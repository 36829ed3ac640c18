"""Statistics of BatchNorm, measured anew on stored activations."""

from __future__ import annotations

import torch

from frostline.plan import Phase
from frostline.training.judging import predict_all
from frostline.training.statistics import BATCH, measure_statistics, norms_of, start_updated
from trainings import training

PHASE = Phase("block2", epochs=1, batchnorm="updated")


def test_the_statistics_are_those_of_the_rows(fp32):
    run = training(machine=fp32, phase=PHASE)
    rows = run.train
    assert len(rows) <= BATCH  # one batch: its statistics are those of all rows
    seen = []
    norm = run.upper.get_submodule("block2.norm1")
    hook = norm.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    measure_statistics(run.upper, rows)
    hook.remove()
    (x,) = seen
    torch.testing.assert_close(norm.running_mean, x.mean((0, 2, 3)))
    torch.testing.assert_close(norm.running_var, x.var((0, 2, 3)))
    assert norm.momentum == 0.1
    assert not run.upper.training


def test_only_statistics_change(fp32):
    run = training(machine=fp32, phase=PHASE)
    before = {name: value.clone() for name, value in run.network.model.state_dict().items()}
    measure_statistics(run.upper, run.train)
    changed = {n for n, v in run.network.model.state_dict().items() if not torch.equal(v, before[n])}
    assert changed
    assert all(name.startswith("block2") and ("running" in name or "num_batches" in name) for name in changed)


def test_the_head_is_solved_upon_them(fp32):
    run = training(machine=fp32, phase=PHASE)
    frostline = run.network.stage_names()[-1]
    measure_statistics(run.upper, run.train)
    _, unsolved = predict_all(run.upper, run.train)
    start_updated(run.network, run.upper, "block2", run.train, fp32)
    _, solved = predict_all(run.upper, run.train)
    assert solved < 0.5 * unsolved
    assert run.network.depth(frostline) > run.network.depth("block2")
    trains = {name for name, p in run.network.model.named_parameters() if p.requires_grad}
    assert any("block2" in name for name in trains)  # as the cut left it


def test_a_head_that_cannot_be_solved_stays(fp32):
    run = training(machine=fp32, phase=PHASE)
    before = {n: p.clone() for n, p in run.network.model.named_parameters()}
    start_updated(run.network, run.upper, "block2", run.train, fp32, solvable=False)
    assert all(torch.equal(p, before[n]) for n, p in run.network.model.named_parameters())
    assert norms_of(run.upper)
