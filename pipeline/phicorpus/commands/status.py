"""The progress of an output, by its newest run's record, its manifest and its files."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from phicorpus.engine.backend import Backend
from phicorpus.engine.loaded import LoadedReplica
from phicorpus.engine.slots import ReplicaSlots
from phicorpus.errors import EngineDied
from phicorpus.manifest.manifest import open_manifest
from phicorpus.manifest.units import Unit
from phicorpus.media.kinds import KINDS
from phicorpus.models.model import Modality
from phicorpus.output.files import Output, read_each
from phicorpus.output.rows import count_share
from phicorpus.output.runs import Recorded, newest
from phicorpus.planner import Plan
from phicorpus.schemas.paths import TableKey
from phicorpus.storage.store import Store
from phicorpus.tasks import TASKS
from phicorpus.tasks.question import questions
from phicorpus.workers.metrics import Description, Use, recorded_replicas, recorded_uses


@dataclass(slots=True)
class TaskStatus:
    """The progress of one task."""

    units: int = 0
    units_committed: int = 0
    assets: int = 0
    assets_committed: int = 0
    ok: int = 0
    error: int = 0
    skipped: int = 0


@dataclass(slots=True)
class OutputStatus:
    """The progress of the newest run of an output.

    Attributes:
        rows_per_s: That the run committed, from its start to its end; None before that.
        engine: What its replicas did, by flow, by `metrics.sum_stats`; None before its end.
        replicas: What they ran on, by flow; empty before its end.
        fingerprints: Those of the run, by task and kind of asset: `ocr/image`.
        torn: Files that cannot be read: their rows are not counted.
    """

    run_id: str
    run_status: str
    started_at: str
    ended_at: str | None
    rows_per_s: float | None
    engine: Mapping[str, Use] | None
    replicas: dict[str, list[Description]] = field(default_factory=dict[str, "list[Description]"])
    tasks: dict[str, TaskStatus] = field(default_factory=dict[str, TaskStatus])
    fingerprints: dict[str, str] = field(default_factory=dict[str, str])
    torn: list[str] = field(default_factory=list[str])

    @property
    def error_ratio(self) -> float:
        """Share of errors among the rows that the output holds of this plan."""
        rows = sum(task.ok + task.error + task.skipped for task in self.tasks.values())
        return sum(task.error for task in self.tasks.values()) / max(1, rows)

    @property
    def num_pending_units(self) -> int:
        """Units of the plan that are not committed, over all tasks."""
        return sum(task.units - task.units_committed for task in self.tasks.values())


def status(store: Store, options: Mapping[str, Any] | None = None) -> OutputStatus:
    """Count per task what is committed, what is pending and what failed, of the newest run's plan.

    Raises:
        ConfigError: no run is recorded there.
        ManifestError: the run's manifest cannot be read.
        StoreError: the output cannot be read.
    """
    recorded = newest(store, options)
    ended = recorded.fields["status"] if recorded.has_ended else "running or killed"
    found = OutputStatus(
        run_id=recorded.fields["run_id"],
        run_status=ended,
        started_at=recorded.fields["started_at"],
        ended_at=recorded.fields["ended_at"],
        rows_per_s=_rows_per_s(recorded.fields),
        engine=recorded_uses(recorded.fields),
        replicas=recorded_replicas(recorded.fields),
    )
    plan = plan_again(recorded, store)
    found.fingerprints = {f"{task}/{kind}": f for (task, kind), f in plan.fingerprints.items()}
    for unit, counts in read_each(partial(_counts, plan.output), plan.every_unit()):
        for table, counted in counts.items():
            here = found.tasks.setdefault(str(table.task), TaskStatus())
            here.units += 1
            here.units_committed += table not in unit.todo
            here.assets += sum(table.task in names for names in unit.asked.values())
            here.assets_committed += sum(len(share.assets) for share in unit.done.get(table, ()))
            here.ok += counted["ok"]
            here.error += counted["error"]
            here.skipped += counted["skipped"]
    found.torn = sorted(plan.output.torn)
    return found


def _counts(output: Output, unit: Unit) -> Mapping[TableKey, Counter[str]]:
    """Count what is committed of each of a unit's tables of annotations, by status."""
    counts: dict[TableKey, Counter[str]] = {}
    for table in unit.tables:
        if table.task is not None:
            shares = unit.done.get(table, ())
            parts = (count_share(output, table, share) for share in shares)
            counts[table] = sum(parts, Counter[str]())
    return counts


def _rows_per_s(run: Mapping[str, Any]) -> float | None:
    if not run["elapsed_s"]:
        return None
    return round((run["num_ok"] + run["num_error"] + run["num_skipped"]) / run["elapsed_s"], 3)


def plan_again(recorded: Recorded, store: Store) -> Plan:
    """Plan as the recorded run did; its model is known by the identity that was recorded."""
    config = recorded.config
    manifest = open_manifest(config.manifest, config.fetch.storage_options)
    asked = questions(config.tasks, TASKS)
    return Plan(config, manifest, _as_recorded(recorded), asked, store, recorded.runs)


def _as_recorded(recorded: Recorded) -> Backend:
    model = json.loads(recorded.fields["models"])
    return Backend(
        label=model["label"],
        identity=model["identity"],
        modalities=frozenset(kind.modality for kind in KINDS.values()),
        preparation=None,
        load=_no_model,
    )


def _no_model(modality: Modality, _slots: ReplicaSlots | None = None) -> LoadedReplica:
    raise EngineDied(f"a record of a run answers nothing ({modality})")
