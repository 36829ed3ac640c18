"""A job with a logbook, and what the logbook gets at the end."""

from __future__ import annotations

import contextlib

import pytest

from frostline.fitting.tracking import tracked
from frostline.runs.run import write_json, write_text
from frostline.trackers import Logbook


class Listed(Logbook):
    def __init__(self):
        super().__init__()
        self.results = []

    def result(self, metrics, pictures):
        self.results.append((metrics, [picture.name for picture in pictures]))


@pytest.fixture
def book(monkeypatch):
    book, asked = Listed(), []

    @contextlib.contextmanager
    def opened(*how):
        asked.append(how)
        yield book

    monkeypatch.setattr("frostline.trackers.opened", opened)
    book.asked = asked
    return book


def test_the_job_inside_has_the_logbook_and_the_end_of_it_the_result(job_of, book):
    job = job_of()
    with tracked(job) as inside:
        assert inside.logbook is book
        assert book.results == []
        write_json(job.run, "metrics.json", {"seconds": 1.0})
        write_text(job.run, "plots/b.png", "")
        write_text(job.run, "plots/a.png", "")
        write_text(job.run, "plots/a.svg", "")
    assert book.results == [({"seconds": 1.0}, ["a.png", "b.png"])]
    tools, folder, config = book.asked[0]
    assert (tools, folder) == ((), job.run.path)
    assert config["seed"] == 0


def test_what_ends_with_an_error_has_no_result(job_of, book):
    with pytest.raises(KeyError), tracked(job_of()):
        raise KeyError
    assert book.results == []
