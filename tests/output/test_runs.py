"""Runs leave records, and what they say decides what a later run means."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from phicorpus.commands.annotate import annotate, with_new_generation
from phicorpus.commands.prepare import prepare
from phicorpus.commands.status import status
from phicorpus.commands.verify import verify
from phicorpus.output.runs import (
    evidence_folder,
    name_run,
    next_generation,
    read_runs,
    write_end,
    write_start,
)
from phicorpus.report import gather
from phicorpus.storage.store import Store, open_store
from tests.builders import a_backend, a_config
from tests.test_edits import Corpus, images


def a_run(
    store: Store, number: int, status: str = "done", generation: int | None = 0, **fields: Any
) -> None:
    config = json.dumps({"generation": generation, "errors": {"max_error_ratio": 0.5}})
    fields = {"run_id": f"run-{number}", "config": config, "status": "running"} | fields
    write_start(store, fields)
    if status != "running":
        write_end(store, {**fields, "status": status})


def test_answering_everything_again_counts_on_from_every_earlier_time(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    assert next_generation(read_runs(store)) == 0
    for number, generation in enumerate((0, 1, 0)):
        a_run(store, number, generation=generation)

    assert next_generation(read_runs(store)) == 2
    a_run(store, 3, "interrupted", generation=2)
    a_run(store, 4, generation=0)

    assert next_generation(read_runs(store)) == 2
    a_run(store, 5, generation=2)
    assert next_generation(read_runs(store)) == 3


def test_a_new_output_s_run_that_was_killed_is_gone_on_with(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    a_run(store, 0, "running", generation=next_generation(read_runs(store)))

    assert next_generation(read_runs(store)) == 0


def test_a_run_with_more_errors_than_it_allows_is_gone_on_with(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    a_run(store, 0, generation=None, num_ok=8)
    a_run(store, 1, generation=1, num_ok=3, num_error=5)

    assert next_generation(read_runs(store)) == 1


def test_what_was_answered_anew_is_what_later_runs_go_on_with(tmp_path: Path) -> None:
    corpus = Corpus(tmp_path, images(2))
    corpus.run()
    plain = fingerprints(corpus)
    anew = with_new_generation(corpus.config)
    assert anew.generation == 1

    a_run(corpus.store, 1, "interrupted", generation=1, fingerprints='{"ocr/image": "f"}')
    assert fingerprints(corpus) == plain
    a_run(corpus.store, 2, generation=1, fingerprints='{"ocr/image": "f"}')
    a_run(corpus.store, 3, generation=None, fingerprints='{"ocr/image": "f"}')

    now = fingerprints(corpus)
    assert now["caption", "image"] == plain["caption", "image"]  # another job's task
    assert now["ocr", "image"] == fingerprints(corpus, generation=1)["ocr", "image"]
    a_run(corpus.store, 4, generation=0, fingerprints='{"ocr/image": "f"}')
    assert fingerprints(corpus) == plain == fingerprints(corpus, generation=0)


def fingerprints(corpus: Corpus, **changes: Any) -> Mapping[tuple[str, str], str]:
    config = corpus.config.model_copy(update=changes)
    return prepare(config, a_backend()).plan.fingerprints


def test_a_run_sorts_behind_earlier_ones_whatever_its_clock_says(tmp_path: Path) -> None:
    store, config = open_store(str(tmp_path)), a_config(tmp_path)
    now = datetime(2026, 5, 1, 12, tzinfo=UTC)
    first = name_run(store, config, now)
    a_run(store, 0, run_id=first)

    second = name_run(store, config, now - timedelta(hours=2))
    a_run(store, 1, run_id=second)
    third = name_run(store, config, now)

    assert first < second < third
    assert [run["run_id"] for run in read_runs(store)] == [second, first]


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b'{"run_id": "x", "config": null}', b"\xff"])
def test_a_damaged_record_costs_that_record(tmp_path: Path, damage: bytes) -> None:
    corpus = Corpus(tmp_path, images(2))
    corpus.run()
    (tmp_path / "output" / "runs" / "0001.json").write_bytes(damage)

    assert status(corpus.store).run_status == "running or killed"
    assert annotate(corpus.config, backend=a_backend()).status == "nothing_to_do"
    assert [(p.kind, p.path) for p in verify(corpus.store).problems] == [("torn", "runs/0001.json")]


def test_lost_records_are_written_again_by_a_run_with_nothing_to_do(tmp_path: Path) -> None:
    corpus = Corpus(tmp_path, images(2))
    corpus.run()
    shutil.rmtree(tmp_path / "output" / "runs")

    assert annotate(corpus.config, backend=a_backend()).status == "nothing_to_do"

    assert verify(corpus.store).is_right


def test_what_ended_processes_is_remembered_until_a_run_is_done(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    first = evidence_folder(read_runs(store), ["f1", "f2"])
    a_run(store, 1, "running")
    a_run(store, 2, "failed")

    assert evidence_folder(read_runs(store), ["f2", "f1"]) == first
    assert evidence_folder(read_runs(store), ["f3"]) != first
    a_run(store, 3)
    assert evidence_folder(read_runs(store), ["f1", "f2"]) != first


def test_of_two_prompts_the_one_asked_for_last_holds_though_nothing_was_left_to_do(
    tmp_path: Path,
) -> None:
    corpus = Corpus(tmp_path, images(2))
    corpus.run()
    first = corpus.config
    corpus.settings |= {"tasks": {"caption": {}, "ocr": {"prompt": "Read."}}}
    corpus.run()
    store = open_store(first.output)
    second = {group.fingerprint for group in gather(store, "").outdated}

    assert annotate(first, backend=a_backend()).status == "nothing_to_do"

    held = {group.fingerprint for group in gather(store, "").outdated}
    assert len(second) == len(held) == 1
    assert held.isdisjoint(second)
    before = sorted(store.list_files(""))
    assert annotate(first, backend=a_backend()).status == "nothing_to_do"
    assert sorted(store.list_files("")) == before
