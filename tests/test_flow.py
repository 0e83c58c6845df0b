"""The flow on a real local Ray, with an engine by script."""

from __future__ import annotations

import json
import signal
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray
from ray.exceptions import WorkerCrashedError

from phicorpus import flow
from phicorpus.commands.annotate import RunReport, annotate, publication
from phicorpus.commands.prepare import prepare
from phicorpus.commands.status import status
from phicorpus.config import RunConfig
from phicorpus.errors import (
    CheckpointError,
    ConfigError,
    CredentialsRefused,
    StoreError,
    WorkersLost,
)
from phicorpus.output.write import RunPublisher
from phicorpus.stages.assemble import assemble
from phicorpus.stages.commit import Commit
from phicorpus.storage.store import open_store
from tests.builders import (
    a_backend,
    a_backend_that_does_not_load,
    a_config,
    a_corpus,
    a_reply,
    annotation_rows,
    replies,
    write_files,
    write_manifest,
)
from tests.chaos.soak import start_driver
from tests.storage.proxy import faulty_proxy
from tests.undisturbed import Undisturbed, content

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("cluster")]


def run(config: RunConfig, **script: Any) -> RunReport:
    return annotate(config, backend=a_backend(**script))


def test_images_decks_and_recordings_all_end_as_annotations(tmp_path: Path) -> None:
    a_corpus(tmp_path, num_images=3)

    report = run(a_config(tmp_path))

    rows = annotation_rows(tmp_path / "output")
    names = Counter((Path(row["uri"]).name, row["task"], row["status"]) for row in rows)
    assert names == {
        **{(f"image{i}.png", task, "ok"): 1 for i in range(3) for task in ("ocr", "caption")},
        **{("broken.png", task, "error"): 1 for task in ("ocr", "caption")},
        **{("deck.pdf", task, "ok"): 3 for task in ("ocr", "caption", "native")},
        ("tone.wav", "transcribe", "ok"): 1,
    }
    tally = report.tally
    assert tally.num_announced == tally.num_ok + tally.num_error + tally.num_skipped == len(rows)
    assert (tally.num_error, report.status) == (2, "done")
    assert {row["owner"] for row in rows if row["uri"].endswith("deck.pdf")} == {"team 8"}


def test_every_asset_has_one_document_and_every_run_one_record(tmp_path: Path) -> None:
    a_corpus(tmp_path, num_images=2)

    report = run(a_config(tmp_path))

    documents = [
        row
        for path in sorted((tmp_path / "output").glob("documents/*/*.parquet"))
        for row in pq.ParquetFile(path).read().to_pylist()
    ]
    assert len(documents) == 5
    status = {Path(row["uri"]).name: row["status"] for row in documents}
    assert status["broken.png"] == "error"
    assert status["deck.pdf"] == "ok"
    deck = next(row for row in documents if row["kind"] == "deck")
    assert deck["markdown"].count("## Page") == 3
    (record,) = (tmp_path / "output" / "runs").glob("*.json")
    written = json.loads(record.read_text())
    assert (written["run_id"], written["status"]) == (report.run_id, "done")
    assert written["num_ok"] == report.tally.num_ok
    assert set(json.loads(written["engine"])) == {"vision", "speech"}


def test_the_record_tells_what_the_engines_did_token_by_token(tmp_path: Path) -> None:
    a_corpus(tmp_path, num_images=3)

    report = run(a_config(tmp_path, tasks=["ocr", "caption"]), delay_s=0.02)

    (record,) = (tmp_path / "output" / "runs").glob("*.json")
    engine = json.loads(json.loads(record.read_text())["engine"])
    assert engine == report.engine == status(open_store(str(tmp_path / "output"))).engine
    use = engine["vision"]
    asked = [row for row in annotation_rows(tmp_path / "output") if row["source"] == "model"]
    for name in ("prompt_tokens", "completion_tokens"):
        assert use[name] == sum(row[name] for row in asked) > 0
    assert (use["media_encoded"], use["media_reused"]) == (6, 6)  # two tasks of six segments
    assert 0.02 <= use["busy_s"] < use["loaded_s"] < report.elapsed_s
    assert 0 < use["busy_share"] < 1
    assert use["num_replicas"] == 1


def test_texts_of_files_and_of_the_manifest_are_answered_passage_by_passage(tmp_path: Path) -> None:
    files = {"long.md": b"A paragraph.\n\n" * 1000, "short.txt": b"Words.", "other.txt": b"\xe9"}
    write_files(tmp_path, files)
    rows = [{"uri": name, "text": None} for name in files] + [{"uri": "held", "text": "Own."}]
    write_manifest(tmp_path / "manifest.parquet", rows)
    tasks = {"summarise": {}, "ask": {"prompt": "Who wrote it?"}}

    report = run(a_config(tmp_path, tasks=tasks, units={"text": 2}), answer={"": "an answer"})

    found = annotation_rows(tmp_path / "output")
    counts = Counter((row["uri"].rpartition("/")[2], row["task"], row["status"]) for row in found)
    assert counts == {
        (name, task, status): count
        for task in tasks
        for name, status, count in (
            *(("long.md", "ok", 2), ("short.txt", "ok", 1)),
            *(("other.txt", "error", 1), ("held", "ok", 1)),
        )
    }
    assert {row["error_type"] for row in found if row["status"] == "error"} == {"NotUtf8"}
    assert report.tally.num_announced == len(found)
    paths = (tmp_path / "output").glob("documents/*/*.parquet")
    documents = [row for path in paths for row in pq.ParquetFile(path).read().to_pylist()]
    assert {row["kind"] for row in documents} == {"text"}
    assert (
        next(row for row in documents if row["uri"] == "held")["markdown"].count("an answer") == 2
    )


def test_expired_credentials_end_the_run_and_blame_no_row(tmp_path: Path) -> None:
    write_manifest(tmp_path / "manifest.parquet", [{"uri": "s3://bucket/a.png"}])
    with faulty_proxy("http://127.0.0.1:9") as (endpoint, faults):
        faults.always["GET"] = "expired"
        options = {"s3": {"endpoint_url": endpoint, "key": "old", "secret": "old"}}
        config = a_config(tmp_path, fetch={"storage_options": options})

        with pytest.raises(
            CredentialsRefused, match=r"^s3://bucket/a\.png: .*ExpiredToken.*"
        ) as told:
            run(config)

    assert (told.value.exit_code, faults.seen["GET"]) == (5, 1)
    assert not list((tmp_path / "output").glob("annotations/**/*.parquet"))
    (record,) = (tmp_path / "output" / "runs").glob("*.json")
    assert json.loads(record.read_text())["status"] == "failed"


def test_a_second_run_does_nothing_and_asks_no_model(calm: Undisturbed) -> None:
    output = calm.folder / "output"

    report = run(calm.job(output), exit_when=("",))  # would end the process at its first request

    assert report.status == "nothing_to_do"
    assert content(output) == calm.rows


def test_a_changed_prompt_leaves_the_other_tasks_alone(tmp_path: Path) -> None:
    a_corpus(tmp_path, num_images=2)
    run(a_config(tmp_path, tasks=["ocr", "caption"]))

    tasks = {"ocr": {"prompt": "Read this."}, "caption": {}}
    report = run(a_config(tmp_path, tasks=tasks))

    rows = annotation_rows(tmp_path / "output")
    fingerprints = {(row["task"], row["fingerprint"]) for row in rows}
    assert Counter(task for task, _ in fingerprints) == {"ocr": 4, "caption": 2}
    assert report.tally.num_committed == sum(row["task"] == "ocr" for row in rows) / 2


_LAST_PAGE = ("/2",)
"""A deck's third page, by its key: a disaster for two requests costs two processes, not twenty."""


def test_a_worker_that_is_killed_costs_nothing(tmp_path: Path, calm: Undisturbed) -> None:
    strikes = str(tmp_path / "strikes")

    report = run(calm.job(tmp_path / "output"), kill_when=_LAST_PAGE, strikes_path=strikes)

    assert list(Path(strikes).iterdir())
    assert content(tmp_path / "output") == calm.rows
    assert report.tally.num_ok == report.tally.num_announced - 2


def test_an_engine_that_dies_is_replaced(tmp_path: Path, calm: Undisturbed) -> None:
    strikes = str(tmp_path / "strikes")

    report = run(calm.job(tmp_path / "output"), die_when=_LAST_PAGE, strikes_path=strikes)

    assert list(Path(strikes).iterdir())
    assert content(tmp_path / "output") == calm.rows
    assert report.tally.num_error == 2
    assert report.engine["vision"]["num_replicas"] > 1  # the dead are counted too


def test_a_row_that_always_kills_ends_as_an_error_and_the_run_goes_on(tmp_path: Path) -> None:
    a_corpus(tmp_path, num_images=1)
    config = a_config(tmp_path, tasks=["transcribe", "ocr"], errors={"max_unit_attempts": 1})

    report = run(config, kill_when=("Transcribe",))

    rows = {row["task"]: row for row in annotation_rows(tmp_path / "output")}
    assert rows["transcribe"]["error_type"] == "Crashed"
    assert report.tally.num_announced == report.tally.num_committed


@pytest.mark.parametrize("kill_after_commits", [0, 2, 5])
def test_a_driver_killed_at_any_moment_and_run_again_gives_the_same_rows(
    tmp_path: Path, cluster: str, calm: Undisturbed, kill_after_commits: int
) -> None:
    output = tmp_path / "output"
    slow = {"delay_s": 0.05, "delay_spread_s": 1.0}

    with start_driver(calm.job(output), cluster, slow) as driver:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and driver.poll() is None:
            if len(list(output.glob("annotations/*/*/*.parquet"))) >= kill_after_commits and (
                kill_after_commits or list(output.glob(".phicorpus/probe-*"))
            ):
                break
            time.sleep(0.02)
        driver.send_signal(signal.SIGKILL)
    assert driver.returncode == -signal.SIGKILL

    run(calm.job(output))

    calm.check(output)


def test_a_model_that_does_not_load_ends_the_run_and_blames_no_row(tmp_path: Path) -> None:
    a_corpus(tmp_path, num_images=2)

    with pytest.raises(CheckpointError, match="no weights for vision"):
        annotate(a_config(tmp_path), backend=a_backend_that_does_not_load())

    assert annotation_rows(tmp_path / "output") == []


class DyingStream:
    """A flow that gives every reply, and whose workers are dead when it should end."""

    modality = "vision"

    def __init__(self, config: RunConfig, answers: bool) -> None:
        self.config = config
        self.answers = answers

    def replies(self, wanted: Sequence[pa.Table]) -> Iterator[pa.Table]:
        for asset in pa.concat_tables(wanted).to_pylist() if self.answers else ():
            known = {name: asset[name] for name in ("unit_id", "asset_id", "uri")}
            yield replies(*(a_reply(**known, task=task) for task in asset["tasks"]))
        raise WorkerCrashedError


@pytest.mark.parametrize("answers", [True, False])
def test_a_stream_that_dies_after_its_last_row_has_lost_nothing(
    tmp_path: Path, *, answers: bool
) -> None:
    write_manifest(tmp_path / "manifest.parquet", [{"uri": f"/{i}.png"} for i in range(5)])
    config = a_config(tmp_path, tasks=["ocr"])
    job = prepare(config, a_backend())
    commit = Commit(RunPublisher(job.plan.output, publication(job, "run")), assemble)
    stream: Any = DyingStream(config, answers)

    if answers:
        flow.run({"vision": stream}, job.plan, commit, lambda _: None)
    else:
        with pytest.raises(WorkersLost):
            flow.run({"vision": stream}, job.plan, commit, lambda _: None)

    assert commit.tally.num_ok == len(annotation_rows(tmp_path / "output")) == 5 * answers


def test_a_manifest_without_anything_to_ask_does_nothing(tmp_path: Path) -> None:
    write_manifest(tmp_path / "manifest.parquet", [{"uri": "/a.wav"}])

    report = run(a_config(tmp_path, tasks=["ocr"]))

    assert report.status == "nothing_to_do"
    assert dict(report.planned.not_asked) == {"audio": 1}


def test_too_small_a_cluster_is_refused_before_anything_runs(tmp_path: Path) -> None:
    a_corpus(tmp_path, num_images=1)

    with pytest.raises(ConfigError, match="CPUs"):
        run(a_config(tmp_path, cluster={"replicas": 1000}))
    with pytest.raises(ConfigError, match="GPUs"):
        run(a_config(tmp_path, cluster={"gpus_per_replica": 1, "cpus_per_replica": 0.25}))


def test_an_output_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    a_corpus(tmp_path, num_images=1)
    (tmp_path / "file").write_text("")

    with pytest.raises(StoreError):
        run(a_config(tmp_path, output=str(tmp_path / "file" / "output")))


def test_nothing_is_left_running_after_a_run(tmp_path: Path) -> None:
    a_corpus(tmp_path, num_images=1)

    run(a_config(tmp_path))

    assert ray.is_initialized()  # the cluster was there before: it is left as it was
