"""Annotate on a cluster with two nodes that have a model each, and lose one while it answers.

Run by a test as `python -m tests.chaos.node FOLDER`.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

import ray
import ray._private.services
import ray.util
from ray.cluster_utils import Cluster

from phicorpus.commands.annotate import annotate
from tests.builders import a_backend, a_config, a_corpus

_LOOPBACK = "127.0.0.1"
_NUM_COMMITS = 3


def main(folder: Path) -> None:
    """Kill a node's processes after some commits."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    # All nodes are on this machine, whose own address need not be reachable.
    ray._private.services.get_node_ip_address = lambda *_: _LOOPBACK
    ray.util.get_node_ip_address = lambda *_: _LOOPBACK
    quick = {"health_check_period_ms": 500, "health_check_timeout_ms": 2000}
    quick |= {"health_check_failure_threshold": 3, "health_check_initial_delay_ms": 0}
    head: dict[str, Any] = {"num_cpus": 1, "include_dashboard": False, "_system_config": quick}
    head |= {"node_ip_address": _LOOPBACK}
    nodes = Cluster(initialize_head=True, head_node_args=head)
    lost, _ = [nodes.add_node(num_cpus=1, num_gpus=1, node_ip_address=_LOOPBACK) for _ in range(2)]
    ray.init(nodes.address, log_to_driver=False, logging_level=logging.ERROR)
    a_corpus(folder, num_images=12)
    config = a_config(folder, cluster={"cpus_per_replica": 0.25, "replicas": 2})
    when: list[int] = []

    def lose_a_node() -> None:
        files = Path(config.output)
        while not when:
            time.sleep(0.02)
            num_files = len(list(files.glob("annotations/*/*/*.parquet")))
            if num_files >= _NUM_COMMITS and not ray.available_resources().get("GPU"):
                when.append(num_files)
        nodes.remove_node(lost, allow_graceful=False)

    losing = threading.Thread(target=lose_a_node, daemon=True)
    losing.start()
    annotate(config, backend=a_backend(delay_s=0.1, delay_spread_s=0.4))
    if not when:
        sys.exit("the run ended before a node was lost")
    sys.stdout.write(f"lost a node with a model after {when[0]} files\n")
    losing.join()
    ray.shutdown()
    nodes.shutdown()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
