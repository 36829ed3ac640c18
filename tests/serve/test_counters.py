from __future__ import annotations

import re

import pytest

from frostline.serve.counters import Counters


def values(counters: Counters) -> dict[str, float]:
    lines = counters.text().decode().splitlines()
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines if line[:1] != "#")}


def test_requests_are_counted_by_route_and_status():
    counters = Counters(("/predict",))
    for path, status in [("/predict", 200), ("/predict", 200), ("/predict", 422), ("/a", 404), ("/b", 404)]:
        with counters.request({"path": path}) as note:
            note(status)
    with counters.request({"path": "/predict"}):
        pass  # the client has left
    found = values(counters)
    assert found['frostline_requests_total{path="/predict",status="200"}'] == 2
    assert found['frostline_requests_total{path="/predict",status="422"}'] == 1
    assert found['frostline_requests_total{path="/predict",status="gone"}'] == 1
    assert found['frostline_requests_total{path="other",status="404"}'] == 2
    assert found['frostline_request_seconds_count{path="/predict"}'] == 4


def test_a_failure_is_counted_too():
    counters = Counters(("/predict",))
    with pytest.raises(ZeroDivisionError), counters.request({"path": "/predict"}):
        1 / 0  # noqa: B018
    assert values(counters)['frostline_requests_total{path="/predict",status="gone"}'] == 1


def test_no_client_can_add_names():
    counters = Counters(("/predict",))
    for i in range(50):
        with counters.request({"path": f"/{i}"}) as note:
            note(404)
    assert len(re.findall("frostline_requests_total{", counters.text().decode())) == 1


def test_servers_do_not_share_counters():
    one, other = Counters(()), Counters(())
    one.crashes.inc()
    assert values(one)["frostline_decoder_crashes_total"] == 1
    assert values(other)["frostline_decoder_crashes_total"] == 0
