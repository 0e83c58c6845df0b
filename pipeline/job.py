"""The main job: check, plan, run, record. What `phicorpus annotate` and jobs/annotate.py call."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import logging
import platform
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

from pipeline import flow
from pipeline.cluster import RemoteWitness, cluster
from pipeline.config import RunConfig
from pipeline.engine.backend import Backend, phi_backend
from pipeline.manifest import Manifest, check, open_manifest
from pipeline.plan import Plan, PlanSummary
from pipeline.publish import Publication, Publisher
from pipeline.stages.assemble import assemble
from pipeline.stages.commit import Commit, Tally
from pipeline.storage.store import Store, open_store, probe
from pipeline.tasks import TASKS
from pipeline.tasks.question import Question, questions
from schemas import RUN

log = logging.getLogger(__name__)

Status = Literal["done", "nothing_to_do"]
_PACKAGES = ("ray", "torch", "transformers", "pyarrow", "pillow", "pypdfium2", "av")


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A job that is checked and planned, and has started nothing."""

    config: RunConfig
    manifest: Manifest
    backend: Backend
    questions: Mapping[str, Question]
    store: Store
    plan: Plan
    pending: PlanSummary


@dataclass(frozen=True, slots=True, kw_only=True)
class RunReport:
    """What a run did."""

    run_id: str
    status: Status
    planned: PlanSummary
    tally: Tally = field(default_factory=Tally)
    elapsed_s: float = 0.0

    @property
    def error_ratio(self) -> float:
        """Share of the committed annotations that are errors."""
        return self.tally.num_error / max(1, self.tally.num_committed)


OnProgress = Callable[[Prepared, Commit], None]


def prepare(config: RunConfig, backend: Backend | None = None) -> Prepared:
    """Check everything that can be checked, and plan; reads the manifest, starts nothing.

    Raises:
        ConfigError: a setting is wrong, or the model does not fit the tasks.
        ManifestError: names file, column and row.
        CheckpointError: the model cannot be found or is not one that this project runs.
        StoreError: the output cannot be listed.
    """
    asked = questions(config.tasks, TASKS)
    options = config.fetch.storage_options
    manifest = open_manifest(config.manifest, options)
    check(manifest, list(asked))
    answering = backend or phi_backend(config)
    store = open_store(config.output, options)
    plan = Plan(config, manifest, answering, asked, store)
    for _ in plan.units():
        pass  # counts what is pending, into the summary
    return Prepared(
        config=config,
        manifest=manifest,
        backend=answering,
        questions=asked,
        store=store,
        plan=plan,
        pending=plan.summary,
    )


def annotate(
    config: RunConfig, *, backend: Backend | None = None, on_progress: OnProgress | None = None
) -> RunReport:
    """Annotate whatever the manifest names and the output does not hold yet.

    Args:
        config: The job.
        backend: Answers in place of the config's model; for tests and simulations.
        on_progress: Called on the driver as replies come in.

    Raises:
        ConfigError, ManifestError, CheckpointError: see `prepare`; nothing was started.
        StoreError: the output refused; what was published stays right.
        KeyboardInterrupt: after the run's record was written; what was open will be run again.
    """
    job = prepare(config, backend)
    started = datetime.now(UTC)
    run_id = _run_id(config, started)
    if not job.pending.num_pending_units:
        return RunReport(run_id=run_id, status="nothing_to_do", planned=job.pending)
    probe(job.store)
    commit = Commit(Publisher(job.store, _publication(job)), assemble)
    begun = time.monotonic()
    status = "failed"
    try:
        with cluster(config.cluster):
            flows = flow.flows(config, job.backend, job.questions, RemoteWitness(job.store))
            flow.run(flows, job.plan, commit, lambda c: on_progress and on_progress(job, c))
        status = "done"
    except (KeyboardInterrupt, SystemExit):
        status = "interrupted"
        raise
    finally:
        elapsed_s = time.monotonic() - begun
        record = _record(job, commit.tally, run_id, status, (started, elapsed_s))
        job.store.create(f"runs/{run_id}.json", json.dumps(record, indent=1).encode())
    return RunReport(
        run_id=run_id, status="done", planned=job.pending, tally=commit.tally, elapsed_s=elapsed_s
    )


def _run_id(config: RunConfig, started: datetime) -> str:
    digest = hashlib.blake2b(config.model_dump_json().encode(), digest_size=4).hexdigest()
    return f"{started:%Y%m%dT%H%M%S.%fZ}-{digest}"


def _publication(job: Prepared) -> Publication:
    return Publication(
        fingerprints=job.plan.fingerprints,
        document_fingerprints=job.plan.document_fingerprints,
        model=job.backend.label,
        passed_through=job.manifest.passed_through,
        software_version=importlib.metadata.version("phicorpus"),
    )


def _record(
    job: Prepared, tally: Tally, run_id: str, status: str, times: tuple[datetime, float]
) -> dict[str, Any]:
    """Describe a run: RUN's fields."""
    started, elapsed_s = times
    counted = {name: value for name, value in asdict(tally).items() if name in RUN.names}
    fingerprints = {f"{task}/{kind}": f for (task, kind), f in job.plan.fingerprints.items()}
    record = {
        "run_id": run_id,
        "software_version": importlib.metadata.version("phicorpus"),
        "started_at": started.isoformat(),
        "ended_at": datetime.now(UTC).isoformat(),
        "status": status,
        "config": _public(job.config),
        "models": json.dumps({"label": job.backend.label, "identity": job.backend.identity}),
        "fingerprints": json.dumps(fingerprints),
        "versions": json.dumps(_versions()),
        "elapsed_s": round(elapsed_s, 3),
        **counted,
    }
    return {name: record.get(name) for name in RUN.names}


def _public(config: RunConfig) -> str:
    """Give the config as JSON, without storage options, which may hold credentials."""
    return config.model_dump_json(exclude={"fetch": {"storage_options"}})


def _versions() -> dict[str, str]:
    return {"python": platform.python_version()} | {
        name: importlib.metadata.version(name) for name in _PACKAGES
    }
