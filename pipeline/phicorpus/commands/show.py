"""Some rows of an output, for `phicorpus show` and the demo."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from phicorpus.output.rows import CurrentRows
from phicorpus.output.runs import read_runs
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
