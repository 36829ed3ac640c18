"""What /metrics tells, in the text format of Prometheus."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

SECONDS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)
SIZES = (1, 2, 4, 8, 16, 32)


class Counters:
    """The counters of one server.

    paths: the routes; requests of others are counted together, because a client could think of any number.
    """

    def __init__(self, paths: tuple[str, ...]) -> None:
        self.paths = paths
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "frostline_requests", "Requests, by route and status.", ["path", "status"], registry=self.registry
        )
        self.seconds = Histogram(
            "frostline_request_seconds",
            "Seconds from the headers of a request to its answer.",
            ["path"],
            buckets=SECONDS,
            registry=self.registry,
        )
        self.images = Counter("frostline_images", "Images, by result.", ["result"], registry=self.registry)
        self.batches = Histogram(
            "frostline_batch_images", "Images per batch of the network.", buckets=SIZES, registry=self.registry
        )
        self.waiting = Gauge("frostline_waiting_images", "Images that wait for their answer.", registry=self.registry)
        self.crashes = Counter(
            "frostline_decoder_crashes", "Processes that ended or hung while decoding.", registry=self.registry
        )

    @contextmanager
    def request(self, scope: Mapping[str, Any]) -> Iterator[Callable[[int], None]]:
        """Count one request, whose status is given to the function; without a status the client was gone."""
        path = scope["path"] if scope["path"] in self.paths else "other"
        statuses: list[int] = []
        started = time.perf_counter()
        try:
            yield statuses.append
        finally:
            self.seconds.labels(path).observe(time.perf_counter() - started)
            self.requests.labels(path, str(statuses[-1]) if statuses else "gone").inc()

    def text(self) -> bytes:
        return generate_latest(self.registry)
