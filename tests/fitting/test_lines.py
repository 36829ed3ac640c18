from __future__ import annotations

import shutil
import signal
from dataclasses import replace
from typing import Any

import pytest

from frostline.errors import UsageError
from frostline.fitting import lines
from frostline.fitting.phase import run_phase
from frostline.fitting.progress import Progress
from frostline.runs.run import load_run


def test_an_interruption_tells_what_is_kept(job_of, capsys):
    """Stumble 17."""
    job = job_of(quiet=False)
    run_phase(job, Progress(job.images), job.plan[0])
    for objects, to_go_on in {
        (): f"frostline fit --resume {job.run.path}",
        ("data",): f"frostline.resume({str(job.run.path)!r}, DATA), with the same data, in Python",
    }.items():
        with pytest.raises(KeyboardInterrupt), lines.logged(replace(job, objects=objects)):
            raise KeyboardInterrupt
        assert f"interrupted; to go on: {to_go_on}" in capsys.readouterr().err
    assert (job.run.path / "log.txt").exists()
    with pytest.raises(UsageError, match="is not a finished run; if its fit was interrupted, go on with: frostline"):
        load_run(job.run.path)


def test_under_torchrun_it_goes_on_in_as_many_processes(job_of, capsys, monkeypatch):
    job = job_of(quiet=False)
    run_phase(job, Progress(job.images), job.plan[0])
    for name, value in {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "localhost"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(KeyboardInterrupt), lines.logged(replace(job, objects=())):
        raise KeyboardInterrupt
    told = f"to go on: torchrun --nproc-per-node 2 -m frostline fit --resume {job.run.path}"
    assert told in capsys.readouterr().err


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_a_fit_that_finished_nothing_leaves_its_name_free(error, job_of, capsys):
    """Stumbles 13 and 16."""
    job = job_of(quiet=False)
    with pytest.raises(error), lines.logged(job):
        raise error
    assert not job.run.path.exists()
    assert ("interrupted; nothing was measured" in capsys.readouterr().err) == (error is KeyboardInterrupt)


def test_twin_class_names_are_said_before_an_image_is_computed(job_of, stripes, capsys):
    job_of(data=replace(stripes, classes=("Ants", "plain", "ants ")), quiet=False)
    said = capsys.readouterr().err
    assert "warning: 'Ants' and 'ants ' differ only in case" in said
    assert "give them one name" in said
    job_of("other", quiet=False)
    assert "differ only" not in capsys.readouterr().err


def test_class_names_with_commas_are_quoted(job_of, stripes, capsys):
    """Stumble 9."""
    job_of(data=replace(stripes, classes=("ant, dark", "plain", "tall")), quiet=False)
    assert '3 classes: "ant, dark", plain, tall\n' in capsys.readouterr().err


def test_a_phase_says_where_its_activations_come_from(job_of, capsys):
    job = job_of(cache=False, quiet=False)
    with lines.logged(job):
        progress = run_phase(job, Progress(job.images), job.plan[0])
        run_phase(job, progress, job.plan[1])
    log = (job.run.path / "log.txt").read_text()
    assert "phase 1/3: training head" in log
    assert "the rest is frozen and recomputed in every epoch: 48 images" in log
    assert "  epoch  3/3" in log


def test_a_second_ctrl_c_does_not_leave_half_a_folder(job_of, monkeypatch):
    """It came while the first one was cleaning up, and the folder that was left blocked its name."""
    job = job_of(quiet=True)
    removing = shutil.rmtree

    def interrupted(*of: Any, **more: Any) -> None:
        signal.raise_signal(signal.SIGINT)
        removing(*of, **more)

    monkeypatch.setattr("frostline.runs.run.shutil.rmtree", interrupted)
    with pytest.raises(KeyboardInterrupt), lines.logged(replace(job, objects=())):
        raise KeyboardInterrupt
    assert not job.run.path.exists()
