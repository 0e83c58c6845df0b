"""The flow on one page. Beside it only cluster.py and crash_log.py know Ray.

manifest -> plan -> | fetch -> decode -> infer | -> commit -> annotations/*.parquet
            driver  |  CPU tasks     GPU actors |   driver
                    |        Ray Data           |
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import pyarrow as pa
import ray
import ray.data
from ray.data import ActorPoolStrategy
from ray.data.exceptions import ExecutionTimeoutError
from ray.exceptions import RayError, RayTaskError

from phicorpus.config import ClusterConfig, RunConfig
from phicorpus.engine.backend import Backend
from phicorpus.engine.engine import EngineStats
from phicorpus.engine.loaded import LoadedReplica
from phicorpus.engine.slots import ReplicaSlots
from phicorpus.errors import CheckpointError, ConfigError, EngineDied, StoreError, WorkersLost
from phicorpus.media.kinds import KINDS
from phicorpus.models.model import Modality
from phicorpus.planner import Work
from phicorpus.stages.commit import Attempts, Commit
from phicorpus.stages.decode import decode
from phicorpus.stages.fetch import fetch
from phicorpus.stages.infer import Infer
from phicorpus.stages.start import Start
from phicorpus.tasks.question import Question
from phicorpus.workers.cluster import EngineMetrics
from phicorpus.workers.crash_log import RemoteCrashLog
from phicorpus.workers.logs import send_logs
from phicorpus.workers.metrics import StatsReporter
from phicorpus.workers.quarantine import MAX_CRASHES
from phicorpus.workers.watchdog import WatchedModel, watched

log = logging.getLogger(__name__)

_BATCH_ROWS: Mapping[Modality, int] = {"vision": 8, "speech": 8, "text": 64}
"""Of a call to a replica, at least: passages are small, and many lie in one block."""

_CALLS_PER_PLACE = 1.5
"""A call is over with its slowest row, and till then brings no other in place of its first."""

_NEXT_CALLS = 4
"""Calls that lie ready beside a replica, for those that end."""

_MAX_RETRIES = 2 * MAX_CRASHES
"""Of a block whose worker died. Ray's default is for ever; this takes out two killers."""

OnProgress = Callable[[Commit], None]
"""Called on the driver after every block of replies."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Flow:
    """One modality's way from assets to replies."""

    modality: Modality
    config: RunConfig
    backend: Backend
    questions: Mapping[str, Question]
    crash_log: RemoteCrashLog
    slots: ReplicaSlots

    def replies(self, wanted: Sequence[pa.Table]) -> Iterator[pa.Table]:
        """Run assets through the stages; replies come in the order in which they finish."""
        cluster = self.config.cluster
        max_rows = self.slots.rows_at_once(self.config.engine)
        calls = math.ceil(_CALLS_PER_PLACE * max_rows / _BATCH_ROWS["vision"])
        watch = {"crash_log": self.crash_log, "timeout_s": cluster.no_progress_timeout_s}
        assets = ray.data.from_arrow(list(wanted))
        fetched = assets.map_batches(
            partial(_at_work, name="fetch", stage=self.fetch_stage(), **watch),
            batch_size=8,
            batch_format="pyarrow",
            num_cpus=cluster.fetch_cpus,
            max_retries=_MAX_RETRIES,
        )
        segments = fetched.map_batches(
            partial(_at_work, name="decode", stage=self.decode_stage(), **watch),
            batch_size=8,
            batch_format="pyarrow",
            num_cpus=cluster.decode_cpus,
            max_retries=_MAX_RETRIES,
        )
        replies = segments.map_batches(
            Replica,
            fn_constructor_kwargs={
                "load": self._load(wanted),
                "questions": self.questions,
                "crash_log": self.crash_log,
                "settings": ReplicaSettings(
                    flow=self.modality,
                    model=self.backend.label,
                    timeout_s=cluster.no_progress_timeout_s,
                    max_rows=max_rows,
                ),
            },
            batch_size=_BATCH_ROWS[self.modality],
            batch_format="pyarrow",
            compute=ActorPoolStrategy(
                size=self.slots.num_replicas,
                max_tasks_in_flight_per_actor=calls + _NEXT_CALLS,
                max_concurrent_calls_per_actor=calls,
            ),
            num_cpus=self.slots.cpus,
            num_gpus=self.slots.gpus or None,
            max_restarts=-1,
            max_task_retries=_MAX_RETRIES,
        )
        return iter(replies.iter_batches(batch_size=None, batch_format="pyarrow"))

    def fetch_stage(self) -> Callable[[pa.Table], Iterator[pa.Table]]:
        """Return the fetch stage with its settings."""
        return partial(fetch, config=self.config.fetching)

    def decode_stage(self) -> Callable[[pa.Table], Iterator[pa.Table]]:
        """Return the decode stage with its settings."""
        return partial(
            decode,
            config=self.config.decoding,
            preparation=self.backend.preparation,
            sound=self.backend.sound,
        )

    def _load(self, wanted: Sequence[pa.Table]) -> Callable[[], LoadedReplica] | None:
        """Return the model's loader, or None where no pending task asks a model."""
        asked = pa.concat_tables(wanted)["tasks"].to_pylist()
        pending = {task for names in asked for task in names}
        if all(self.questions[task].prompt is None for task in pending):
            return None
        return partial(self.backend.load, self.modality, self.slots)


def _at_work(
    batch: pa.Table,
    *,
    crash_log: RemoteCrashLog,
    **stage: Any,  # noqa: ANN401 - as `watched`
) -> Iterator[pa.Table]:
    """Run a stage of plain tasks in a worker, whose log the driver gets."""
    send_logs(crash_log.log)
    yield from watched(batch, crash_log=crash_log, **stage)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaSettings:
    """The settings of a replica's actor.

    Attributes:
        flow: Its modality.
        model: Name and revision, for its metrics.
        timeout_s: Longest time without any reply.
        max_rows: Asked at once.
    """

    flow: Modality
    model: str
    timeout_s: float
    max_rows: int


class Replica:
    """Infer in an actor: when its engine is dead, so is its process, and Ray starts another.

    What is wrong with config or checkpoint shows when it is asked, and ends the run: an actor that
    does not start would be started again.
    """

    def __init__(
        self,
        load: Callable[[], LoadedReplica] | None,
        questions: Mapping[str, Question],
        crash_log: RemoteCrashLog,
        settings: ReplicaSettings,
    ) -> None:
        send_logs(crash_log.log)
        crash_log.sign()
        self._refusal: ConfigError | CheckpointError | None = None
        self._stats: StatsReporter | None = None
        loaded: LoadedReplica | None = None
        try:
            loaded = load() if load else None
        except (ConfigError, CheckpointError) as error:
            self._refusal = error
        crash_log.sign()
        engine = loaded.engine if loaded else None
        infer = Infer((lambda: engine) if engine else None, questions)
        self._watched = WatchedModel(infer, crash_log, settings.timeout_s, settings.max_rows)
        if loaded is None:
            return
        description = loaded.describe()
        crash_log.describe(settings.flow, description)
        log.info("replica loaded", extra={"flow": settings.flow, **description})
        metrics = EngineMetrics(settings.flow, settings.model)

        def send(counts: EngineStats) -> None:
            crash_log.note(settings.flow, counts)
            metrics.export(counts)

        self._stats = StatsReporter(loaded.engine.stats, send)

    async def __call__(self, batch: pa.Table) -> AsyncIterator[pa.Table]:
        if self._refusal is not None:
            raise self._refusal
        try:
            async for replies in self._watched.answer(batch):
                yield replies
        except EngineDied:
            log.exception("the engine died; ending this replica")
            os._exit(1)
        if self._stats is not None:  # before the block is over: the stream ends after that
            await asyncio.to_thread(self._stats.report)


def run(
    flows: Mapping[Modality, Flow], plan: Work, commit: Commit, on_progress: OnProgress
) -> None:
    """Run everything that is planned, modality by modality, until nothing is left to do.

    What is still missing when a stream ends is run again, until `errors.max_unit_attempts` streams
    in a row have brought nothing; what then is missing becomes error rows.

    Raises:
        WorkersLost: the last of these streams did not end by itself: its workers had died. That is
            no row's fault (a row that kills is found and ends as an error), so no row is blamed.
    """
    start = Start(next((f.config.fetch.max_failures_at_start for f in flows.values()), None))
    for modality, flow in flows.items():
        for wave in plan.waves(modality, units_per_wave(flow.config.cluster)):
            for unit in wave:
                commit.expect(unit)
            cause: Exception | None = None
            attempts = Attempts(commit, flow.config.errors.max_unit_attempts)
            for attempt in attempts:
                log.info("running units", extra=_wave_fields(modality, attempt, commit))
                cause = _attempt(flow, commit, start, on_progress)
            if cause is not None and commit.open_units:
                raise WorkersLost(_last_line(cause)) from cause
            commit.give_up(attempts.number)
            on_progress(commit)


def units_per_wave(config: ClusterConfig) -> int:
    """Return how many units share one load of the model. Fewer waves, fewer half-idle ends.

    Drivers that claim units take a wave at a time: with large ones the last to come get none.
    """
    return config.units_per_wave or (2048 if config.claim_expiry_s is not None else 16_384)


def _attempt(flow: Flow, commit: Commit, start: Start, on_progress: OnProgress) -> Exception | None:
    """Run what is missing once; workers that keep dying end the attempt, not the run.

    Returns:
        What ended the stream, if it did not end by itself.

    Raises:
        StoreError, ConfigError, CheckpointError: a stage ends the run: a bucket wants other
            credentials, no asset of the run can be read, or no replica can be loaded.
        RayTaskError: a stage raised anything else: a defect of this software.
    """
    try:
        for replies in start.passed(flow.replies(commit.missing())):
            commit.add(replies)
            on_progress(commit)
    except RayTaskError as error:
        raise _stage_error(error) or error from error
    except (RayError, ExecutionTimeoutError) as error:
        log.warning("workers died too often", extra={"modality": flow.modality, "why": str(error)})
        return error
    return None


def _stage_error(error: RayTaskError) -> Exception | None:
    """Return the error with which a stage ends the run, without Ray's text around it."""
    cause = error.cause
    if not isinstance(cause, StoreError | ConfigError | CheckpointError):
        return None
    return type(cause)(str(cause).partition("\n")[0])


def _last_line(error: Exception) -> str:
    """Return the last line of a worker's traceback."""
    return str(error).strip().splitlines()[-1].strip()


def flows(
    config: RunConfig,
    backend: Backend,
    questions: Mapping[str, Question],
    crash_log: RemoteCrashLog,
    slots: ReplicaSlots,
) -> Mapping[Modality, Flow]:
    """Build one flow for each modality that the job's tasks need."""
    needed: dict[Modality, None] = {}
    for kind in KINDS.values():
        modality = kind.modality
        if any(question.task.modality == modality for question in questions.values()):
            needed[modality] = None
    return {
        modality: Flow(
            modality=modality,
            config=config,
            backend=backend,
            questions=questions,
            crash_log=crash_log,
            slots=slots,
        )
        for modality in needed
    }


def _wave_fields(modality: Modality, attempt: int, commit: Commit) -> dict[str, object]:
    return {"modality": modality, "attempt": attempt, "num_units": len(commit.open_units)}
