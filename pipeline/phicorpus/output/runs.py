"""The records of runs: runs/started/<run_id>.json at the start, runs/<run_id>.json at the end."""

from __future__ import annotations

import hashlib
import json
import logging
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

from phicorpus.config import RunConfig, parse_config
from phicorpus.errors import ConfigError, StoreError
from phicorpus.fingerprint import combined
from phicorpus.output.files import read_each
from phicorpus.schemas import RUN
from phicorpus.storage.store import Store

log = logging.getLogger(__name__)

Fields = Mapping[str, Any]

_START = "%Y%m%dT%H%M%S.%fZ"


def write_start(store: Store, record: Fields) -> None:
    """Write that a run begins: its config, model and fingerprints."""
    _create(store, f"runs/started/{record['run_id']}.json", record)


def write_end(store: Store, record: Fields) -> None:
    """Write how a run ended, with its counts."""
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
        runs: All runs of the output, this one first.
    """

    fields: Fields
    config: RunConfig
    runs: Sequence[Fields]

    @property
    def has_ended(self) -> bool:
        """The run recorded its end; a killed one never does."""
        return self.fields["ended_at"] is not None


class NothingRecorded(ConfigError):
    """No run of this output has begun yet."""


def newest(store: Store, options: Mapping[str, Any] | None = None) -> Recorded:
    """Read the newest run of an output, of those whose record can be read.

    Raises:
        NothingRecorded: there is none.
        ConfigError: its config is not one of this version.
    """
    runs = read_runs(store)
    if not runs:
        raise NothingRecorded(
            f"no run is recorded in {store}: not an output of phicorpus, or none began yet"
        )
    fields = runs[0]
    values = json.loads(fields["config"])
    if options:
        values.setdefault("fetch", {})["storage_options"] = dict(options)
    config = parse_config(values, source=f"run {fields['run_id']}")
    return Recorded(fields, config, runs)


def read_runs(store: Store) -> list[Fields]:
    """Read the records of all runs of an output, the newest first: each as it ended, or began.

    A record that was damaged is left out, by name in the log; `verify` reports it too.
    """
    paths: dict[str, list[str]] = {}
    for path in sorted(store.list_files("runs"), key=lambda path: path.count("/") == 1):
        paths.setdefault(_run_id(path), []).append(path)
    newest_first = (paths[name] for name in sorted(paths, reverse=True))
    records = (record for _, record in read_each(partial(_readable, store), newest_first))
    return [record for record in records if record is not None]


def _readable(store: Store, paths: Sequence[str]) -> Fields | None:
    """Read the last of a run's records that is one."""
    for path in reversed(paths):
        try:
            return read_record(store, path)
        except DamagedRecord as error:
            log.warning("a run's record is left out", extra={"why": str(error)})
    return None


class DamagedRecord(StoreError):
    """A file of runs/ is not what was written there: somebody else cut or changed it."""


def read_record(store: Store, path: str) -> Fields:
    """Read a run's record.

    Raises:
        DamagedRecord: it is not one.
        StoreError: the store failed or refused.
    """
    try:
        fields = json.loads(store.read(path))
        told = {**dict.fromkeys(RUN.names), **fields, "run_id": str(fields["run_id"])}
        json.loads(told["config"])
        json.loads(told["fingerprints"] or "{}")
    except (ValueError, TypeError, LookupError) as error:
        raise DamagedRecord(f"{path} is no record of a run: {error!r}; take it away") from error
    return told


def name_run(store: Store, config: RunConfig, now: datetime) -> str:
    """Name a run by its start and its config: it sorts behind every run that is recorded.

    Clocks of two machines differ: by the clock alone an older prompt could become the newest.
    """
    ids = sorted(_run_id(path) for path in store.list_files("runs"))
    begun = next(filter(None, map(_started, reversed(ids))), None)
    if begun is not None and begun >= now:
        log.warning("this clock is behind that of an earlier run", extra={"run_id": ids[-1]})
        now = begun + timedelta(milliseconds=1)
    digest = hashlib.blake2b(config.model_dump_json().encode(), digest_size=4).hexdigest()
    return f"{now:{_START}}-{digest}"


def _started(run_id: str) -> datetime | None:
    """Return when a run began, by its name."""
    try:
        return datetime.strptime(run_id.rpartition("-")[0], _START).replace(tzinfo=UTC)
    except ValueError:
        return None


def fingerprints_of(run: Fields) -> Mapping[tuple[str, str], str]:
    """Return the fingerprints that a run recorded, by task and kind of asset."""
    recorded: Mapping[str, str] = json.loads(run["fingerprints"] or "{}")
    split = ((name.partition("/"), fingerprint) for name, fingerprint in recorded.items())
    return {(task, kind): fingerprint for (task, _, kind), fingerprint in split}


def fingerprints_by_kind(run: Fields) -> Mapping[str, Sequence[str]]:
    """Return the fingerprints that a run's documents of each kind of asset are made of."""
    of_kind: dict[str, list[str]] = defaultdict(list)
    for (_, kind), fingerprint in fingerprints_of(run).items():
        of_kind[kind].append(fingerprint)
    return of_kind


def newest_settings(runs: Iterable[Fields]) -> Mapping[tuple[str | None, str], str]:
    """Return the fingerprint that the newest run which named a task and kind answered them with.

    Args:
        runs: The newest first.

    Returns:
        By task and kind of asset; under the task None, the fingerprint of the kind's documents.
    """
    found: dict[tuple[str | None, str], str] = {}
    for run in runs:
        for asked, fingerprint in fingerprints_of(run).items():
            found.setdefault(asked, fingerprint)
        for kind, fingerprints in fingerprints_by_kind(run).items():
            found.setdefault((None, kind), combined(fingerprints))
    return found


def evidence_folder(runs: Iterable[Fields], fingerprints: Iterable[str]) -> str:
    """Name the folder of what is known about rows that ended their process.

    It is that of all runs of these settings since the last run that was done: a driver that is
    started again goes on with it; a retry, or other settings, try every row again.
    """
    last = next((run["run_id"] for run in runs if run["status"] == "done"), "none")
    return f"attempts/after-{last}/{combined(fingerprints)}"


def note_settings(store: Store, runs: Sequence[Fields], fields: Fields) -> None:
    """Record a run that had nothing to do, if no other says which rows are current.

    The newest record says that: of two prompts that were tried, the one asked for last. So does
    this one where it is of other settings or another manifest, or where the records are lost.
    """
    if not runs or _asked(runs[0]) != _asked(fields):
        write_start(store, {**fields, "status": "running"})
        write_end(store, {**fields, "ended_at": fields["started_at"], "elapsed_s": 0.0})


def _asked(fields: Fields) -> tuple[str, str]:
    return fields["fingerprints"], json.loads(fields["config"])["manifest"]


def next_generation(runs: Iterable[Fields]) -> int:
    """Number a run that answers everything anew, or goes on with one that began to.

    Every generation counts that a run of this output had, not the newest run's alone. One that was
    killed, or ended with more errors than it allows, is gone on with: whoever runs the same command
    again does not mean to answer all of it a third time.
    """
    numbered = [(_generation(run), run) for run in runs]
    if not numbered:
        return 0
    highest = max(number or 0 for number, _ in numbered)
    last = next((run for number, run in numbered if number == highest), None)  # the newest of these
    return highest if last is not None and not _went_well(last) else highest + 1


def finished_generations(runs: Iterable[Fields], tasks: Iterable[str]) -> Mapping[str, int]:
    """Return the generation that the newest finished run which named one left each task in.

    Args:
        runs: The newest first.
        tasks: Which ones.
    """
    found: dict[str, int] = {}
    for run in runs:
        number = _generation(run)
        if number is not None and run["status"] == "done":
            for task, _ in fingerprints_of(run):
                found.setdefault(task, number)
    return {task: found[task] for task in tasks if task in found}


def _generation(run: Fields) -> int | None:
    return json.loads(run["config"]).get("generation")


def _went_well(run: Fields) -> bool:
    counts = {name: run[f"num_{name}"] or 0 for name in ("ok", "error", "skipped")}
    allowed = json.loads(run["config"]).get("errors", {}).get("max_error_ratio", 1.0)
    return run["status"] == "done" and counts["error"] <= allowed * sum(counts.values())


def _run_id(path: str) -> str:
    return path.rpartition("/")[2].removesuffix(".json")
