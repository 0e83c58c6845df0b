"""The main job: check, plan, run, record. What `phicorpus annotate` and jobs/annotate.py call."""

from __future__ import annotations

import importlib.metadata
import json
import logging
import os
import platform
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Literal

from phicorpus import flow
from phicorpus.commands.prepare import Prepared, prepare
from phicorpus.config import EngineName, RunConfig
from phicorpus.driver.parent import PARENT
from phicorpus.driver.signals import SIGNALS
from phicorpus.driver.timeout import DriverWatch
from phicorpus.engine.backend import Backend
from phicorpus.engine.registry import ENGINES
from phicorpus.errors import StoreError, WorkersLost
from phicorpus.output.claims import ClaimedWork, Claims
from phicorpus.output.runs import (
    evidence_folder,
    name_run,
    next_generation,
    note_settings,
    read_runs,
    write_end,
    write_start,
)
from phicorpus.output.settings import settings_of_run, write_settings
from phicorpus.output.write import Publication, RunPublisher
from phicorpus.planner import PlanSummary, Work
from phicorpus.schemas import RUN
from phicorpus.stages.assemble import assemble
from phicorpus.stages.commit import Commit, Tally
from phicorpus.storage.preflight import check_stores
from phicorpus.storage.store import Store, open_store, probe
from phicorpus.workers.cluster import cluster
from phicorpus.workers.crash_log import RemoteCrashLog
from phicorpus.workers.logs import relayed
from phicorpus.workers.metrics import Description, Use

log = logging.getLogger(__name__)

Status = Literal["done", "nothing_to_do"]
_PACKAGES = (
    *("ray", "torch", "transformers", "tokenizers", "llguidance"),
    *("pyarrow", "pillow", "pypdfium2", "av"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunReport:
    """The result of a run.

    Attributes:
        left: After a retry, how many annotations of the manifest have which status.
        errors_left: And how many of the errors are of which type.
        engine: What the engines did, by flow; see `phicorpus.workers.metrics.sum_stats`.
        replicas: What they ran on, by flow, and their memory plans; those that are alike as one.
    """

    run_id: str
    status: Status
    planned: PlanSummary
    tally: Tally = field(default_factory=Tally)
    elapsed_s: float = 0.0
    left: Mapping[str, int] | None = None
    errors_left: Mapping[str, int] = field(default_factory=dict[str, int])
    engine: Mapping[str, Use] = field(default_factory=dict[str, Use])
    replicas: Mapping[str, Sequence[Description]] = field(
        default_factory=dict[str, "Sequence[Description]"]
    )

    @property
    def error_ratio(self) -> float:
        """Share of errors: among what was committed, or among all that a retry leaves."""
        if self.left is not None:
            return self.left.get("error", 0) / max(1, sum(self.left.values()))
        return self.tally.num_error / max(1, self.tally.num_committed)

    def fields(self) -> dict[str, Any]:
        """Return the report as what JSON can hold, with its rates."""
        rows_per_s = self.tally.num_committed / self.elapsed_s if self.elapsed_s else 0.0
        rates = {"error_ratio": round(self.error_ratio, 6), "rows_per_s": round(rows_per_s, 3)}
        return {**asdict(self), **rates}


OnProgress = Callable[[Prepared, Commit], None]


def annotate(
    config: RunConfig, *, backend: Backend | None = None, on_progress: OnProgress | None = None
) -> RunReport:
    """Annotate what the manifest names and the output does not hold yet.

    Args:
        config: The job.
        backend: Answers in place of the config's model; for tests and simulations.
        on_progress: Called on the driver as replies come in.

    Raises:
        ConfigError, ManifestError, CheckpointError: see `prepare`; nothing was started.
        StoreError: the output, or the assets' store, refused; what was published stays right.
        KeyboardInterrupt: after the run's record was written; what was open will be run again.
    """
    job = prepare(config, backend)
    started = datetime.now(UTC)
    run_id = name_run(job.store, config, started)
    publisher = RunPublisher(job.plan.output, publication(job, run_id))
    commit = Commit(publisher, assemble, shield=SIGNALS.shielded)
    execution = Execution(run_id=run_id, started=started, work=job.plan, commit=commit)
    if not job.pending.num_pending_units:
        note_settings(job.store, job.plan.runs, record(job, execution, "done"))
        return RunReport(run_id=run_id, status="nothing_to_do", planned=job.pending)
    probe(job.store)
    expiry_s = config.cluster.claim_expiry_s
    if expiry_s is None:
        return execute(job, execution, on_progress)
    claims = Claims(job.store, run_id, expiry_s)
    with claims.kept():
        shared = replace(execution, work=ClaimedWork(job.plan, claims, expiry_s))
        return execute(job, shared, on_progress)


def with_new_generation(config: RunConfig) -> RunConfig:
    """Return the config of a run that answers all anew, or goes on with one that began to."""
    options, timeout_s = config.fetch.storage_options, config.output_store.timeout_s
    store = open_store(config.output, options, timeout_s=timeout_s)
    number = next_generation(read_runs(store))
    return config.model_copy(update={"generation": number})


@dataclass(frozen=True, slots=True, kw_only=True)
class Execution:
    """The parts of one run, beside its job."""

    run_id: str
    started: datetime
    work: Work
    commit: Commit


def execute(job: Prepared, run: Execution, on_progress: OnProgress | None) -> RunReport:
    """Run what is planned, between the run's two records.

    Raises:
        ConfigError: a replica's memory does not fit here; nothing was started.
        StoreError: no asset can be read; nothing was started but the run's record.
    """
    job.memory()
    begun = time.monotonic()
    tally = run.commit.tally
    status = "failed"
    engine: Mapping[str, Use] = {}
    replicas: Mapping[str, Sequence[Description]] = {}
    evidence = evidence_folder(job.plan.runs, job.plan.fingerprints.values())
    begins = record(job, run, "running")
    write_start(job.store, begins)
    kinds = job.pending.pending_by_kind
    used = (s for s in settings_of_run(begins, job.plan.answers) if s.kind in kinds)
    write_settings(job.store, used, job.plan.runs, job.config.fetch.storage_options)
    watch = DriverWatch(job.config.cluster.driver_timeout_s, partial(_end_at_once, job, run))
    PARENT.run_begins(job.config.output, job.config.fetch.storage_options, begins)

    def tell(commit: Commit) -> None:
        watch.alive()
        if on_progress is not None:
            on_progress(job, commit)

    try:
        if job.config.fetch.check_stores:
            check_stores(job.places.samples, job.config.fetch)
        with watch.watching():
            watch.waits_for("Ray to start")
            with cluster(job.config.cluster, job.config.model.device, watch.alive) as slots:
                watch.waits_for("the crash log's actor")
                crash_log = RemoteCrashLog(job.store, evidence)
                flows = flow.flows(job.config, job.backend, job.questions, crash_log, slots)
                with watch.asking(crash_log.signs), relayed(crash_log.lines):
                    watch.waits_for("replicas to load and rows to come")
                    tell(run.commit)
                    try:
                        flow.run(flows, run.work, run.commit, tell)
                    finally:
                        watch.waits_for("Ray to end")
                        engine = crash_log.uses()
                        replicas = crash_log.descriptions()
        status = "done"
    except (KeyboardInterrupt, SystemExit):
        status = "interrupted"
        raise
    finally:
        elapsed_s = time.monotonic() - begun
        ended = {"ended_at": datetime.now(UTC).isoformat(), "elapsed_s": round(elapsed_s, 3)}
        ran = {"engine": json.dumps(engine), "replicas": json.dumps(replicas)}
        _close_record(job.store, {**record(job, run, status), **ended, **ran})
    return RunReport(
        run_id=run.run_id,
        status="done",
        planned=job.pending,
        tally=tally,
        elapsed_s=elapsed_s,
        engine=engine,
        replicas=replicas,
    )


def _close_record(store: Store, fields: Mapping[str, Any]) -> None:
    """Write how a run ended; where that fails too, the error that ended the run is raised."""
    try:
        write_end(store, fields)
    except StoreError as error:
        if fields["status"] == "done":
            raise
        log.warning("the run's record could not be closed", extra={"why": str(error)})
    else:
        PARENT.run_is_recorded()


def _end_at_once(job: Prepared, run: Execution, reason: str) -> None:
    """End a watched driver whose main thread is stuck, and close its record.

    A process that is not watched, as of a program that calls `annotate`, is left to run: the log
    says what is the matter.
    """
    if PARENT.is_there:
        ended = {"ended_at": datetime.now(UTC).isoformat()}
        write_end(job.store, {**record(job, run, "failed"), **ended})
        sys.stderr.write(f"WorkersLost: {reason}\n")
        PARENT.run_is_recorded()
        PARENT.exits(WorkersLost.exit_code)
        os._exit(WorkersLost.exit_code)


def publication(job: Prepared, run_id: str) -> Publication:
    """Return what every file of a run has in common."""
    return Publication(
        run_id=run_id,
        model=job.backend.label,
        passed_through=job.manifest.passed_through,
        software_version=importlib.metadata.version("phicorpus"),
    )


def record(job: Prepared, run: Execution, status: str) -> dict[str, Any]:
    """Return the fields of a run's record, as RUN declares them."""
    counted = {n: value for n, value in asdict(run.commit.tally).items() if n in RUN.names}
    fingerprints = {f"{task}/{kind}": f for (task, kind), f in job.plan.fingerprints.items()}
    return {
        "run_id": run.run_id,
        "software_version": importlib.metadata.version("phicorpus"),
        "started_at": run.started.isoformat(),
        "status": status,
        "config": public(job.config),
        "models": json.dumps({"label": job.backend.label, "identity": job.backend.identity}),
        "fingerprints": json.dumps(fingerprints),
        "versions": json.dumps(_versions(job.config.engine.name)),
        **counted,
    }


def public(config: RunConfig) -> str:
    """Return the config as JSON, for commands that read the output later, from any folder.

    Without storage options, which may hold credentials; a manifest on this disk by its whole path.
    """
    at = config.manifest if "://" in config.manifest else str(Path(config.manifest).absolute())
    whole = config.model_copy(update={"manifest": at})
    return whole.model_dump_json(exclude={"fetch": {"storage_options"}})


def _versions(engine: EngineName) -> dict[str, str]:
    """Return the versions of what decides answers, the library of a named engine among them."""
    entry = ENGINES.get(engine)
    library = entry.capabilities.library if entry is not None else None
    return {
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in _PACKAGES},
        **(library.installed() if library is not None else {}),
    }
