"""Clusters of real Ray nodes for tests: each node is some processes on this machine."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any


@contextlib.contextmanager
def nodes(count: int) -> Iterator[Any]:
    """A Ray cluster of nodes with one core each, which RAY_ADDRESS names; the head computes nothing."""
    os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # loopback only; read when Ray is imported
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    import ray
    from ray.cluster_utils import Cluster

    ray.shutdown()  # of another cluster that this process hangs on
    head = {"num_cpus": 0, "include_dashboard": False, "object_store_memory": 100_000_000}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    before = os.environ.get("RAY_ADDRESS")
    os.environ["RAY_ADDRESS"] = cluster.address
    try:
        for _ in range(count):
            cluster.add_node(num_cpus=1, object_store_memory=100_000_000, wait=False)
        cluster.wait_for_nodes()
        yield cluster
    finally:
        ray.shutdown()
        cluster.shutdown()
        os.environ.pop("RAY_ADDRESS")
        if before is not None:
            os.environ["RAY_ADDRESS"] = before


@contextlib.contextmanager
def behind_a_port(token: str) -> Iterator[str]:
    """The address ray://… of a cluster with one core that asks for a token, in processes of its own."""
    ports = []
    for _ in range(2):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            ports.append(free.getsockname()[1])
    command = [str(Path(sys.executable).with_name("ray")), "start", "--head", "--block", "--num-cpus", "1"]
    command += ["--node-ip-address", "127.0.0.1", "--port", str(ports[0]), "--ray-client-server-port", str(ports[1])]
    command += ["--include-dashboard", "false", "--object-store-memory", "100000000", "--disable-usage-stats"]
    names = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token, "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
    quiet = subprocess.DEVNULL
    head = subprocess.Popen(command, env={**os.environ, **names}, stdout=quiet, stderr=quiet, start_new_session=True)
    try:
        deadline = time.monotonic() + 60
        while True:
            try:
                socket.create_connection(("127.0.0.1", ports[1]), 1).close()
                break
            except OSError:
                assert head.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.2)
        yield f"ray://127.0.0.1:{ports[1]}"
    finally:
        head.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            head.wait(60)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(head.pid, signal.SIGKILL)
        head.wait()


def kill_one(cluster: Any) -> None:
    """Kill a node that computes: not the one that this process hangs on, or it would end as well."""
    import ray

    own = ray.get_runtime_context().get_node_id()
    node = next(node for node in cluster.worker_nodes if node.node_id != own)
    cluster.remove_node(node, allow_graceful=False)
