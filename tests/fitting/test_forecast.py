"""What a fit takes is told before; what is too much is left out."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import yaml

import frostline
from frostline.errors import DivergedError, UsageError
from frostline.fitting import forecast as module
from frostline.fitting.finish import finish
from frostline.fitting.forecast import Forecast, Share, announced, as_json, forecast
from frostline.fitting.phase import run_phase
from frostline.fitting.progress import Progress
from frostline.plan import Phase
from frostline.values import parse_bytes

HEAD = Phase("head", epochs=0)
PLAN = [HEAD, Phase("block2", epochs=10), Phase("stem", epochs=10)]


@pytest.mark.parametrize("wrong", [{"time": "soon"}, {"memory": "much"}, {"disk": "-1GB"}], ids=str)
def test_limits_are_refused_before_anything_is_read(wrong, tmp_path):
    with pytest.raises(UsageError, match="write it as in"):
        frostline.fit(tmp_path / "nothing-here", **wrong)


def test_every_phase_has_its_share(job_of):
    job = job_of(plan=PLAN)
    found = forecast(job)
    assert len(found.phases) == 3
    assert found.phases[0].training == 0 < found.phases[0].once
    assert all(share.training > 0 for share in found.phases[1:])
    assert found.seconds(1) < found.seconds(2) < found.seconds(3)
    assert found.bytes(1) > 0


def test_twice_the_epochs_take_twice_as_long(job_of, monkeypatch):
    monkeypatch.setattr(module, "_per_image", lambda *_: module._Step(0.001, 0))
    few, many = (forecast(job_of(f"run{n}", plan=[HEAD, Phase("block2", epochs=n)])) for n in (10, 20))
    assert many.phases[1].training == pytest.approx(2 * few.phases[1].training, rel=0.05)


def test_what_is_measured_leaves_the_fit_as_it_is(job_of):
    """The same weights, whether or not somebody asked what it takes."""

    class Counting(torch.nn.Module):
        """A loss that remembers: what is measured is not to teach it anything."""

        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("seen", torch.zeros(()))

        def forward(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
            self.seen += 1
            return torch.nn.functional.cross_entropy(logits / (1 + 0.01 * self.seen), targets)

    states = []
    for name, asked in (("one", True), ("other", False)):
        job = job_of(name, plan=[Phase("head", epochs=1), Phase("block2", epochs=2)], loss=Counting())
        random, weights = torch.get_rng_state(), {n: v.clone() for n, v in job.network.model.state_dict().items()}
        if asked:
            assert forecast(job).phases[1].training > 0
        assert torch.equal(torch.get_rng_state(), random)
        assert all(torch.equal(value, weights[n]) for n, value in job.network.model.state_dict().items())
        progress = Progress(job.images)
        for phase in job.plan:
            progress = run_phase(job, progress, phase)
        states.append(job.network.model.state_dict())
    assert all(torch.equal(value, states[1][n]) for n, value in states[0].items())


def test_bytes_are_those_that_the_store_takes(job_of, tmp_path):
    job = job_of(plan=[HEAD], store=tmp_path / "store")
    expected = forecast(job).bytes(1)
    progress = run_phase(job, Progress(job.images), HEAD)
    before = forecast(job_of("again", plan=[HEAD], store=tmp_path / "other"))
    told = as_json(replace(job, forecast=before), progress)
    assert told["bytes"] == {"expected": expected, "actual": expected}
    assert forecast(job_of("later", plan=[HEAD], store=tmp_path / "store")).bytes(1) == 0


def made_up(*training: float, memory: float = 0) -> Forecast:
    return Forecast(tuple(Share(1.0, seconds, 0, int(memory * i)) for i, seconds in enumerate(training)), 1.0)


@pytest.mark.parametrize(
    ("limits", "left"),
    [
        ({"time": "1000s"}, [0, 10, 10]),
        ({"time": "214s"}, [0, 10, 10]),
        ({"time": "154s"}, [0, 10, 5]),
        ({"time": "120s"}, [0, 10]),
        ({"time": "53s"}, [0, 5]),
        ({"time": "10s"}, [0]),
        ({"time": "1s"}, [0]),
        ({"memory": "1500"}, [0, 10]),
        ({"memory": "10"}, [0]),
    ],
    ids=str,
)
@pytest.mark.long
def test_the_deepest_goes_first(limits, left, job_of, monkeypatch):
    """Of 1 + 1 + 101 + 101 seconds: 10 epochs of 10 seconds in each phase that trains."""
    monkeypatch.setattr(module, "forecast", lambda _: made_up(0.0, 100.0, 100.0, memory=1000))
    job = announced(job_of(plan=PLAN, **limits))
    assert [phase.epochs for phase in job.plan] == left
    assert len(job.forecast.phases) == len(left)
    written = yaml.safe_load((job.run.path / "config.yaml").read_text())["plan"]["phases"]
    assert [phase["epochs"] for phase in written] == left
    run_phase(job, Progress(job.images), job.plan[0])


def test_a_single_phase_gets_fewer_epochs_too(job_of, monkeypatch):
    monkeypatch.setattr(module, "forecast", lambda _: made_up(100.0))
    job = announced(job_of(plan=[Phase("block2", epochs=10)], time="52s"))
    assert [phase.epochs for phase in job.plan] == [5]
    config = yaml.safe_load((job.run.path / "config.yaml").read_text())
    assert config["time"] is None  # the plan is what it is by now


def test_a_head_that_cannot_be_solved_takes_what_its_training_takes(job_of):
    solved, trained = (forecast(job_of(name, plan=[HEAD], mixup=alpha)) for name, alpha in (("a", None), ("b", 0.2)))
    assert solved.phases[0].training == 0 < trained.phases[0].training


def test_without_a_forecast_the_fit_goes_on(job_of, monkeypatch, capsys):
    def broken(_):
        raise DivergedError("some layer gives no number for noise")

    monkeypatch.setattr(module, "forecast", broken)
    job = announced(job_of(plan=PLAN, time="1s", quiet=False))
    assert (len(job.plan), job.forecast) == (3, None)
    assert (
        "no forecast: some layer gives no number for noise; --time and --memory have no effect"
        in capsys.readouterr().err
    )


def test_a_fit_that_takes_seconds_is_not_measured(job_of, monkeypatch):
    monkeypatch.setattr(module, "forecast", lambda _: pytest.fail("it was"))
    job = announced(job_of(plan=[HEAD]))
    assert job.forecast is None
    assert as_json(job, Progress(job.images)) is None


@pytest.mark.parametrize("time", [None, "0.001s"])
@pytest.mark.parametrize("disk", ["1kB", "30kB"])
@pytest.mark.long
def test_the_disk_limit_is_kept(time, disk, job_of, tmp_path, no_pictures):
    """What does not fit is computed again in every epoch, and the store stays as it is."""
    plan = [HEAD, Phase("block1", epochs=1)]
    job = announced(job_of(plan=plan, store=tmp_path / "store", disk=disk, time=time))
    job.placement.extract(job.images, ["train", "valid"])
    progress = Progress(job.images)
    for phase in job.plan:
        progress = run_phase(job, progress, phase)
    assert finish(job, progress).metrics["test"]
    assert sum(file.stat().st_size for file in (tmp_path / "store").rglob("*.shard")) <= parse_bytes(disk)


def test_json_of_a_fit(stripes, small, tmp_path, no_pictures, monkeypatch):
    monkeypatch.setattr(module, "WORTHWHILE", 1)
    options = {"backbone": small, "plan": [HEAD, Phase("block2", epochs=2)], "cache": False, "quiet": True}
    told = frostline.fit(stripes, out=tmp_path / "run", **options).metrics["forecast"]
    assert told.keys() == {"seconds", "bytes", "memory", "phases"}
    assert told["seconds"].keys() == {"expected", "at_most", "actual"}
    assert [phase["frostline"] for phase in told["phases"]] == ["head", "block2"]
    assert all(value > 0 for value in told["seconds"].values())
