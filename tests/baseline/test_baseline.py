"""Rows by value, fingerprints, counts and exit codes are what they were before a change inside.

Where they are meant to change: `python -m tests.baseline.write`.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import yaml

from phicorpus import cli
from phicorpus.errors import PhicorpusError
from tests.baseline.compare import compare
from tests.baseline.fingerprints import fingerprints
from tests.baseline.job import run_golden_job
from tests.baseline.rows import differences, rows_of
from tests.baseline.write import read_rows, read_values
from tests.builders import a_config, a_finished_output, a_pdf, write_files, write_manifest

pytestmark = pytest.mark.slow


@pytest.mark.ray
@pytest.mark.usefixtures("cluster")
def test_the_golden_job_writes_every_row_as_it_did_and_counts_them_alike(tmp_path: Path) -> None:
    rows, said = run_golden_job(tmp_path)

    assert "\n".join(differences(read_rows(), rows)) == ""
    assert json.loads(json.dumps(said)) == read_values("job")


def test_every_fingerprint_is_what_it_was(tmp_path: Path) -> None:
    was = read_values("fingerprints")

    now = fingerprints(tmp_path)

    assert "\n".join(differences(was, now)) == ""


def test_settings_that_are_in_no_fingerprint_leave_all_of_them() -> None:
    named = read_values("fingerprints")

    same = [name for name, found in named.items() if found == named["defaults"]]

    assert same == ["defaults", "limits, units and devices, which are in none"]


def test_a_row_that_differs_is_named_with_its_column_and_both_values() -> None:
    was = read_rows()
    now = deepcopy(was)
    lost, changed, *_ = now
    del now[lost]
    now[changed]["text"] = "another"
    now["annotations/new"] = {"uri": "new"}

    found = list(differences(was, now))

    assert sorted(found) == sorted(
        [
            f"{lost}: the row is missing",
            f"{changed}: column text: was {was[changed]['text']!r}, is 'another'",
            "annotations/new: the row is new: {'uri': 'new'}",
        ]
    )


def test_the_same_demo_in_two_places_does_not_differ_and_a_lost_file_does(tmp_path: Path) -> None:
    a_finished_output(tmp_path / "one", num_images=1)
    shutil.copytree(tmp_path / "one", tmp_path / "other")

    assert compare(tmp_path / "one", tmp_path / "other") == []

    next((tmp_path / "other" / "output").glob("annotations/task=ocr/*/*.parquet")).unlink()
    lost = compare(tmp_path / "one", tmp_path / "other")
    assert lost
    assert all(line.endswith("the row is missing") for line in lost)


def test_an_output_with_one_row_twice_is_not_compared(tmp_path: Path) -> None:
    output = a_finished_output(tmp_path, num_images=1)
    (path,) = output.glob("annotations/task=ocr/*/*.parquet")
    shutil.copy(path, path.with_name("image-again.parquet"))

    with pytest.raises(ValueError, match=r"annotations/ocr//a\.png/0/0/0 twice"):
        rows_of(output, tmp_path)


def exit_code(arguments: Sequence[str]) -> int:
    with pytest.raises(SystemExit) as ended:
        cli.main(lambda: cli.app(list(arguments)))
    return int(str(ended.value.code))


OUTPUTS = [
    (["--version"], 0),
    (["schema", "annotation"], 0),
    (["schema", "nothing"], 2),
    (["no-such-command"], 2),
    (["plan", "{job}"], 0),
    (["plan", "{job}", "--set", "decks.dpy=3"], 2),
    (["plan", "{job}", "--set", "manifest={folder}/none.parquet"], 2),
    (["plan", "{job}", "--set", "model={folder}"], 2),
    (["plan", "{folder}/none.yaml"], 2),
    (["annotate", "{job}", "--set", "output={file}/output"], 5),
    (["manifest", "check", "{job}"], 0),
    (["status", "{output}"], 0),
    (["show", "{output}"], 0),
    (["show", "{folder}/none"], 0),
    (["verify", "{output}"], 0),
    (["verify", "{folder}/none"], 2),
    (["verify", "{torn}"], 4),
    (["verify", "{torn}", "--mend"], 4),
    (["verify", "nothing://bucket/output"], 2),
    (["parity", "{folder}"], 2),
    (["report", "{folder}/none", "-o", "{folder}/report.html"], 2),
]
"""Codes 6, 70, 130 and 143 take a process of their own: see the tests of the supervisor."""


@pytest.mark.parametrize(("arguments", "code"), OUTPUTS, ids=str)
def test_a_command_line_ends_with_its_exit_code(
    arguments: list[str], code: int, tmp_path: Path
) -> None:
    places = _places(tmp_path)

    assert exit_code([part.format_map(places) for part in arguments]) == code


@pytest.mark.ray
@pytest.mark.usefixtures("cluster")
def test_a_run_with_more_errors_than_it_may_have_ends_with_3_however_it_is_asked_for(
    tmp_path: Path,
) -> None:
    job = _a_job(tmp_path, errors={"max_error_ratio": 0.5})
    strict = ["--set", "errors.max_error_ratio=0.1"]

    assert exit_code(["annotate", job]) == 0
    assert exit_code(["annotate", job, *strict]) == 0  # nothing to do
    assert exit_code(["retry", job, "--errors", "timeout"]) == 0
    assert exit_code(["retry", job, "--errors", "timeout", *strict]) == 3
    assert exit_code(["verify", str(tmp_path / "output")]) == 0


def test_every_error_that_ends_a_run_has_the_exit_code_it_had() -> None:
    named = {
        "ConfigError": 2,
        "ManifestError": 2,
        "CheckpointError": 2,
        "OutputRefused": 2,
        "StoreError": 5,
        "ManifestChanged": 5,
        "CredentialsRefused": 5,
        "StoreBusy": 5,
        "WorkersLost": 6,
        "AccountingError": 70,
        "NothingRecorded": 2,
        "DamagedRecord": 5,
        "TornFile": 5,
    }

    found = {error.__name__: error.exit_code for error in _below(PhicorpusError)}

    assert {name: found.get(name) for name in named} == named


def _below(error: type[PhicorpusError]) -> list[type[PhicorpusError]]:
    return [error, *(below for known in error.__subclasses__() for below in _below(known))]


def _places(folder: Path) -> Mapping[str, Any]:
    """An output, a torn copy of it, a file where a folder should be, and a job."""
    output = a_finished_output(folder / "finished", num_images=2)
    torn = folder / "torn"
    shutil.copytree(output, torn)
    for path in torn.glob("annotations/task=ocr/*/*.parquet"):
        path.write_bytes(path.read_bytes()[:-9])
    file = folder / "file.txt"
    file.write_text("not a folder")
    job = _a_job(folder / "job")
    return {"folder": folder, "output": output, "torn": torn, "file": file, "job": job}


def _a_job(folder: Path, **settings: Any) -> str:
    """A job of two decks of which one is broken, which asks no model."""
    write_files(folder, {"deck.pdf": a_pdf(1), "broken.pdf": b"%PDF-1.7 and no more"})
    write_manifest(folder / "manifest.parquet", [{"uri": "deck.pdf"}, {"uri": "broken.pdf"}])
    config = a_config(folder, model="tiny", tasks=["native"], **settings)
    path = folder / "job.yaml"
    path.write_text(yaml.safe_dump(config.model_dump(mode="json", exclude_defaults=True)))
    return str(path)
