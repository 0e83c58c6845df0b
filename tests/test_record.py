"""Runs leave records, and what they say decides what a later run means."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pipeline.job import annotate
from pipeline.record import evidence_folder, next_generation, write_end, write_start
from pipeline.report import gather
from pipeline.storage.store import Store, open_store
from tests.builders import a_backend
from tests.test_edits import Corpus, images


def a_run(store: Store, number: int, status: str = "done", generation: int = 0) -> None:
    config = json.dumps({"generation": generation})
    fields: dict[str, Any] = {"run_id": f"run-{number}", "config": config, "status": "running"}
    write_start(store, fields)
    if status != "running":
        write_end(store, {**fields, "status": status})


def test_answering_everything_again_counts_on_from_every_earlier_time(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    assert next_generation(store) is None
    for number, generation in enumerate((0, 1, 0)):
        a_run(store, number, generation=generation)

    assert next_generation(store) == 2
    a_run(store, 3, "interrupted", generation=2)
    a_run(store, 4, generation=0)

    assert next_generation(store) == 2
    a_run(store, 5, generation=2)
    assert next_generation(store) == 3


def test_what_ended_processes_is_remembered_until_a_run_is_done(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    first = evidence_folder(store, ["f1", "f2"])
    a_run(store, 1, "running")
    a_run(store, 2, "failed")

    assert evidence_folder(store, ["f2", "f1"]) == first
    assert evidence_folder(store, ["f3"]) != first
    a_run(store, 3)
    assert evidence_folder(store, ["f1", "f2"]) != first


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
