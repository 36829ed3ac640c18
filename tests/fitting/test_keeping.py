from __future__ import annotations

import math

import pytest
import torch

from conftest import assert_same_state, state_of
from frostline.errors import MachineError
from frostline.fitting import keeping
from frostline.fitting.keeping import Keeper, keeper_of, kept
from frostline.fitting.saved import forget
from frostline.plan import Phase
from trainings import figures, training


def test_a_training_is_kept_and_found_again(tmp_path, fp32):
    first, whole = training(machine=fp32), training(machine=fp32)
    steps, epochs = first.steps(), []
    for _ in range(7):
        epochs += [reached] if (reached := next(steps)) else []
    keeper = Keeper(tmp_path / "training-1-x.safetensors", 1)
    assert kept(keeper) is None
    keeper.keep(first, epochs)
    state, found = kept(keeper)
    assert found == epochs
    second = training(machine=fp32)
    second.load_state_dict(state)
    assert_same_state(state_of(first.upper), second.upper)
    assert figures(second) == figures(whole)[len(epochs) :]


def test_a_damaged_file_is_said_and_not_used(tmp_path, fp32, capsys):
    keeper = Keeper(tmp_path / "training-1-x.safetensors", 1)
    keeper.keep(training(machine=fp32), [])
    keeper.file.write_bytes(keeper.file.read_bytes()[:-1] + b"?")
    assert kept(keeper) is None
    assert "training-1-x.safetensors is damaged" in (told := capsys.readouterr().err)
    assert "this training begins anew" in told


def test_where_it_cannot_be_written_the_training_goes_on(tmp_path, fp32, capsys, monkeypatch):
    def full(*_: object) -> None:
        raise MachineError("cannot write x: No space left on device")

    monkeypatch.setattr(keeping, "write_checked", full)
    keeper = Keeper(tmp_path / "x", 1)
    assert keeper.is_due(after_epoch=True)
    keeper.keep(training(machine=fp32), [])
    assert "the state of this training cannot be saved: cannot write x: No space left" in capsys.readouterr().err
    assert keeper.is_due(after_epoch=False) is False  # later there may be room again
    keeper.keep(training(machine=fp32), [])
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("waited", "took", "after_epoch", "within"),
    [(0.0, 0.0, True, False), (19.0, 1.0, False, False), (21.0, 1.0, True, False), (301.0, 1.0, True, True)]
    + [(301.0, 20.0, False, False)],
)
def test_writing_takes_a_twentieth_of_the_time_at_most(waited, took, after_epoch, within, tmp_path, monkeypatch):
    keeper = Keeper(tmp_path / "x", 1, written=100.0, seconds=took)
    monkeypatch.setattr("time.perf_counter", lambda: 100.0 + waited)
    assert keeper.is_due(after_epoch=True) is after_epoch
    assert keeper.is_due(after_epoch=False) is within


def test_every_training_of_a_phase_has_its_own_file_until_the_phase_is_over(job_of):
    job, phase = job_of(), Phase("block2", epochs=2)
    keepers = [keeper_of(job, *of) for of in ((2, phase, 30), (2, phase, 20), (2, Phase("block2", epochs=3), 30))]
    keepers.append(keeper_of(job, 3, phase, 30))
    assert len({keeper.file for keeper in keepers}) == 4
    assert keeper_of(job, 2, phase, 30).file == keepers[0].file
    for keeper in keepers:
        keeper.file.parent.mkdir(exist_ok=True)
        keeper.file.touch()
    forget(job.run, 2)
    assert [keeper.file.exists() for keeper in keepers] == [False, False, False, True]


def test_states_of_any_shape_survive():
    state = {"a": 1, "b": math.inf, "c": None, "d": {"x.y": torch.ones(2), "tensor": 3}, "e": [torch.zeros(1), "z"]}
    tensors: dict[str, torch.Tensor] = {}
    tree = keeping._without_tensors(state, tensors)
    again = keeping._with_tensors(tree, tensors)
    assert again["d"]["tensor"] == 3
    assert torch.equal(again["d"]["x.y"], torch.ones(2))
    assert (again["a"], again["b"], again["c"], again["e"][1]) == (1, math.inf, None, "z")
