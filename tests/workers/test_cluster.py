from __future__ import annotations

import os
import platform
import re
import socket
import subprocess
import sys
import time
import traceback
import urllib.request
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import ray
from ray._private.utils import check_version_info
from ray.exceptions import AuthenticationError

from phicorpus.commands.annotate import annotate
from phicorpus.config import ClusterConfig
from phicorpus.engine.engine import EngineStats
from phicorpus.errors import ConfigError, WorkersLost
from phicorpus.workers.cluster import EngineMetrics, cause, connect
from phicorpus.workers.cluster import cluster as joined
from tests.builders import a_backend, a_config, a_corpus


@pytest.mark.parametrize(
    "address", ["nonsense://x", "127.0.0.1:port", "127.0.0.1:9", "ray://127.0.0.1:9"]
)
def test_a_cluster_that_is_not_there_ends_the_run_with_6_and_is_named(address: str) -> None:
    with pytest.raises(WorkersLost, match=f"is not at {address}") as raised:
        connect(ClusterConfig(address=address))

    assert raised.value.exit_code == 6


def test_a_cluster_of_another_version_names_both() -> None:
    with pytest.raises(RuntimeError) as raised:
        check_version_info({"ray_version": "2.9.0", "python_version": "3.10.1"}, "node 10.0.0.7")

    assert cause(raised.value) == (
        "Version mismatch: The cluster was started with: Ray: 2.9.0 Python: 3.10.1 "
        f"This process on node 10.0.0.7 was started with: Ray: {ray.__version__} "
        f"Python: {platform.python_version()}"
    )


def test_a_cluster_that_refuses_the_token_says_so() -> None:
    """Ray repeats the refusal as a traceback, in the cause of what it raises."""
    refused = AuthenticationError("RPC error: InvalidAuthToken")
    inner = "".join(traceback.format_exception(refused))
    raised = ConnectionError("Failed to connect to Ray cluster at 10.0.0.7:6379")
    raised.__cause__ = RuntimeError(f"Failed to connect to GCS. Last connection error: {inner}")

    assert cause(raised).startswith(
        "Failed to connect to Ray cluster at 10.0.0.7:6379: Failed to connect to GCS. Last "
        "connection error: ray.exceptions.AuthenticationError: RPC error: InvalidAuthToken"
    )
    assert "RAY_AUTH_TOKEN" in cause(raised)


def test_a_cluster_that_answers_and_cannot_be_joined_is_not_said_to_be_absent(
    tmp_path: Path,
) -> None:
    """A process of its own, as Ray reads once whether there are tokens."""
    script = """
import sys
from phicorpus.workers.cluster import connect
from phicorpus.config import ClusterConfig
from phicorpus.errors import WorkersLost
try:
    connect(ClusterConfig(address=sys.argv[1]))
except WorkersLost as error:
    print(error)
"""
    env = os.environ | {"HOME": str(tmp_path), "RAY_AUTH_MODE": "token"}
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        ended = subprocess.run(  # noqa: S603 - our own interpreter
            [sys.executable, "-c", script, address],
            capture_output=True,
            text=True,
            check=True,
            env=env,
        )

    assert ended.stdout.startswith(f"Ray at {address} cannot be joined: Token authentication is")
    assert "no authentication token was found" in ended.stdout


def test_a_wait_for_nodes_is_a_sign_of_life_and_ends_by_its_own_limit(cluster: str) -> None:
    """Else cluster.driver_timeout_s would end a longer one, and call it Ray's start."""
    looks: list[float] = []
    config = ClusterConfig(address=cluster, replicas=99, cpus_per_replica=1, wait_for_nodes_s=0.3)

    with (
        pytest.raises(ConfigError, match=r"99 replicas x 1 CPUs.*, after 0\.3 s \(cluster\.wait"),
        joined(config, on_wait=lambda: looks.append(time.monotonic())),
    ):
        pass

    assert looks


_STRANGER = """
import os, ray
try:
    ray.init(address=os.environ["ADDRESS"], log_to_driver=False)
    print("joined")
except (ConnectionError, RuntimeError, ray.exceptions.RayError):
    print("refused")
"""
_LOCAL = """
import os, subprocess, sys
import ray
from phicorpus.workers.cluster import cluster
from phicorpus.config import ClusterConfig
with cluster(ClusterConfig(num_cpus=2, cpus_per_replica=0.5)):
    address = ray.get_runtime_context().gcs_address
    print("in the block")  # Ray's words and ours go to standard error here
    env = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    env |= {"ADDRESS": address, "HOME": sys.argv[1] + "/other", "RAY_AUTH_MODE": "disabled"}
    stranger = [sys.executable, "-c", sys.argv[2]]
    said = subprocess.run(stranger, env=env, capture_output=True, text=True)
print(said.stdout.split()[-1])
"""


@pytest.mark.chaos  # Ray tries for half a minute
def test_a_local_cluster_lets_no_stranger_in_and_keeps_off_standard_output(tmp_path: Path) -> None:
    env = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}

    ended = subprocess.run(  # noqa: S603 - our own interpreter
        [sys.executable, "-c", _LOCAL, str(tmp_path), _STRANGER],
        capture_output=True,
        text=True,
        check=True,
        env=env | {"HOME": str(tmp_path)},
    )

    assert ended.stdout == "refused\n"


def test_metrics_grow_by_what_an_engine_counted_however_often_it_tells() -> None:
    seen: dict[str, float] = defaultdict(float)

    class Recorded:
        """A metric that keeps what it is told, by name and tags."""

        def __init__(self, name: str, _description: str, keys: tuple[str, ...]) -> None:
            self._name, self._keys = name, keys

        def inc(self, value: float, tags: dict[str, str]) -> None:
            assert value > 0
            seen[" ".join([self._name, *(tags[key] for key in self._keys)])] += value

        def set(self, value: float, tags: dict[str, str]) -> None:
            seen[" ".join([self._name, *(tags[key] for key in self._keys)])] = value

    recorded: Any = Recorded
    metrics = EngineMetrics("vision", "phi@1", counter=recorded, gauge=recorded)
    first = EngineStats(completion_tokens=30, prefill_tokens=50, busy_s=1.5, loaded_s=2.0)
    first.num_waiting = 7
    later = EngineStats(completion_tokens=45, prefill_tokens=49, busy_s=2.0, loaded_s=4.0)
    later.extra["restarts"] = 1

    for counts in (EngineStats(), first, first, later):
        metrics.export(counts)

    assert {name: value for name, value in seen.items() if value} == {
        "phicorpus_completion_tokens vision phi@1": 45,
        "phicorpus_prefill_tokens vision phi@1": 50,
        "phicorpus_busy_seconds vision phi@1": 2.0,
        "phicorpus_loaded_seconds vision phi@1": 4.0,
        "phicorpus_loop_restarts vision phi@1": 1,
    }
    assert seen["phicorpus_requests_waiting vision phi@1"] == 0


@pytest.mark.ray
@pytest.mark.usefixtures("cluster")
def test_prometheus_reads_from_ray_what_the_record_says(tmp_path: Path) -> None:
    pytest.importorskip("opencensus", reason="of ray[default], without which Ray serves no metrics")
    a_corpus(tmp_path, num_images=4)

    backend = replace(a_backend(), label="scraped")
    report = annotate(a_config(tmp_path, tasks=["ocr"]), backend=backend)

    (node,) = ray.nodes()
    url = f"http://127.0.0.1:{node['MetricsExportPort']}/metrics"
    wanted = report.engine["vision"]["prompt_tokens"]
    line = r'^ray_phicorpus_prompt_tokens_total\{.*flow="vision",model="scraped".*\} (\S+)$'
    found: list[str] = []
    deadline = time.monotonic() + 30
    while f"{wanted:.1f}" not in found and time.monotonic() < deadline:
        time.sleep(0.5)
        with urllib.request.urlopen(url, timeout=10) as page:
            found = re.findall(line, page.read().decode(), re.MULTILINE)
    assert f"{wanted:.1f}" in found


@pytest.mark.slow
@pytest.mark.ray
def test_a_cluster_that_grows_is_waited_for_and_one_that_does_not_is_refused() -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "tests.chaos.growing"],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parent.parent.parent,
        env={name: value for name, value in os.environ.items() if not name.startswith("RAY_")},
        timeout=240,
    )

    slots, refusal = ended.stdout.splitlines()[-2:]
    assert "waits: 1 replicas x 3 CPUs and one fetch and decode task need 3.75 CPUs" in ended.stderr
    assert slots == "ReplicaSlots(num_replicas=4, gpus=0.5, cpus=1.0)"
    assert refusal == "cluster: 2.5 GPUs needed, 2 there, after 0.5 s (cluster.wait_for_nodes_s)"
