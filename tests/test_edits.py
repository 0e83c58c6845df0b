"""A manifest that is edited: what changed is annotated again, everything else stays as it is."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import duckdb
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from phicorpus.commands.annotate import publication, record
from phicorpus.commands.prepare import prepare
from phicorpus.commands.retry import RetryPlan, RetryPublisher, choose
from phicorpus.commands.status import status
from phicorpus.commands.verify import verify
from phicorpus.config import RunConfig
from phicorpus.manifest.units import Unit
from phicorpus.output.runs import write_start
from phicorpus.output.write import RunPublisher
from phicorpus.schemas.error import error_columns
from phicorpus.stages.assemble import assemble
from phicorpus.stages.commit import Commit
from phicorpus.storage.store import Store, open_store
from tests.builders import (
    a_backend,
    a_config,
    a_reply,
    an_execution,
    annotation_rows,
    replies,
    write_manifest,
)

pytestmark = pytest.mark.slow

Row = dict[str, Any]
TASKS = ("caption", "ocr")


class Corpus:
    """A manifest and its output, run by the plan and the commit stage alone."""

    def __init__(self, folder: Path, rows: Sequence[Row], unit_size: int = 3) -> None:
        self.folder = folder
        self.rows = [dict(row) for row in rows]
        self.settings: dict[str, Any] = {"tasks": [*TASKS], "units": {"image": unit_size}}
        self.further: dict[str, pa.Array] = {}
        self.unnamed: set[str] = set()  # columns that the manifest lacks
        self.number = 0
        self.answered: Counter[tuple[str, str, str]] = Counter()

    @property
    def config(self) -> RunConfig:
        return a_config(self.folder, **self.settings)

    @property
    def store(self) -> Store:
        return open_store(self.config.output)

    def run(self, stop_after: int | None = None, failed: Sequence[str] = ()) -> int:
        """Annotate what is pending, or so many units of it; gives the assets that were asked."""
        path = write_manifest(self.folder / "manifest.parquet", self.rows, COLUMNS)
        table = pq.read_table(path).drop_columns(sorted(self.unnamed))
        for name, column in self.further.items():
            table = table.append_column(name, column)
        pq.write_table(table, path)
        job = prepare(self.config, a_backend())
        self.number += 1
        run_id = f"{self.number:04}"  # before any run of today
        commit = Commit(RunPublisher(job.plan.output, publication(job, run_id)), assemble)
        write_start(job.store, record(job, an_execution(run_id, job, commit), "running"))
        asked = 0
        for unit in list(job.plan.units())[:stop_after]:
            asked += self.answer(commit, unit, failed)
        return asked

    def answer(self, commit: Commit, unit: Unit, failed: Sequence[str]) -> int:
        commit.expect(unit)
        content = {row["asset_id"]: content_of(row) for row in self.rows}
        for asset_id, tasks in unit.wanted().items():
            for task in tasks:
                self.answered[asset_id, content[asset_id], task] += 1
                row = a_reply(unit_id=unit.unit_id, asset_id=asset_id, task=task)
                row |= {"text": content[asset_id], "sha256": sha256_of(self.rows, asset_id)}
                bad = {"status": "error", "text": None} | error_columns(OSError("gone"))
                commit.add(replies(row | bad if asset_id in failed else row))
        return len(unit.wanted())

    def holding(self) -> dict[tuple[str, str], list[str]]:
        """What readers see: per asset and task, the texts of its highest version."""
        return newest(annotation_rows(self.folder / "output"), "task", "text")

    def documents(self) -> dict[tuple[str, str], list[str]]:
        files = (self.folder / "output").glob("documents/*/*.parquet")
        rows = [row for path in files for row in pq.read_table(path).to_pylist()]
        return newest(rows, "kind", "markdown")

    def check(self) -> None:
        """Each asset of the manifest holds once, with the content that is named now."""
        content = {row["asset_id"]: content_of(row) for row in self.rows}
        wanted = {(name, task): [text] for name, text in content.items() for task in TASKS}
        held = {key: texts for key, texts in self.holding().items() if key[0] in content}
        assert held == wanted
        pages = {name: [f"*{text}*\n\n{text}"] for name, text in content.items()}
        documents = {name: texts for (name, _), texts in self.documents().items()}
        assert {name: documents[name] for name in content} == pages
        found = verify(open_store(self.config.output))
        assert (found.problems, found.is_right) == ([], True)
        assert found.num_announced == found.num_ok == 2 * len(content)
        told = status(open_store(self.config.output)).tasks
        if content:
            assert {task: told[task].ok for task in TASKS} == dict.fromkeys(TASKS, len(content))
            assert {told[task].assets_committed for task in TASKS} == {len(content)}


COLUMNS = ("uri", "asset_id", "sha256", "etag")


def newest(rows: Sequence[Row], column: str, text: str) -> dict[tuple[str, str], list[str]]:
    """Take the rows of an asset's highest version, and of these the latest round."""
    found: dict[tuple[str, str], list[Row]] = defaultdict(list)
    for row in rows:
        found[row["asset_id"], row[column]].append(row)
    for key, several in found.items():
        last = max((row["asset_version"], row["round"]) for row in several)
        found[key] = [row for row in several if (row["asset_version"], row["round"]) == last]
    return {key: [row[text] for row in several] for key, several in found.items()}


def image(number: int, content: int = 0, by: str = "etag") -> Row:
    row: Row = {"uri": f"/{number}.png", "asset_id": str(number), "sha256": None, "etag": None}
    return row | {by: f"{content:064x}" if by == "sha256" else f"e{content}"}


def images(count: int, by: str = "etag") -> list[Row]:
    return [image(i, by=by) for i in range(count)]


def content_of(row: Row) -> str:
    return str(row["sha256"] or row["etag"])


def sha256_of(rows: Sequence[Row], asset_id: str) -> str:
    """The checksum of the bytes: the manifest's, if it names one."""
    row = next(row for row in rows if row["asset_id"] == asset_id)
    return row["sha256"] or f"{int(row['etag'][1:]):064x}"


@pytest.mark.parametrize("by", ["sha256", "etag"])
def test_a_changed_asset_is_annotated_again_alone(tmp_path: Path, by: str) -> None:
    corpus = Corpus(tmp_path, images(7, by))
    assert corpus.run() == 7
    corpus.rows[4] = image(4, 1, by)

    assert corpus.run() == 1
    corpus.check()
    assert corpus.run() == 0
    rows = annotation_rows(tmp_path / "output")
    versions = Counter((row["asset_id"], row["asset_version"]) for row in rows)
    assert versions == {**{(name, 0): 2 for name in "0123456"}, ("4", 1): 2}
    files = f"{tmp_path}/output/annotations/**/*.parquet"
    query = """SELECT asset_id, text
        FROM read_parquet(?, hive_partitioning = true)
        WHERE task = 'ocr' QUALIFY asset_version
            = max(asset_version) OVER (PARTITION BY task, fingerprint, asset_id)"""
    held = duckdb.connect().execute(query, [files]).fetchall()
    assert sorted(held) == [(row["asset_id"], content_of(row)) for row in corpus.rows]


def test_an_etag_that_is_written_with_and_without_its_quotes_names_one_content(
    tmp_path: Path,
) -> None:
    corpus = Corpus(tmp_path, images(4))
    corpus.run()

    for row in corpus.rows:
        row["etag"] = f'"{row["etag"]}"'

    assert corpus.run() == 0


@pytest.mark.parametrize("by", ["sha256", "etag"])
def test_what_is_named_for_the_first_time_has_not_changed(tmp_path: Path, by: str) -> None:
    corpus = Corpus(tmp_path, images(7, by))
    corpus.unnamed = {"sha256", "etag"}
    assert corpus.run() == 7
    corpus.unnamed = set()

    assert corpus.run() == 0
    corpus.check()


def test_an_etag_of_another_store_says_nothing_of_a_local_file(tmp_path: Path) -> None:
    corpus = Corpus(tmp_path, images(3, "sha256"))
    corpus.rows = [row | {"etag": "file-1-2"} for row in corpus.rows]
    corpus.unnamed = {"sha256"}
    assert corpus.run() == 3

    corpus.rows = [row | {"etag": "v1"} for row in corpus.rows]
    assert corpus.run() == 0
    corpus.rows = [row | {"etag": "file-1-3"} for row in corpus.rows]
    assert corpus.run() == 3


def test_a_plan_tells_how_many_are_annotated_again(tmp_path: Path) -> None:
    corpus = Corpus(tmp_path, images(5))
    corpus.run()
    corpus.rows = [image(0, 1), *corpus.rows[1:], image(99)]
    write_manifest(tmp_path / "manifest.parquet", corpus.rows, COLUMNS)

    pending = prepare(corpus.config, a_backend()).pending

    assert (pending.num_pending_assets, pending.num_changed_assets) == (2, 1)


def test_an_asset_that_changes_back_holds_again(tmp_path: Path) -> None:
    corpus = Corpus(tmp_path, images(4))
    corpus.run()
    for content in (1, 0, 1, 2):
        corpus.rows[0] = image(0, content)

        assert corpus.run() == 1
        corpus.check()


@pytest.mark.parametrize(
    "edit",
    [
        lambda rows: rows[::-1],
        lambda rows: rows[1:],
        lambda rows: [image(99), *rows],
        lambda rows: rows[:3] + rows[4:],
        lambda rows: [row | {"sha256": f"{0:064x}", "etag": None} for row in rows],
        lambda rows: [row | {"etag": None} for row in rows],
    ],
    ids=["reversed", "first removed", "one before", "one removed", "checksums", "no etags"],
)
def test_what_is_moved_about_in_the_manifest_is_not_annotated_again(
    tmp_path: Path, edit: Any
) -> None:
    corpus = Corpus(tmp_path, images(8))
    corpus.run()
    before = {row["asset_id"] for row in corpus.rows}

    corpus.rows = edit(corpus.rows)
    asked = corpus.run()

    assert asked == len({row["asset_id"] for row in corpus.rows} - before)
    assert max(corpus.answered.values()) == 1


def test_another_size_of_units_annotates_nothing_again(tmp_path: Path) -> None:
    corpus = Corpus(tmp_path, images(10), unit_size=4)
    corpus.run()

    corpus.settings |= {"units": {"image": 3}}

    assert corpus.run() == 0
    corpus.check()


def test_what_a_killed_run_of_an_edited_manifest_left_is_all_that_is_run(tmp_path: Path) -> None:
    corpus = Corpus(tmp_path, images(9))
    corpus.run(stop_after=2)
    corpus.rows = [image(i, int(i % 2 == 0)) for i in range(9)]

    first = corpus.run(stop_after=1)
    second = corpus.run()

    assert (first, second) == (2, 1 + 3)
    corpus.check()


def test_a_changed_prompt_after_an_edit_runs_its_task_only(tmp_path: Path) -> None:
    corpus = Corpus(tmp_path, images(6))
    corpus.run()
    corpus.rows = corpus.rows[1:]
    corpus.run()
    before = corpus.answered.copy()

    corpus.settings |= {"tasks": {"caption": {}, "ocr": {"prompt": "Read."}}}
    corpus.run()

    again = corpus.answered - before
    assert {task for _, _, task in again} == {"ocr"}
    assert sum(again.values()) == 5
    found = verify(open_store(corpus.config.output))
    assert found.is_right


def test_a_retry_mends_errors_of_an_edited_manifest_where_they_lie(tmp_path: Path) -> None:
    corpus = Corpus(tmp_path, images(7))
    corpus.run(failed=["1", "2", "5"])
    corpus.rows = [image(6), *(image(i, int(i == 1)) for i in range(6))]
    corpus.run(failed=["1"])
    found = verify(open_store(corpus.config.output))
    assert (found.is_right, found.num_error) == (True, 6)

    for names in (["1"], ["2", "5"]):
        mend(corpus, names)

    corpus.check()
    assert corpus.run() == 0


def mend(corpus: Corpus, names: Sequence[str]) -> None:
    """Retry everything, of which only some succeeds."""
    job = prepare(corpus.config, a_backend())
    publisher = RetryPublisher(job.plan.output, publication(job, f"retry-{names}"))
    plan = RetryPlan(job.plan, job.plan.output, choose("all"))
    job = replace(job, pending=plan.survey())
    commit = Commit(publisher, assemble)
    failed = [row["asset_id"] for row in corpus.rows if row["asset_id"] not in names]
    for unit in chain.from_iterable(plan.waves("vision", 2)):
        corpus.answer(commit, unit, failed)


EDITS = st.sampled_from(["grow", "change", "revert", "reorder", "remove", "insert", "resize"])


@settings(max_examples=8)
@given(
    edits=st.lists(st.tuples(EDITS, st.integers(0, 2**16), st.booleans()), max_size=6),
    size=st.integers(1, 9),
)
def test_whatever_is_edited_each_content_is_annotated_once_and_the_newest_holds(
    tmp_path_factory: pytest.TempPathFactory,
    edits: list[tuple[str, int, bool]],
    size: int,
) -> None:
    corpus = Corpus(tmp_path_factory.mktemp("edited"), images(size))
    corpus.run()
    for name, seed, is_killed in edits:
        chance = random.Random(seed)  # noqa: S311
        before = {(r["asset_id"]): content_of(r) for r in corpus.rows}
        edited(corpus, name, chance)
        changed = {r["asset_id"] for r in corpus.rows if before.get(r["asset_id"]) != content_of(r)}
        answered = corpus.answered.copy()

        if is_killed:
            corpus.run(stop_after=1)
        corpus.run()

        again = corpus.answered - answered
        assert {asset_id for asset_id, _, _ in again} <= changed
        assert max(again.values(), default=1) == 1
        corpus.check()


def edited(corpus: Corpus, name: str, chance: random.Random) -> None:
    rows = corpus.rows
    top = max((int(row["asset_id"]) for row in rows), default=0) + 1
    if name == "grow":
        corpus.rows = rows + [image(top + i) for i in range(chance.randint(1, 5))]
    elif name == "insert":
        rows.insert(chance.randint(0, len(rows)), image(top))
    elif name == "reorder":
        chance.shuffle(rows)
    elif name == "remove" and len(rows) > 1:
        rows.remove(chance.choice(rows))
    elif name == "resize":
        corpus.settings |= {"units": {"image": chance.randint(1, 5)}}
    elif rows:
        position = chance.randrange(len(rows))
        content = chance.randint(1, 3) if name == "change" else 0
        rows[position] = image(int(rows[position]["asset_id"]), content)


def test_a_changed_text_in_the_manifest_is_annotated_again_alone(tmp_path: Path) -> None:
    config = a_config(tmp_path, tasks=["summarise"], units={"text": 4})
    texts = [f"text {i}" for i in range(5)]
    asked: list[list[str]] = []
    for edited_texts in (texts, [*texts[:2], "another", *texts[3:]], texts[1:]):
        rows = [{"uri": f"name-{text}"[:11], "text": text} for text in edited_texts]
        for position, row in enumerate(rows, start=len(texts) - len(rows)):
            row["asset_id"] = str(position)
        write_manifest(tmp_path / "manifest.parquet", rows)
        job = prepare(config, a_backend())
        commit = Commit(RunPublisher(job.plan.output, publication(job, f"{len(asked)}")), assemble)
        asked.append([])
        for unit in job.plan.units():
            commit.expect(unit)
            for asset_id in unit.wanted():
                asked[-1].append(asset_id)
                row = a_reply(asset_id=asset_id, unit_id=unit.unit_id, task="summarise")
                commit.add(replies(row | {"status": "error"}))

    assert asked == [["0", "1", "2", "3", "4"], ["2"], ["2"]]


@pytest.mark.parametrize("owners", [([], ["x"]), (["x"], []), ([None], ["x"]), (["x"], [None])])
def test_a_further_column_that_comes_or_goes_breaks_no_query(
    tmp_path: Path, owners: tuple[list[str | None], list[str | None]]
) -> None:
    config = a_config(tmp_path, tasks=["ocr"], units={"image": 1})
    for number, owner in enumerate(owners):
        columns = {"uri": [f"/{i}.png" for i in range(number + 1)]}
        columns |= {"owner": owner * (number + 1)} if owner else {}
        pq.write_table(pa.table(columns), tmp_path / "manifest.parquet")
        job = prepare(config, a_backend())
        commit = Commit(RunPublisher(job.plan.output, publication(job, f"{number}")), assemble)
        for unit in job.plan.units():
            commit.expect(unit)
            (asset_id,) = unit.wanted()
            commit.add(replies(a_reply(asset_id=asset_id, unit_id=unit.unit_id)))

    files = f"{tmp_path}/output/annotations/**/*.parquet"
    options = "hive_partitioning = true, union_by_name = true"
    query = f"SELECT owner, * FROM read_parquet(?, {options})"  # noqa: S608 - no text of others
    found = duckdb.connect().execute(query, [files]).fetchall()
    scanned = pl.scan_parquet(files, missing_columns="insert", extra_columns="ignore").collect()
    assert (len(found), len(scanned)) == (2, 2)
    assert {row[0] for row in found} == {owner[0] if owner else None for owner in owners}
