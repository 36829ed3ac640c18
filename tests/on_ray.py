"""Clusters of real Ray nodes for tests: each node is some processes on this machine."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
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


def kill_one(cluster: Any) -> None:
    """Kill a node that computes: not the one that this process hangs on, or it would end as well."""
    import ray

    own = ray.get_runtime_context().get_node_id()
    node = next(node for node in cluster.worker_nodes if node.node_id != own)
    cluster.remove_node(node, allow_graceful=False)
