"""Check and plan a job: what `phicorpus plan` prints, and what `annotate` then runs."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from phicorpus.config import RunConfig
from phicorpus.engine.backend import Backend, phi_backend
from phicorpus.engine.memory import MemoryPlan
from phicorpus.errors import ConfigError
from phicorpus.manifest.check import checked
from phicorpus.manifest.manifest import Manifest, ManifestPart, open_manifest
from phicorpus.models.model import Modality
from phicorpus.planner import Plan, PlanSummary
from phicorpus.storage.environment import settled
from phicorpus.storage.options import check_options
from phicorpus.storage.preflight import Places
from phicorpus.storage.store import Store, open_store
from phicorpus.tasks import TASKS
from phicorpus.tasks.question import Question, questions

log = logging.getLogger(__name__)


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
    places: Places

    def memory(self) -> Mapping[Modality, MemoryPlan]:
        """Return what a replica of each model flow will take, as far as this machine can tell.

        Raises:
            ConfigError: that does not fit.
        """
        plans: dict[Modality, MemoryPlan] = {}
        for question in self.questions.values():
            modality = question.task.modality
            if question.prompt is not None and modality not in plans:
                plan = self.backend.plan_memory(modality)
                plans |= {modality: plan} if plan is not None else {}
        return plans


def prepare(config: RunConfig, backend: Backend | None = None) -> Prepared:
    """Check everything that can be checked, and plan; reads the manifest, starts nothing.

    Raises:
        ConfigError: a setting is wrong, or the model does not fit the tasks.
        ManifestError: names file, column and row.
        CheckpointError: the model cannot be found or is not one that this project runs.
        StoreError: the output cannot be listed.
    """
    # Of this process. Arrow's own choice keeps what was freed, and grows with the manifest.
    pa.set_memory_pool(pa.system_memory_pool())
    asked = questions(config.tasks, TASKS)
    options = config.fetch.storage_options
    check_options(options)
    _check_apart(config)
    manifest = open_manifest(config.manifest, options)
    answering = backend or phi_backend(config)
    store = open_store(config.output, options, timeout_s=config.output_store.timeout_s)
    plan = Plan(config, manifest, answering, asked, store)
    places = Places(config.fetch)
    pending = plan.survey(_seen(checked(plan.manifest, list(asked)), places))
    if not pending.num_assets:
        log.warning("the manifest is empty: 0 assets", extra={"manifest": config.manifest})
    return Prepared(
        config=_reaching(config, places),
        manifest=plan.manifest,
        backend=answering,
        questions=asked,
        store=store,
        plan=plan,
        pending=pending,
        places=places,
    )


def _seen(parts: Iterable[ManifestPart], places: Places) -> Iterator[ManifestPart]:
    """Pass a manifest's parts through, and count their URIs in `places`."""
    for part in parts:
        pairs = zip(part.rows["uri"].to_pylist(), part.rows["text"].to_pylist(), strict=True)
        places.look(uri for uri, text in pairs if text is None)
        yield part


def _reaching(config: RunConfig, places: Places) -> RunConfig:
    """Add the endpoints by which this process reaches manifest and output, for the workers."""
    options = settled(config.fetch.storage_options, places.schemes)
    fetch = config.fetch.model_copy(update={"storage_options": options})
    return config.model_copy(update={"fetch": fetch})


def _check_apart(config: RunConfig) -> None:
    """Refuse an output inside the manifest's folder, whose files would be read as a manifest."""
    folder, output = _whole(config.manifest), _whole(config.output)
    if output == folder or output.startswith(f"{folder}/"):
        raise ConfigError(
            f"output: {config.output} lies in the manifest's folder {config.manifest}, and its "
            "files would be read as a manifest; put it beside that folder, or name the manifest's "
            "files: manifest: folder/*.parquet"
        )


def _whole(place: str) -> str:
    place = place.removeprefix("file://").rstrip("/")
    return place if "://" in place else Path(place).absolute().as_posix()
