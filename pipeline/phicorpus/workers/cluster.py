"""The cluster that the flow runs on: connect or start it, check its room; the crash log's actor."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import ray
import ray.data
from ray.data import DataContext
from ray.exceptions import RayError, RayTaskError
from ray.util.metrics import Counter, Gauge
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from phicorpus.config import ClusterConfig
from phicorpus.driver.signals import EXIT_SIGTERM, SIGNALS
from phicorpus.engine.engine import EngineStats
from phicorpus.errors import ConfigError, WorkersLost
from phicorpus.storage.store import Store
from phicorpus.workers.metrics import Ledger, Use
from phicorpus.workers.quarantine import CrashLog, Key

log = logging.getLogger(__name__)

_ANSWERS_WITHIN_S = 20.0
_NOTED_WITHIN_S = 5.0
_TRACEBACK = "Traceback (most recent call last):"
_BLOCK_BYTES = 32 * 1024**2
"""Of segments: large enough to amortise Ray's cost per block, small enough for a laptop's store."""


@contextmanager
def cluster(config: ClusterConfig) -> Iterator[None]:
    """Connect to the config's cluster, or start a local one and end it again; keep Ray Data strict.

    Raises:
        ConfigError: the cluster has too few CPUs or GPUs for the replicas and one task beside them.
        WorkersLost: there is no such cluster, it refuses this process, a local one does not start,
            or it is lost in between.
    """
    started = not ray.is_initialized()
    # Ray prints about lost workers to standard output, which belongs to the command.
    with contextlib.redirect_stdout(sys.stderr):
        yield from _cluster(config, started=started)


def _cluster(config: ClusterConfig, *, started: bool) -> Iterator[None]:
    if started:
        connect(config)
    try:
        _check_room(config, ray.cluster_resources())
        context = DataContext.get_current()
        context.max_errored_blocks = 0
        context.enable_progress_bars = False
        context.print_on_execution_start = False
        context.target_max_block_size = _BLOCK_BYTES
        # Ray's own watchdog is the second: a worker's ends its process first, for the crash log.
        context.execution_no_progress_timeout_s = max(300, 2 * config.no_progress_timeout_s)
        logging.getLogger("ray.data").setLevel(logging.WARNING)
        logging.getLogger("ray.data._internal.progress").setLevel(logging.ERROR)
        # Ray 2.60 calls max_retries deprecated and has no other name for it yet.
        warnings.filterwarnings("ignore", message=".*ray_remote_args.*")
        yield
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
    address = config.address or os.environ.get("RAY_ADDRESS", "local")
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


def _check_room(config: ClusterConfig, resources: Mapping[str, float]) -> None:
    cpus = resources.get("CPU", 0.0)
    needed = config.replicas * config.cpus_per_replica + config.decode_cpus
    if needed + config.fetch_cpus > cpus:
        raise ConfigError(
            f"cluster: {config.replicas} replicas x {config.cpus_per_replica} CPUs and one fetch "
            f"and decode task need {needed + config.fetch_cpus:g} CPUs; there are {cpus:g}"
        )
    wanted = config.replicas * gpus(config, resources)
    if wanted > resources.get("GPU", 0.0):
        raise ConfigError(f"cluster: {wanted:g} GPUs needed, {resources.get('GPU', 0.0):g} there")


def gpus(config: ClusterConfig, resources: Mapping[str, float]) -> float:
    """Return the GPUs of one replica."""
    if config.gpus_per_replica is not None:
        return config.gpus_per_replica
    return 1.0 if resources.get("GPU", 0.0) else 0.0


class _CrashLogAndLedger(CrashLog):
    """A run's crash log and engine counters, in one process beside the driver."""

    def __init__(self, store: Store, folder: str) -> None:
        super().__init__(store, folder)
        self._ledger = Ledger()
        self._num_signs = 0

    def begin(self, keys: Sequence[Key]) -> list[int]:
        self._num_signs += 1
        return super().begin(keys)

    def done(self, keys: Iterable[Key]) -> None:
        self._num_signs += 1
        super().done(keys)

    def note(self, flow: str, replica: str, counts: EngineStats) -> None:
        self._num_signs += 1
        self._ledger.note(flow, replica, counts)

    def sign(self) -> int:
        """Count a worker's sign of life; return how many there were."""
        self._num_signs += 1
        return self._num_signs

    def signs(self) -> int:
        return self._num_signs

    def uses(self) -> dict[str, Use]:
        return self._ledger.uses()


class RemoteCrashLog:
    """A run's crash log and engine counters, in an actor that outlives the workers."""

    def __init__(self, store: Store, folder: str = "attempts") -> None:
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        actor: Any = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(
            _CrashLogAndLedger
        )
        self._actor = actor.options(scheduling_strategy=here).remote(store, folder)

    def begin(self, keys: Sequence[Key]) -> list[int]:
        """See `CrashLog.begin`."""
        return ray.get(self._actor.begin.remote(keys))

    def begin_alone(self, key: Key) -> None:
        """See `CrashLog.begin_alone`."""
        ray.get(self._actor.begin_alone.remote(key))

    def done(self, keys: Sequence[Key]) -> None:
        """See `CrashLog.done`; does not wait."""
        self._actor.done.remote(keys)

    def note(self, flow: str, counts: EngineStats) -> None:
        """Note what this process's engine counts; see `Ledger.note`.

        Waits until it is noted, but not for long: no row depends on it.
        """
        replica = ray.get_runtime_context().get_worker_id()
        ray.wait([self._actor.note.remote(flow, replica, counts)], timeout=_NOTED_WITHIN_S)

    def sign(self) -> None:
        """Note that a worker is at work; does not wait."""
        self._actor.sign.remote()

    def signs(self) -> int | None:
        """Return the number of signs of life of the workers; None if it cannot be read just now."""
        try:
            return ray.get(self._actor.signs.remote(), timeout=_NOTED_WITHIN_S)
        except (RayError, ConnectionError):
            return None

    def uses(self) -> Mapping[str, Use]:
        """Return what the engines did, by flow; nothing if the actor is lost."""
        try:
            return ray.get(self._actor.uses.remote(), timeout=_NOTED_WITHIN_S)
        except (RayError, ConnectionError) as error:
            log.warning("what the engines did is not known", extra={"why": str(error)})
            return {}


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
