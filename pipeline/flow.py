"""The flow on one page. The only file here that knows Ray.

manifest -> plan -> | fetch -> decode -> infer | -> commit -> annotations/*.parquet
            driver  |  CPU tasks     GPU actors |   driver
                    |        Ray Data           |
"""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any

import pyarrow as pa
import ray
import ray.data
from ray.data import ActorPoolStrategy, DataContext
from ray.exceptions import RayError, RayTaskError

from pipeline.config import ClusterConfig, RunConfig
from pipeline.engine.backend import Backend
from pipeline.errors import ConfigError, EngineDied
from pipeline.media.decode import DecodeConfig
from pipeline.models.model import Modality
from pipeline.plan import Plan
from pipeline.stages.commit import Commit
from pipeline.stages.decode import decode
from pipeline.stages.fetch import fetch
from pipeline.stages.infer import Infer
from pipeline.tasks.question import Question
from pipeline.unit import KINDS, Unit

log = logging.getLogger(__name__)

_CALLS_AT_ONCE = 4
"""Blocks that a replica answers at the same time: their requests meet in its engine."""

_BLOCK_BYTES = 32 * 1024**2
"""Of segments: large enough to amortise Ray's cost per block, small enough for a laptop's store."""

_MAX_RETRIES = 3
"""Of a block whose worker died. Ray's default is for ever, which a row that kills never leaves."""

OnProgress = Callable[[Commit], None]
"""Called on the driver after every block of replies."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Flow:
    """One modality's way from assets to replies."""

    modality: Modality
    config: RunConfig
    backend: Backend
    questions: Mapping[str, Question]

    def replies(self, units: Sequence[Unit]) -> Iterator[pa.Table]:
        """Run the units through the stages; replies come in the order in which they finish."""
        slots = self.config.cluster
        assets = ray.data.from_arrow([unit.assets() for unit in units])
        fetched = assets.map_batches(
            partial(fetch, config=self.config.fetch),
            batch_size=8,
            batch_format="pyarrow",
            num_cpus=slots.fetch_cpus,
            max_retries=_MAX_RETRIES,
        )
        segments = fetched.map_batches(
            partial(decode, config=_decoding(self.config), preparation=self.backend.preparation),
            batch_size=8,
            batch_format="pyarrow",
            num_cpus=slots.decode_cpus,
            max_retries=_MAX_RETRIES,
        )
        replies = segments.map_batches(
            Replica,
            fn_constructor_kwargs={"load": self._load(units), "questions": self.questions},
            batch_size=16,
            batch_format="pyarrow",
            compute=ActorPoolStrategy(
                size=slots.replicas,
                max_tasks_in_flight_per_actor=2 * _CALLS_AT_ONCE,
                max_concurrent_calls_per_actor=_CALLS_AT_ONCE,
            ),
            num_cpus=slots.cpus_per_replica,
            num_gpus=_gpus(slots, ray.cluster_resources()) or None,
            max_restarts=-1,
            max_task_retries=_MAX_RETRIES,
        )
        return iter(replies.iter_batches(batch_size=None, batch_format="pyarrow"))

    def _load(self, units: Sequence[Unit]) -> Callable[[], Any] | None:
        """Give the model's loader, or None where no pending task asks a model."""
        pending = {task for unit in units for task in unit.pending}
        if all(self.questions[task].prompt is None for task in pending):
            return None
        return partial(self.backend.load, self.modality)


class Replica(Infer):
    """Infer in an actor: when its engine is dead, so is its process, and Ray starts another."""

    async def __call__(self, batch: pa.Table) -> AsyncIterator[pa.Table]:
        try:
            async for replies in super().__call__(batch):
                yield replies
        except EngineDied:
            log.exception("the engine died; ending this replica")
            os._exit(1)


def run(
    flows: Mapping[Modality, Flow], plan: Plan, commit: Commit, on_progress: OnProgress
) -> None:
    """Run everything that is planned, modality by modality, until nothing is left to do.

    Units that are still open when a stream ends are run again, `errors.max_unit_attempts` times in
    all; what then is missing becomes error rows.
    """
    for modality, flow in flows.items():
        units = (unit for unit in plan.units() if unit.modality == modality)
        while wave := list(islice(units, flow.config.cluster.units_per_wave)):
            for unit in wave:
                commit.expect(unit)
            for attempt in range(1, flow.config.errors.max_unit_attempts + 1):
                if commit.open_units:
                    log.info("running units", extra=_wave_fields(modality, attempt, commit))
                    _attempt(flow, commit, on_progress)
            commit.give_up(flow.config.errors.max_unit_attempts)
            on_progress(commit)


def _attempt(flow: Flow, commit: Commit, on_progress: OnProgress) -> None:
    """Run the open units once; workers that keep dying end the attempt, not the run.

    Raises:
        RayTaskError: a stage raised, which none does on purpose: a defect of this software.
    """
    try:
        for replies in flow.replies(commit.open_units):
            commit.add(replies)
            on_progress(commit)
    except RayTaskError:
        raise
    except RayError as error:
        log.warning("workers died too often", extra={"modality": flow.modality, "why": str(error)})


def flows(
    config: RunConfig, backend: Backend, questions: Mapping[str, Question]
) -> Mapping[Modality, Flow]:
    """Make one flow for each modality that the job's tasks need."""
    needed: dict[Modality, None] = {}
    for modality in KINDS.values():
        if any(question.task.modality == modality for question in questions.values()):
            needed[modality] = None
    return {
        modality: Flow(modality=modality, config=config, backend=backend, questions=questions)
        for modality in needed
    }


@contextmanager
def cluster(config: ClusterConfig) -> Iterator[None]:
    """Connect to the config's cluster, or start a local one and end it again; keep Ray Data strict.

    Raises:
        ConfigError: the cluster has too few CPUs or GPUs for the replicas and one task beside them.
    """
    started = not ray.is_initialized()
    if started:
        _connect(config)
    try:
        _check_room(config, ray.cluster_resources())
        context = DataContext.get_current()
        context.max_errored_blocks = 0
        context.enable_progress_bars = False
        context.print_on_execution_start = False
        context.target_max_block_size = _BLOCK_BYTES
        context.execution_no_progress_timeout_s = config.no_progress_timeout_s
        logging.getLogger("ray.data._internal.progress").setLevel(logging.ERROR)
        # Ray 2.60 calls max_retries deprecated and has no other name for it yet.
        warnings.filterwarnings("ignore", message=".*ray_remote_args.*")
        yield
    finally:
        if started:
            ray.shutdown()


def _connect(config: ClusterConfig) -> None:
    """Start a local cluster, unless the config or a submitted job's environment names one."""
    address = config.address or os.environ.get("RAY_ADDRESS", "local")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # of the driver's own console only
    local: dict[str, Any] = {"num_cpus": config.num_cpus, "include_dashboard": False}
    ray.init(
        address=address,
        logging_level=logging.ERROR,
        log_to_driver=False,
        **(local if address == "local" else {}),
    )


def _check_room(config: ClusterConfig, resources: Mapping[str, float]) -> None:
    cpus = resources.get("CPU", 0.0)
    needed = config.replicas * config.cpus_per_replica + config.decode_cpus
    if needed + config.fetch_cpus > cpus:
        raise ConfigError(
            f"cluster: {config.replicas} replicas x {config.cpus_per_replica} CPUs and one fetch "
            f"and decode task need {needed + config.fetch_cpus:g} CPUs; there are {cpus:g}"
        )
    gpus = config.replicas * _gpus(config, resources)
    if gpus > resources.get("GPU", 0.0):
        raise ConfigError(f"cluster: {gpus:g} GPUs needed, {resources.get('GPU', 0.0):g} there")


def _gpus(config: ClusterConfig, resources: Mapping[str, float]) -> float:
    if config.gpus_per_replica is not None:
        return config.gpus_per_replica
    return 1.0 if resources.get("GPU", 0.0) else 0.0


def _decoding(config: RunConfig) -> DecodeConfig:
    return DecodeConfig(images=config.images, decks=config.decks, audio=config.audio)


def _wave_fields(modality: Modality, attempt: int, commit: Commit) -> dict[str, object]:
    return {"modality": modality, "attempt": attempt, "num_units": len(commit.open_units)}
