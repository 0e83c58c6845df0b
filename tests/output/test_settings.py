"""Each fingerprint can be looked up: what it stands for, since when, and for how many rows."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from phicorpus import cli
from phicorpus.commands.annotate import annotate, publication, record
from phicorpus.commands.mend import mend
from phicorpus.commands.prepare import prepare
from phicorpus.commands.show import used_settings
from phicorpus.commands.verify import verify
from phicorpus.fingerprint import combined, digest
from phicorpus.output.files import Output
from phicorpus.output.runs import read_runs
from phicorpus.output.settings import all_settings, settings_of_run, write_settings
from phicorpus.output.write import RunPublisher
from phicorpus.stages.assemble import assemble
from phicorpus.stages.commit import Commit
from phicorpus.storage.store import Store, open_store
from phicorpus.tasks import TASKS
from tests.builders import a_backend, a_config, an_execution, an_image, write_files, write_manifest
from tests.test_edits import Corpus, image, images

pytestmark = pytest.mark.slow


def note_settings(corpus: Corpus) -> None:
    """Write the files of settings as a run does that is about to use them."""
    job = prepare(corpus.config, a_backend())
    commit = Commit(RunPublisher(job.plan.output, publication(job, "run")), assemble)
    run = record(job, an_execution("run", job, commit), "running")
    used = settings_of_run(run, job.plan.answers)
    options = {"s3": {"secret": "hunter22"}}
    write_settings(job.store, used, job.plan.runs, options)


@pytest.mark.usefixtures("cluster")
def test_a_run_leaves_a_file_for_each_fingerprint_that_it_uses(tmp_path: Path) -> None:
    write_files(tmp_path, {"a.png": an_image()})
    write_manifest(tmp_path / "manifest.parquet", [{"uri": "a.png"}])
    config = a_config(tmp_path, tasks=["ocr", "caption", "transcribe"])

    annotate(config, backend=a_backend())

    store = open_store(config.output)
    files = {p.removesuffix(".json"): json.loads(store.read(f"settings/{p}")) for p in names(store)}
    annotations = {n: f for n, f in files.items() if f["task"] is not None}
    (documents,) = (f for f in files.values() if f["task"] is None)
    assert {key.table.fingerprint for key in Output(store).files} == {*files}
    assert {(f["task"], f["kind"]) for f in annotations.values()} == {
        ("ocr", "image"),
        ("caption", "image"),
    }
    assert all(digest(f["answers"]) == name for name, f in annotations.items())
    assert documents["annotations"] == sorted(annotations)
    assert combined(annotations) == documents["fingerprint"]
    assert verify(store).is_right


def names(store: Store) -> list[str]:
    return [path.rpartition("/")[2] for path in store.list_files("settings")]


def test_settings_are_shown_with_their_rows_and_those_of_the_newest_run_are_marked(
    tmp_path: Path,
) -> None:
    corpus = Corpus(tmp_path, images(4))
    corpus.run()
    corpus.settings |= {"tasks": {"caption": {}, "ocr": {"prompt": "Read."}}}
    corpus.rows[0] = image(0, 1)
    corpus.run()

    used = used_settings(corpus.store)

    told = [(u.table, u.prompt, u.num_current, u.num_outdated, u.is_of_newest_run) for u in used]
    of_rows = [row for row in told if row[2] + row[3]]
    assert [row for row in of_rows if row[0] == "ocr"] == [
        ("ocr", "Read.", 4, 0, True),
        ("ocr", TASKS["ocr"].prompt, 0, 4, False),
    ]
    assert [row[2:] for row in of_rows if row[0] == "caption"] == [(4, 1, True)]
    assert [row[2:] for row in of_rows if row[0] == "documents"] == [(4, 0, True), (0, 4, False)]
    assert {u.model for u in used if u.table != "documents"} == {"scripted"}


def test_an_output_without_files_of_settings_is_told_from_its_runs(tmp_path: Path) -> None:
    corpus = Corpus(tmp_path, images(2))
    corpus.run()
    runs = read_runs(corpus.store)
    before = all_settings(corpus.store, runs)

    note_settings(corpus)

    after = all_settings(corpus.store, runs)
    assert len(names(corpus.store)) > 0
    mine = {key.table.fingerprint for key in Output(corpus.store).files}
    assert {f: before[f] for f in mine} == {f: after[f] for f in mine}


def test_what_an_earlier_release_asked_is_not_guessed(tmp_path: Path) -> None:
    corpus = Corpus(tmp_path, images(2))
    corpus.run()
    run = dict(read_runs(corpus.store)[0])
    run["fingerprints"] = json.dumps({"ocr/image": "f0123456789a", "sing/image": "f1"})

    found = {settings.task: settings for settings in settings_of_run(run)}

    assert found["ocr"].answers is None
    assert found["ocr"].first_used_at == run["started_at"]
    assert found["sing"].prompt is None


def test_settings_hold_no_secrets(tmp_path: Path) -> None:
    corpus = Corpus(tmp_path, images(1))
    prompt = "Compare with https://me:pass@host/a?sig=abcd and hunter22"
    corpus.settings |= {"tasks": {"ocr": {"prompt": prompt}}}
    corpus.run()

    note_settings(corpus)

    written = "".join(p.read_text() for p in Path(corpus.config.output).glob("settings/*.json"))
    assert "Compare with" in written
    assert not any(secret in written for secret in ("pass@", "abcd", "hunter22"))


def test_a_damaged_file_of_settings_is_found_set_aside_and_made_again(tmp_path: Path) -> None:
    corpus = Corpus(tmp_path, images(2))
    corpus.run()
    note_settings(corpus)
    path = min(Path(corpus.config.output).glob("settings/*.json"))
    whole = path.read_text()
    path.write_text(whole[:-9])

    found = verify(corpus.store)
    mended = mend(open_store(corpus.config.output), found)
    note_settings(corpus)

    name = path.relative_to(corpus.config.output).as_posix()
    assert [(problem.kind, problem.path) for problem in found.problems] == [("torn", name)]
    assert mended.set_aside == [name]
    assert path.read_text() == whole
    assert verify(corpus.store).is_right


def test_the_command_prints_them(tmp_path: Path) -> None:
    corpus = Corpus(tmp_path, images(2))
    corpus.run()

    shown = CliRunner().invoke(cli.app, ["show", corpus.config.output, "--settings"])
    as_json = CliRunner().invoke(cli.app, ["show", corpus.config.output, "--settings", "--json"])

    told = json.loads(as_json.stdout)
    assert shown.exit_code == as_json.exit_code == 0
    assert all(one["fingerprint"] in shown.stdout for one in told)
    assert {one["table"] for one in told} >= {"ocr", "caption", "documents"}
