"""Errors run again: what succeeds is added once, what is there stays, documents follow."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from phicorpus.commands.annotate import (
    RunReport,
    annotate,
    prepare,
    publication,
    with_new_generation,
)
from phicorpus.commands.retry import RetryPlan, RetryPublisher, choose, retry
from phicorpus.commands.status import status
from phicorpus.commands.verify import verify
from phicorpus.config import RunConfig
from phicorpus.errors import ConfigError
from phicorpus.output.files import Output
from phicorpus.stages.assemble import assemble
from phicorpus.stages.commit import Commit
from phicorpus.storage.store import Store, open_store
from tests.builders import (
    a_backend,
    a_config,
    a_finished_output,
    a_pdf,
    a_reply,
    an_image,
    annotation_rows,
    replies,
    write_files,
    write_manifest,
)

ray = pytest.mark.usefixtures("cluster")


def again(config: RunConfig, kinds: str = "all", *where: str, **script: Any) -> RunReport:
    return retry(config, choose(kinds, where), backend=a_backend(**script))


def an_output_with_a_missing_deck(folder: Path) -> RunConfig:
    write_files(folder, {f"{i}.png": an_image(str(i)) for i in range(3)})
    rows = [{"uri": f"{i}.png"} for i in range(3)] + [{"uri": "deck.pdf"}, {"uri": "none.png"}]
    write_manifest(folder / "manifest.parquet", rows)
    config = a_config(folder, tasks=["ocr", "caption"])
    annotate(config, backend=a_backend(fail_when=("What is shown",)))
    return config


@ray
def test_what_now_succeeds_is_added_and_what_was_there_stays(tmp_path: Path) -> None:
    config = an_output_with_a_missing_deck(tmp_path)
    before = {p: p.read_bytes() for p in (tmp_path / "output").glob("*/*/*/*.parquet")}
    write_files(tmp_path, {"deck.pdf": a_pdf(3)})

    report = again(config)

    rows = annotation_rows(tmp_path / "output")
    ok = Counter((r["uri"], r["segment_index"], r["task"]) for r in rows if r["status"] == "ok")
    names = Counter((Path(uri).name, task) for uri, _, task in ok)
    assert set(ok.values()) == {1}
    assert names == {
        **{(f"{i}.png", task): 1 for i in range(3) for task in ("ocr", "caption")},
        **{("deck.pdf", task): 3 for task in ("ocr", "caption")},
    }
    assert all(p.read_bytes() == content for p, content in before.items())
    assert report.tally.num_ok == 3 + 6
    found = verify(open_store(config.output))
    assert found.is_right
    assert (found.num_ok, found.num_error) == (12, 2)
    assert report.left == {"ok": 12, "error": 2}
    assert report.error_ratio == 2 / 14
    told = status(open_store(config.output)).tasks
    assert {(task.ok, task.error) for task in told.values()} == {(6, 1)}
    deck = document(tmp_path / "output", "deck.pdf")
    assert (deck["status"], deck["num_segments"], deck["round"]) == ("ok", 3, 1)
    assert again(config, "timeout").status == "nothing_to_do"
    assert again(config).tally.num_committed == 0


def document(output: Path, name: str) -> dict[str, Any]:
    """The newest document of an asset."""
    rows = [r for p in output.glob("documents/*/*.parquet") for r in pq.read_table(p).to_pylist()]
    return max((r for r in rows if r["uri"].endswith(name)), key=lambda row: row["round"])


@ray
@pytest.mark.parametrize("page", [0, 1])
def test_a_retry_adds_no_rows_of_other_bytes_than_the_answers_that_are_there(
    tmp_path: Path, page: int
) -> None:
    write_files(tmp_path, {"deck.pdf": a_pdf(3)})
    write_manifest(tmp_path / "manifest.parquet", [{"uri": "deck.pdf"}])
    config = a_config(tmp_path, tasks=["ocr"])
    annotate(config, backend=a_backend(fail_when=(f"/{page}",)))
    before = annotation_rows(tmp_path / "output")
    write_files(tmp_path, {"deck.pdf": a_pdf(5)})

    report = again(config)

    assert [i for i, row in enumerate(before) if row["status"] == "error"] == [page]
    assert (report.tally.num_committed, report.left) == (0, {"ok": 2, "error": 1})
    assert annotation_rows(tmp_path / "output") == before
    assert verify(open_store(config.output)).is_right


class Driver:
    """A retry by its plan and the commit stage alone: it lists the output when it is made."""

    def __init__(self, config: RunConfig, name: str, *where: str) -> None:
        job = prepare(config, a_backend())
        publisher = RetryPublisher(job.plan.output, publication(job, name))
        plan = RetryPlan(job.plan, job.plan.output, choose("all", where))
        plan.survey()
        self._commit = Commit(publisher, assemble)
        self.units = [unit for wave in plan.waves("vision", 8) for unit in wave]

    def run(self) -> None:
        for unit in self.units:
            self._commit.expect(unit)
            for asset_id, tasks in unit.wanted().items():
                rows = (a_reply(unit_id=unit.unit_id, asset_id=asset_id, task=t) for t in tasks)
                self._commit.add(replies(*rows))


class BusyStore:
    """Another store, whose first reads last until several go on at the same time."""

    def __init__(self, store: Store, wanted: int) -> None:
        self._store = store
        self._wanted = wanted
        self._changed = threading.Condition()
        self._reading = self.most = 0

    def create(self, path: str, data: bytes) -> bool:
        return self._store.create(path, data)

    def list_files(self, folder: str) -> Iterator[str]:
        return self._store.list_files(folder)

    def read(self, path: str) -> bytes:
        with self._changed:
            self._reading += 1
            self.most = max(self.most, self._reading)
            self._changed.notify_all()
            self._changed.wait_for(lambda: self.most >= self._wanted, timeout=20)
        try:
            return self._store.read(path)
        finally:
            with self._changed:
                self._reading -= 1


def test_what_is_committed_is_read_several_files_at_a_time(tmp_path: Path) -> None:
    a_finished_output(tmp_path, num_images=24, failed=["3", "17"])
    job = prepare(a_config(tmp_path, tasks=["ocr", "caption"]), a_backend())
    store = BusyStore(job.store, wanted=5)
    plan = RetryPlan(job.plan, Output(store), choose("all"))

    assert plan.survey().num_units == 2
    assert plan.count_rows() == {"ok": 44, "error": 4}
    assert store.most > 4


def test_of_overlapping_retries_each_answer_is_added_once(tmp_path: Path) -> None:
    output = a_finished_output(tmp_path, num_images=2, failed=["0"])
    config = a_config(tmp_path, tasks=["ocr", "caption"])
    early = Driver(config, "early", "task=ocr")
    Driver(config, "between", "task=caption").run()
    Driver(config, "late").run()

    early.run()

    rows = annotation_rows(output)
    ok = Counter((row["asset_id"], row["task"]) for row in rows if row["status"] == "ok")
    assert ok == {(name, task): 1 for name in "01" for task in ("ocr", "caption")}
    assert verify(open_store(config.output)).is_right


def test_documents_that_missed_another_retrys_answers_follow_with_the_next(
    tmp_path: Path,
) -> None:
    output = a_finished_output(tmp_path, num_images=2, failed=["0"])
    config = a_config(tmp_path, tasks=["ocr", "caption"])
    drivers = [Driver(config, name, f"task={name}") for name in ("ocr", "caption")]
    for driver in drivers:
        driver.run()
    assert document(output, ".png")["num_ok"] == 1
    (problem,) = verify(open_store(config.output)).problems
    assert (problem.kind, problem.what.split(";")[0]) == (
        "stale",
        "documents tell of 3 ok, 1 error, 0 skipped, there are 4 ok, 0 error, 0 skipped",
    )

    Driver(config, "next").run()

    assert document(output, ".png")["num_ok"] == 2
    assert Driver(config, "last").units == []
    assert verify(open_store(config.output)).is_right


@ray
def test_only_what_was_chosen_is_run(tmp_path: Path) -> None:
    config = an_output_with_a_missing_deck(tmp_path)

    report = again(config, "infer", "uri=*/1.png", die_when=("Extract all text",))

    assert (report.planned.num_assets, report.tally.num_ok) == (1, 1)


@ray
def test_a_new_generation_answers_everything_beside_what_is_there(tmp_path: Path) -> None:
    write_files(tmp_path, {"a.png": an_image()})
    write_manifest(tmp_path / "manifest.parquet", [{"uri": "a.png"}])
    config = a_config(tmp_path, tasks=["ocr"])
    annotate(with_new_generation(config), backend=a_backend())

    annotate(with_new_generation(config), backend=a_backend(answer="better"))

    rows = annotation_rows(tmp_path / "output")
    assert len({row["fingerprint"] for row in rows}) == len(rows) == 2
    assert annotate(config, backend=a_backend()).status == "nothing_to_do"


def test_an_output_without_errors_has_nothing_to_retry(tmp_path: Path) -> None:
    a_finished_output(tmp_path, num_images=2)
    config = a_config(tmp_path, tasks=["ocr", "caption"])

    assert again(config).status == "nothing_to_do"


def test_rows_are_chosen_by_any_column_that_they_have(tmp_path: Path) -> None:
    write_manifest(tmp_path / "manifest.parquet", [{"uri": "a.png", "owner": "me"}])
    config = a_config(tmp_path, tasks=["ocr"])

    for condition in ("uri=*", "task=ocr", "error_message=*", "round=0", "owner=me"):
        assert again(config, "all", condition).status == "nothing_to_do"


@pytest.mark.parametrize(("kinds", "where"), [("singing", []), ("", []), ("all", ["uri"])])
def test_a_choice_that_is_none_is_refused(kinds: str, where: list[str]) -> None:
    with pytest.raises(ConfigError, match=r"--(errors|where)"):
        choose(kinds, where)


@pytest.mark.parametrize(
    ("kinds", "error_type", "stage", "taken"),
    [
        ("timeout", "SandboxTimeout", "decode", True),
        ("crash", "Crashed", "infer", True),
        ("fetch,crash", "AssetMissing", "fetch", True),
        ("retryable", "AssetMissing", "fetch", False),
        ("retryable", "LostInFlight", "commit", True),
        ("DecodeError", "SandboxTimeout", "decode", False),
    ],
)
def test_errors_are_chosen_by_stage_class_or_group(
    kinds: str, error_type: str, stage: str, *, taken: bool
) -> None:
    row = {"status": "error", "error_type": error_type, "error_stage": stage, "uri": "/a"}

    assert choose(kinds).takes(row) is taken
    assert not choose(kinds, ["uri=/b*"]).takes(row)
