"""The cluster that the flow runs on: connect or start it, wait for its room; Ray's metrics."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import ray
import ray.data
from ray.autoscaler.sdk import request_resources
from ray.data import DataContext
from ray.exceptions import RayError, RayTaskError
from ray.util.metrics import Counter, Gauge

from phicorpus.config import ClusterConfig, Device
from phicorpus.driver.signals import EXIT_SIGTERM, SIGNALS
from phicorpus.engine.engine import EngineStats
from phicorpus.engine.slots import ReplicaSlots
from phicorpus.errors import ConfigError, WorkersLost
from phicorpus.workers.room import Node, decide_slots, idle_gpus, lack_of_room

log = logging.getLogger(__name__)

_ANSWERS_WITHIN_S = 20.0
_LOOKS_EVERY_S = 5.0
_TRACEBACK = "Traceback (most recent call last):"
_BLOCK_BYTES = 32 * 1024**2
"""Of segments: large enough to amortise Ray's cost per block, small enough for a laptop's store."""


OnWait = Callable[[], None]
"""Called at every look at a cluster that nodes are waited for."""


@contextmanager
def cluster(
    config: ClusterConfig, device: Device = "auto", on_wait: OnWait = lambda: None
) -> Iterator[ReplicaSlots]:
    """Connect to the config's cluster, or start a local one and end it again; keep Ray Data strict.

    Args:
        config: The cluster's section.
        device: That the model is to run on, as the config says.
        on_wait: So that a wait for nodes, which has its own end, does not look like a hang.

    Yields:
        What the cluster sets aside for the replicas of a flow.

    Raises:
        ConfigError: the cluster has too few CPUs or GPUs for the replicas and one task beside them.
        WorkersLost: there is no such cluster, it refuses this process, a local one does not start,
            or it is lost in between.
    """
    started = not ray.is_initialized()
    # Ray prints about lost workers to standard output, which belongs to the command.
    with contextlib.redirect_stdout(sys.stderr):
        yield from _cluster(config, device, on_wait, started=started)


def _cluster(
    config: ClusterConfig, device: Device, on_wait: OnWait, *, started: bool
) -> Iterator[ReplicaSlots]:
    if started:
        connect(config)
    try:
        slots = _await_room(config, device, on_wait)
        context = DataContext.get_current()
        context.max_errored_blocks = 0
        context.raise_original_map_exception = True  # else the error that ends a run loses its type
        context.enable_progress_bars = False
        context.print_on_execution_start = False
        context.target_max_block_size = _BLOCK_BYTES
        # Ray's own watchdog is the second: a worker's ends its process first, for the crash log.
        context.execution_no_progress_timeout_s = max(300, 2 * config.no_progress_timeout_s)
        logging.getLogger("ray.data").setLevel(logging.WARNING)
        logging.getLogger("ray.data._internal.progress").setLevel(logging.ERROR)
        # Ray 2.60 calls max_retries deprecated and has no other name for it yet.
        warnings.filterwarnings("ignore", message=".*ray_remote_args.*")
        yield slots
    except RayTaskError:
        raise  # a stage's own
    except (RayError, ConnectionError) as error:
        raise WorkersLost(f"Ray was lost: {cause(error)}") from error
    finally:
        if started:
            ray.shutdown()
            SIGNALS.reclaim()


def connect(config: ClusterConfig) -> None:
    """Start a local cluster, unless the config or a submitted job's environment names one.

    Raises:
        WorkersLost: there is no such cluster, it refuses this process, or a local one does not
            start.
    """
    address = _address(config)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if address == "local":
        os.environ.setdefault("RAY_gcs_rpc_server_reconnect_timeout_s", "20")  # of 60: a lost head
    local: dict[str, Any] = {"num_cpus": config.num_cpus, "include_dashboard": False}
    answers = _check_address(address)
    try:
        ray.init(
            address=address,
            logging_level=logging.ERROR,
            log_to_driver=False,
            **(local if address == "local" else {}),
        )
    except SystemExit as error:  # what Ray's own handler makes of SIGTERM while it starts
        raise SystemExit(EXIT_SIGTERM) from error
    except Exception as error:  # Ray raises just that where a node does not start
        where = f"at {address} cannot be joined" if answers else f"is not at {address}"
        where = "did not start on this machine" if address == "local" else where
        raise WorkersLost(f"Ray {where}: {cause(error)}") from error
    finally:
        SIGNALS.reclaim()


def cause(error: BaseException) -> str:
    r"""Return on one line why Ray failed: the error's message and those of its causes.

    The two versions of a mismatch stand in the lines after the first; a token that was refused
    stands in a cause alone, in the last line of a traceback.

    Example:
        >>> cause(RuntimeError("Version mismatch: the cluster has\n  Ray: 2.9.0\n"))
        'Version mismatch: the cluster has Ray: 2.9.0'
    """
    messages: list[str] = []
    found: BaseException | None = error
    while found is not None:
        text, traceback, rest = str(found).partition(_TRACEBACK)
        if traceback:
            text += (rest.splitlines() or [""])[-1]
        messages.append(" ".join(text.split()))
        found = found.__cause__
    return ": ".join(filter(None, messages))


def _check_address(address: str) -> bool:
    """Check that something answers at an address: Ray itself tries for minutes.

    Returns:
        False where there is no host and port to ask, as in `local` and `auto`.
    """
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        return False
    try:
        socket.create_connection((host, int(port)), timeout=_ANSWERS_WITHIN_S).close()
    except OSError as error:
        raise WorkersLost(f"Ray is not at {address}: {error}; see cluster.address") from error
    return True


def _address(config: ClusterConfig) -> str:
    return config.address or os.environ.get("RAY_ADDRESS", "local")


def _await_room(config: ClusterConfig, device: Device, on_wait: OnWait) -> ReplicaSlots:
    """Wait until the cluster has room for the replicas; one that is started here never grows.

    Raises:
        ConfigError: it has none by `cluster.wait_for_nodes_s`.
    """
    longest_s = 0.0 if _address(config) == "local" else config.wait_for_nodes_s
    began = time.monotonic()
    is_asked = False
    try:
        while True:
            nodes = _nodes()
            slots = decide_slots(config, device, nodes)
            lack = lack_of_room(config, slots, nodes)
            waited_s = time.monotonic() - began
            if lack is None:
                break
            if waited_s >= longest_s:
                waited = f", after {longest_s:g} s (cluster.wait_for_nodes_s)" if longest_s else ""
                raise ConfigError(f"cluster: {lack}{waited}")
            on_wait()
            if not is_asked:
                request_resources(bundles=_bundles(config, slots))
                is_asked = True
            log.warning(
                "waiting for nodes", extra={"why": lack, "s_left": round(longest_s - waited_s)}
            )
            time.sleep(min(_LOOKS_EVERY_S, longest_s - waited_s))
    finally:
        if is_asked:  # else the cluster would never shrink again
            request_resources(bundles=[])
    if not slots.gpus and device == "auto" and config.gpus_per_replica is None and longest_s:
        log.warning(
            "no GPU in the cluster: replicas run on CPUs",
            extra={"instead": "cluster.gpus_per_replica: 1 waits for GPUs"},
        )
    if slots.gpus and (num_idle := idle_gpus(slots, nodes)):
        log.warning(
            "GPUs are idle",
            extra={"num_gpus": num_idle, "instead": "cluster.replicas: auto takes all"},
        )
    return slots


def _nodes() -> list[Node]:
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def _bundles(config: ClusterConfig, slots: ReplicaSlots) -> list[dict[str, float]]:
    """Return what an autoscaler is asked for: the replicas, and a fetch and a decode task."""
    gpus = {"GPU": slots.gpus} if slots.gpus else {}
    replicas = [{"CPU": slots.cpus, **gpus}] * slots.num_replicas
    return [*replicas, {"CPU": config.fetch_cpus}, {"CPU": config.decode_cpus}]


_COUNTED = {
    "busy_s": ("busy_seconds", "Seconds in which the engine computed"),
    "loaded_s": ("loaded_seconds", "Seconds since the engine was loaded"),
    "completion_tokens": ("completion_tokens", "Tokens of answers"),
    "prompt_tokens": ("prompt_tokens", "Tokens and feature rows of prompts"),
    "prefill_tokens": ("prefill_tokens", "Tokens of prompts that were computed, not shared"),
    "media_encoded": ("media_encoded", "Images and windows of sound encoded"),
    "media_reused": ("media_reused", "Images and windows of sound whose encoding was there"),
    "restarts": ("loop_restarts", "Decoding loops replaced after an error"),
}
_GAUGED = {
    "num_running": ("requests_running", "Requests that the decoder has"),
    "num_waiting": ("requests_waiting", "Requests that wait for their media or the decoder"),
}


class EngineMetrics:
    """A replica's counts as Ray's application metrics, beside Ray's own wherever it serves these.

    Prometheus reads them as `ray_phicorpus_busy_seconds_total`, `ray_phicorpus_requests_running`
    and so on. They are those of this process: of a replica that was replaced the sum goes on.

    Args:
        flow: The replica's modality.
        model: Name and revision.
        counter, gauge: Make one metric of a name, a description and the tags' keys.
    """

    def __init__(
        self,
        flow: str,
        model: str,
        *,
        counter: Callable[[str, str, tuple[str, ...]], Counter] = Counter,
        gauge: Callable[[str, str, tuple[str, ...]], Gauge] = Gauge,
    ) -> None:
        self._tags = {"flow": flow, "model": model}
        keys = tuple(self._tags)
        self._counters = {
            field: counter(f"phicorpus_{name}", description, keys)
            for field, (name, description) in _COUNTED.items()
        }
        self._gauges = {
            field: gauge(f"phicorpus_{name}", description, keys)
            for field, (name, description) in _GAUGED.items()
        }
        self._exported = dict.fromkeys(_COUNTED, 0.0)

    def export(self, counts: EngineStats) -> None:
        """Record what an engine counts; cheap, Ray sends it on by itself every few seconds."""
        for field, counter in self._counters.items():
            value = counts.extra.get(field, getattr(counts, field, 0.0))
            if value > self._exported[field]:
                counter.inc(value - self._exported[field], self._tags)
                self._exported[field] = value
        for field, gauge in self._gauges.items():
            gauge.set(getattr(counts, field), self._tags)
