"""Some rows and all settings of an output, for `phicorpus show` and the demo."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from phicorpus.output.rows import CurrentRows
from phicorpus.output.runs import read_runs
from phicorpus.output.settings import Settings, all_settings, settings_of_run
from phicorpus.schemas.paths import FileKey
from phicorpus.storage.store import Store

_SAMPLED_FILES = 20
_SAMPLED_COLUMNS = ["uri", "status", "segment_kind", "segment_index", "page_number", "start_s"]
_SAMPLED_COLUMNS += ["end_s", "text", "error_message", "skip_reason"]


def sample(store: Store, per_task: int, *, outdated: bool = False) -> list[dict[str, Any]]:
    """Return some rows of each task, status and kind of segment, from each task's first files.

    Args:
        store: The output.
        per_task: How many rows of each.
        outdated: Outdated rows too: their `outdated` says why.
    """
    current = CurrentRows(store, read_runs(store))
    files: Counter[tuple[str, str]] = Counter()
    chosen: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    taken: list[FileKey] = []
    for key in current.files():
        group = (str(key.table.task), key.table.fingerprint)
        if (outdated or current.has_newest_settings(key)) and files[group] < _SAMPLED_FILES:
            files[group] += 1
            taken.append(key)
    for _, rows in current.rows(taken, _SAMPLED_COLUMNS):
        for row in rows:
            if row["outdated"] is not None and not outdated:
                continue
            kind = (row["outdated"] or "", row["status"], row["segment_kind"])
            group = chosen.setdefault((row["task"], *kind), [])
            if len(group) < per_task:
                group.append({**{n: row.get(n) for n in _SAMPLED_COLUMNS}, **_told(row)})
    order = {"ok": 0, "skipped": 1, "error": 2}
    groups = sorted(chosen, key=lambda group: (*group[:2], order[group[2]], group[3]))
    return [row for group in groups for row in chosen[group]]


def _told(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: row.get(name) for name in ("task", "fingerprint", "asset_version", "outdated")}


@dataclass(frozen=True, slots=True, kw_only=True)
class UsedSettings:
    """The settings behind one fingerprint of an output, and its rows.

    Attributes:
        table: The task, or "documents".
        kind: Of asset.
        prompt: None where no model is asked, for documents, and where no record tells.
        model: Its label; None as for the prompt.
        first_used_at: None where no record tells.
        is_of_newest_run: The newest run used them.
        settings: Everything that is known of them.
    """

    fingerprint: str
    table: str
    kind: str | None
    prompt: str | None
    model: str | None
    first_used_at: str | None
    num_current: int
    num_outdated: int
    is_of_newest_run: bool
    settings: Settings | None


def used_settings(store: Store) -> list[UsedSettings]:
    """Return what an output has rows of, or a run used, by fingerprint; the newest run's first.

    Raises:
        StoreError: the output cannot be read.
    """
    runs = read_runs(store)
    known = all_settings(store, runs)
    newest = {settings.fingerprint for settings in settings_of_run(runs[0])} if runs else set()
    current = CurrentRows(store, runs, ("annotations", "documents"))
    tables = {key.table.fingerprint: key.table.task for key in current.files()}
    tables |= {fingerprint: settings.task for fingerprint, settings in known.items()}
    counted: dict[str, Counter[str]] = defaultdict(Counter)
    for key, counts in current.counts(current.files()):
        counted[key.table.fingerprint]["current"] += counts.current.total()
        counted[key.table.fingerprint]["outdated"] += counts.outdated.total()
    found = [
        UsedSettings(
            fingerprint=fingerprint,
            table=task or "documents",
            kind=settings.kind if (settings := known.get(fingerprint)) is not None else None,
            prompt=settings.prompt if settings is not None else None,
            model=settings.model["label"] if settings is not None and settings.model else None,
            first_used_at=settings.first_used_at if settings is not None else None,
            num_current=counted[fingerprint]["current"],
            num_outdated=counted[fingerprint]["outdated"],
            is_of_newest_run=fingerprint in newest,
            settings=settings,
        )
        for fingerprint, task in tables.items()
    ]

    def place(one: UsedSettings) -> tuple[bool, bool, str, str]:
        is_of_earlier_runs, is_of_documents = not one.is_of_newest_run, one.table == "documents"
        return is_of_earlier_runs, is_of_documents, one.table, one.kind or ""

    return sorted(found, key=place)
