"""What of an output holds: newest settings, newest content, last round. The rest is told apart."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any

import duckdb
import pytest

from phicorpus.commands.show import sample
from phicorpus.commands.status import status
from phicorpus.output.rows import CurrentRows
from phicorpus.output.runs import read_runs
from phicorpus.report import gather, render
from phicorpus.storage.store import Store, open_store
from tests.test_edits import Corpus, image, images, mend

Row = dict[str, Any]


def store_of(corpus: Corpus) -> Store:
    return open_store(corpus.config.output)


def shown(corpus: Corpus, *, outdated: bool = False) -> list[Row]:
    return sample(store_of(corpus), 100, outdated=outdated)


def reported(corpus: Corpus) -> tuple[dict[str, Row], Counter[tuple[str, str]]]:
    """What a report counts, and what it counts beside that: by task and why."""
    findings = gather(store_of(corpus), "output")
    old: Counter[tuple[str, str]] = Counter()
    for group in findings.outdated:
        old[group.task, group.why] += group.counts.total()
    return {task: {**counts} for task, counts in findings.counts.items()}, old


def of(num_ok: int, num_error: int = 0) -> Row:
    return {"ok": num_ok, "error": num_error, "skipped": 0}


def counted(counts: dict[str, Row]) -> dict[str, Row]:
    return {task: of(0) | row for task, row in counts.items()}


def test_rows_of_an_earlier_prompt_are_neither_counted_nor_shown_unless_asked_for(
    tmp_path: Path,
) -> None:
    corpus = Corpus(tmp_path, images(4))
    corpus.run()
    corpus.settings |= {"tasks": {"caption": {}, "ocr": {"prompt": "Read."}}}
    corpus.run()

    counts, old = reported(corpus)

    assert counted(counts) == {"caption": of(4), "ocr": of(4)}
    assert old == {("ocr", "of an earlier prompt, model or setting"): 4}
    assert Counter(row["task"] for row in shown(corpus)) == {"caption": 4, "ocr": 4}
    everything = Counter((r["task"], r["outdated"]) for r in shown(corpus, outdated=True))
    assert everything == {("caption", None): 4, ("ocr", None): 4, ("ocr", "settings"): 4}


def test_rows_of_an_earlier_content_are_neither_counted_nor_shown(tmp_path: Path) -> None:
    corpus = Corpus(tmp_path, images(5))
    corpus.run()
    corpus.rows[3] = image(3, 1)
    corpus.run(failed=["3"])

    counts, old = reported(corpus)

    assert counted(counts) == {"caption": of(4, 1), "ocr": of(4, 1)}
    assert set(old.values()) == {1}
    assert {why for _, why in old} == {"of an asset's earlier content"}
    told = Counter((row["status"], row["outdated"]) for row in shown(corpus, outdated=True))
    assert told == {("ok", None): 8, ("error", None): 2, ("ok", "content"): 2}


def test_an_error_that_a_retry_answered_counts_no_more(tmp_path: Path) -> None:
    corpus = Corpus(tmp_path, images(5))
    corpus.run(failed=["1", "2"])
    mend(corpus, ["1"])

    counts, old = reported(corpus)

    assert counted(counts) == {"caption": of(4, 1), "ocr": of(4, 1)}
    assert old == dict.fromkeys(
        [(task, "errors that a retry answered") for task in ("caption", "ocr")], 1
    )
    told = status(store_of(corpus)).tasks["ocr"]
    assert (told.ok, told.error) == (4, 1)
    errors = gather(store_of(corpus), "output").errors
    assert [(group.error_type, group.count) for group in errors] == [("OSError", 2)]


def test_two_jobs_of_other_tasks_in_one_output_do_not_make_each_other_old(tmp_path: Path) -> None:
    corpus = Corpus(tmp_path, images(3))
    for tasks in (["ocr"], ["caption"]):
        corpus.settings |= {"tasks": tasks}
        corpus.run()

    counts, old = reported(corpus)

    assert counted(counts) == {"caption": of(3), "ocr": of(3)}
    assert not old


@pytest.mark.parametrize("edit", [None, "prompt", "content"])
def test_a_page_tells_what_is_no_longer_current_if_anything_is(
    tmp_path: Path, edit: str | None
) -> None:
    corpus = Corpus(tmp_path, images(3))
    corpus.run()
    if edit == "prompt":
        corpus.settings |= {"tasks": {"caption": {}, "ocr": {"prompt": "Read."}}}
    if edit == "content":
        corpus.rows[0] = image(0, 1)
    corpus.run()

    page = render(gather(store_of(corpus), "output"))

    assert ("no longer current" in page) is (edit is not None)
    assert "<b>6</b>annotations" in page


def test_the_readme_s_query_gives_what_holds_and_nothing_else(tmp_path: Path) -> None:
    """After a changed prompt, a new content that failed, a retry and an asset added later."""
    corpus = Corpus(tmp_path, images(6))
    corpus.run(failed=["2"])
    corpus.settings |= {"tasks": {"caption": {}, "ocr": {"prompt": "Read."}}}
    corpus.run()
    corpus.rows[:2] = [image(0, 1), image(1, 1)]
    corpus.run(failed=["0"])
    corpus.rows = [*corpus.rows, image(6)]
    corpus.run()
    readme = (Path(__file__).parents[2] / "README.md").read_text("utf-8")
    (query,) = re.findall(r"```sql\n(.+?);?\n```", readme, re.DOTALL)
    for folder in ("runs", "annotations"):
        query = query.replace(f"'{folder}/", f"'{tmp_path / 'output' / folder}/")

    found = duckdb.execute(query).fetchall()

    current = CurrentRows(corpus.store, read_runs(corpus.store))
    holding = [
        (row["task"], row["uri"], row["page_number"], row["text"])
        for _, rows in current.rows(current.files())
        for row in rows
        if row["outdated"] is None and row["status"] == "ok"
    ]
    assert sorted(found, key=repr) == sorted(holding, key=repr)
    # Of seven assets, the first one's new content failed; so did a caption, which nobody retried.
    assert Counter(task for task, *_ in found) == {"ocr": 6, "caption": 5}
