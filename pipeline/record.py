"""Who ran what: runs/started/<run_id>.json when a run begins, runs/<run_id>.json when it ends."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from pipeline.config import RunConfig, parse_config
from pipeline.errors import ConfigError
from pipeline.fingerprint import combined
from pipeline.storage.store import Store
from schemas import RUN

Fields = Mapping[str, Any]

_THREADS = 16


def write_start(store: Store, record: Fields) -> None:
    """Say that a run begins: its config, model and fingerprints."""
    _create(store, f"runs/started/{record['run_id']}.json", record)


def write_end(store: Store, record: Fields) -> None:
    """Say how a run ended, with its counts."""
    _create(store, f"runs/{record['run_id']}.json", record)


def _create(store: Store, path: str, record: Fields) -> None:
    fields = {name: record.get(name) for name in RUN.names}
    store.create(path, json.dumps(fields, indent=1).encode())


@dataclass(frozen=True, slots=True)
class Recorded:
    """The newest run of an output, as far as it is recorded.

    Attributes:
        fields: RUN's fields; those of the start where the run has not ended.
        config: The run's config, with the storage options of whoever asks.
    """

    fields: Fields
    config: RunConfig

    @property
    def has_ended(self) -> bool:
        """Whether the run said how it ended; a killed one never does."""
        return self.fields["ended_at"] is not None


class NothingRecorded(ConfigError):
    """No run of this output has begun yet."""


def newest(store: Store, options: Mapping[str, Any] | None = None) -> Recorded:
    """Read the newest run of an output.

    Raises:
        NothingRecorded: there is none.
        ConfigError: its config is not one of this version.
    """
    paths = sorted(store.list_files("runs"), key=lambda path: (_run_id(path), path.count("/") == 1))
    if not paths:
        raise NothingRecorded(
            f"no run is recorded in {store}: not an output of phicorpus, or none began yet"
        )
    fields: Fields = json.loads(store.read(paths[-1]))
    values = json.loads(fields["config"])
    if options:
        values.setdefault("fetch", {})["storage_options"] = dict(options)
    return Recorded(fields, parse_config(values, source=f"run {fields['run_id']}"))


def every(store: Store) -> list[Fields]:
    """Read all runs of an output, the newest first: each as it ended, or as it began."""
    paths = sorted(store.list_files("runs"), key=lambda path: (_run_id(path), path.count("/") == 1))
    last = {_run_id(path): path for path in paths}
    with ThreadPoolExecutor(_THREADS) as pool:
        records: list[Fields] = list(
            pool.map(lambda path: json.loads(store.read(path)), last.values())
        )
    return records[::-1]


def evidence_folder(store: Store, fingerprints: Iterable[str]) -> str:
    """Name the folder of what is known about rows that ended their process.

    It is that of all runs of these settings since the last run that was done: a driver that is
    started again goes on with it; a retry, or other settings, try every row again.
    """
    last = next((run["run_id"] for run in every(store) if run["status"] == "done"), "none")
    return f"attempts/after-{last}/{combined(fingerprints)}"


def note_settings(store: Store, fields: Fields) -> None:
    """Record a run that had nothing to do, if it is of other settings or another manifest.

    The newest record says what holds: of two prompts that were tried, the one asked for last.
    """
    runs = every(store)
    if runs and _meant(runs[0]) != _meant(fields):
        write_start(store, {**fields, "status": "running"})
        write_end(store, {**fields, "ended_at": fields["started_at"], "elapsed_s": 0.0})


def _meant(fields: Fields) -> tuple[str, str]:
    return fields["fingerprints"], json.loads(fields["config"])["manifest"]


def next_generation(store: Store) -> int | None:
    """Number a run that answers everything anew, or goes on with one that began to.

    Every generation counts that a run of this output had, not the newest run's alone: a nightly run
    in between has the one that its config says. None where nothing was run yet.
    """
    runs = every(store)
    numbered = [(json.loads(run["config"]).get("generation", 0), run["status"]) for run in runs]
    if not numbered:
        return None
    highest, status = max(numbered, key=lambda run: run[0])  # of equals the first: the newest
    unfinished = highest > 0 and status != "done"
    return highest + (0 if unfinished else 1)


def _run_id(path: str) -> str:
    return path.rpartition("/")[2].removesuffix(".json")
