"""Connect to a cluster that has no room yet, and gets it when it is asked.

Run by a test as `python -m tests.chaos.growing`.
"""

from __future__ import annotations

import logging
import os
import sys

import ray
import ray._private.services
import ray.util
from ray.cluster_utils import Cluster

from phicorpus.config import ClusterConfig
from phicorpus.errors import ConfigError
from phicorpus.workers.cluster import cluster

_LOOPBACK = "127.0.0.1"


class Autoscaler(logging.Handler):
    """Adds a node when the driver logs that it waits for one."""

    def __init__(self, nodes: Cluster) -> None:
        super().__init__()
        self._nodes = nodes
        self._has_grown = False

    def emit(self, record: logging.LogRecord) -> None:
        if record.getMessage() == "waiting for nodes" and not self._has_grown:
            self._has_grown = True
            sys.stdout.write(f"waits: {vars(record)['why']}\n")
            self._nodes.add_node(num_cpus=8, num_gpus=2, node_ip_address=_LOOPBACK)


def main() -> None:
    """Ask for room that comes, and for room that does not."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    # All nodes are on this machine, whose own address need not be reachable.
    ray._private.services.get_node_ip_address = lambda *_: _LOOPBACK
    ray.util.get_node_ip_address = lambda *_: _LOOPBACK
    head = {"num_cpus": 1, "include_dashboard": False, "node_ip_address": _LOOPBACK}
    nodes = Cluster(initialize_head=True, head_node_args=head)
    ray.init(nodes.address, log_to_driver=False, logging_level=logging.ERROR)
    logging.getLogger("phicorpus").addHandler(Autoscaler(nodes))
    config = ClusterConfig(address=nodes.address, gpus_per_replica=0.5, wait_for_nodes_s=120)
    out = sys.stdout  # which is standard error in the block
    with cluster(config) as slots:
        out.write(f"{slots}\n")
    more = config.model_copy(update={"replicas": 5, "wait_for_nodes_s": 0.5})
    try:
        with cluster(more):
            out.write("room for more\n")
    except ConfigError as error:
        out.write(f"{error}\n")
    ray.shutdown()
    nodes.shutdown()


if __name__ == "__main__":
    main()
