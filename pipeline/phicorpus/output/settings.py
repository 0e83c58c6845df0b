"""The settings behind a fingerprint: settings/<fingerprint>.json, written when a run first uses it.

An output of an earlier release has no such files; of its fingerprints the records of its runs say
what they know.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from functools import partial
from typing import Any

from phicorpus.config import parse_config
from phicorpus.errors import ConfigError
from phicorpus.fingerprint import answer_settings, combined, digest
from phicorpus.media.kinds import KINDS
from phicorpus.output.files import read_each
from phicorpus.output.runs import DamagedRecord, Fields, fingerprints_by_kind, fingerprints_of
from phicorpus.storage.redact import redacted
from phicorpus.storage.store import Store
from phicorpus.tasks import TASKS
from phicorpus.tasks.question import questions

log = logging.getLogger(__name__)

FOLDER = "settings"


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The settings that the rows of one fingerprint were made with.

    Attributes:
        fingerprint: As in the paths of annotations or documents.
        task: None for documents.
        kind: Of asset.
        model: Label and identity; None for documents, and where no model is asked.
        answers: What the fingerprint is the hash of: prompt, decoding, rendering, versions. None
            where only an older release's run record knows of it.
        annotations: For documents, the fingerprints of the annotations that they are made of.
        software_version: Of phicorpus, when it was first used.
        first_used_at: UTC, ISO 8601.
    """

    fingerprint: str
    task: str | None
    kind: str
    model: Mapping[str, str] | None
    answers: Mapping[str, Any] | None = None
    annotations: Sequence[str] = field(default_factory=list[str])
    software_version: str
    first_used_at: str

    @property
    def prompt(self) -> str | None:
        """The question, where one is asked and known."""
        return self.answers["prompt"] if self.answers is not None else None


def settings_of_run(
    run: Fields, answers: Mapping[str, Mapping[str, Any]] | None = None
) -> Iterator[Settings]:
    """Return what a run's record says of its fingerprints, those of its documents too.

    Args:
        run: Its record.
        answers: What fingerprints are the hashes of; None: as far as the record's config tells.
    """
    known = _recorded_answers(run) if answers is None else answers
    common = {"software_version": run["software_version"], "first_used_at": run["started_at"]}
    model: Mapping[str, str] | None = json.loads(run["models"] or "null")
    for (task, kind), fingerprint in fingerprints_of(run).items():
        of_task = known.get(fingerprint)
        asked = model if of_task is None or of_task["prompt"] is not None else None
        name = {"fingerprint": fingerprint, "task": task, "kind": kind}
        yield Settings(**name, **common, model=asked, answers=of_task)
    for kind, fingerprints in fingerprints_by_kind(run).items():
        name = {"fingerprint": combined(fingerprints), "task": None, "kind": kind}
        yield Settings(**name, **common, model=None, annotations=sorted(fingerprints))


def _recorded_answers(run: Fields) -> Mapping[str, Mapping[str, Any]]:
    """Return what recorded fingerprints are the hashes of, as far as they come out again.

    Where they do not, the release that wrote the record had other prompts or defaults.
    """
    try:
        config = parse_config(json.loads(run["config"]))
        asked = questions(config.tasks, TASKS)
    except ConfigError:
        return {}
    identity = json.loads(run["models"] or "{}").get("identity", "")
    pairs = [(task, kind) for task, kind in fingerprints_of(run) if task in asked and kind in KINDS]
    found = (answer_settings(asked[task], kind, config, identity) for task, kind in pairs)
    return {digest(answers): answers for answers in found}


def write_settings(
    store: Store,
    used: Iterable[Settings],
    runs: Sequence[Fields],
    options: Mapping[str, Any] | None = None,
) -> None:
    """Write a file for each fingerprint that has none yet, without secrets.

    Args:
        store: The output.
        used: What a run is about to use.
        runs: Earlier runs, the newest first: they may have used it before there were such files.
        options: Storage options, whose secrets are hidden.

    Raises:
        StoreError: the store failed or refused.
    """
    there = set(store.list_files(FOLDER))
    missing = [settings for settings in used if _path(settings.fingerprint) not in there]
    known = (settings for run in runs for settings in settings_of_run(run, {})) if missing else ()
    first = {settings.fingerprint: settings for settings in known}
    for settings in missing:
        since = first.get(settings.fingerprint, settings)
        uses = {"software_version": since.software_version, "first_used_at": since.first_used_at}
        shown = _without_secrets(asdict(settings) | uses, options)
        content = json.dumps(shown, indent=1, ensure_ascii=False)
        store.create(_path(settings.fingerprint), content.encode())


def read_settings(store: Store, path: str) -> Settings:
    """Read a file of settings.

    Raises:
        DamagedRecord: it is not one.
        StoreError: the store failed or refused.
    """
    try:
        values = json.loads(store.read(path))
        settings = Settings(**{f.name: values[f.name] for f in fields(Settings)})
    except (ValueError, TypeError, LookupError) as error:
        raise DamagedRecord(f"{path} is no record of settings: {error!r}; take it away") from error
    if _path(settings.fingerprint) != path:
        raise DamagedRecord(f"{path} is of another fingerprint, {settings.fingerprint}")
    return settings


def all_settings(store: Store, runs: Sequence[Fields]) -> Mapping[str, Settings]:
    """Return what is known of each fingerprint that a run of an output used.

    Args:
        store: The output.
        runs: Its runs, the newest first.

    Raises:
        StoreError: the store failed or refused.
    """
    found: dict[str, Settings] = {}
    for settings in (settings for run in runs for settings in settings_of_run(run)):
        later = found.get(settings.fingerprint)
        answers = settings.answers or (later.answers if later is not None else None)
        found[settings.fingerprint] = replace(settings, answers=answers)
    for path, settings in read_each(partial(_readable, store), store.list_files(FOLDER)):
        if settings is None:
            log.warning("a file of settings is left out", extra={"path": path})
        else:
            found[settings.fingerprint] = settings
    return found


def _readable(store: Store, path: str) -> Settings | None:
    try:
        return read_settings(store, path)
    except DamagedRecord:
        return None


def _path(fingerprint: str) -> str:
    return f"{FOLDER}/{fingerprint}.json"


def _without_secrets(value: object, options: Mapping[str, Any] | None) -> object:
    if isinstance(value, str):
        return redacted(value, options)
    if isinstance(value, Mapping):
        return {name: _without_secrets(item, options) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_secrets(item, options) for item in value]
    return value
