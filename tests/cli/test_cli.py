"""The command line: what it prints, what it refuses, and with which exit code."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from phicorpus import cli
from phicorpus.cli import tables
from phicorpus.commands.annotate import RunReport
from phicorpus.models.random_checkpoint import write_tiny
from phicorpus.planner import PlanSummary
from tests.builders import a_config, a_corpus, a_pdf, write_files, write_manifest

COMMANDS = [
    ["annotate"],
    ["plan"],
    ["show"],
    ["verify"],
    ["retry"],
    ["status"],
    ["schema"],
    ["report"],
    ["doctor"],
    ["parity"],
    ["demo-corpus"],
    ["tiny-model"],
    ["demo"],
    ["manifest", "build"],
    ["manifest", "check"],
]


def a_job(folder: Path, **settings: object) -> Path:
    config = a_config(folder, **settings).model_dump(mode="json", exclude_defaults=True)
    path = folder / "job.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


def exit_code(*arguments: str) -> int:
    """Run as the console script does: errors become one line and an exit code."""
    with pytest.raises(SystemExit) as ended:
        cli.main(lambda: cli.app(list(arguments)))
    return int(str(ended.value.code))


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_has_help_with_an_example(command: list[str]) -> None:
    shown = CliRunner().invoke(cli.app, [*command, "--help"])

    assert shown.exit_code == 0
    assert "Example: phicorpus" in shown.output


def test_the_version_is_that_of_the_package() -> None:
    shown = CliRunner().invoke(cli.app, ["--version"])

    assert (shown.exit_code, shown.output) == (0, f"phicorpus {version('phicorpus')}\n")


@pytest.mark.parametrize("command", ["status", "verify", "show", "report", "retry"])
@pytest.mark.parametrize("options", ["{s3: {key: SECRET", "SECRET"])
def test_wrong_storage_options_end_with_2_and_are_not_repeated(
    command: str, options: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_code(command, str(tmp_path), "--storage-options", options) == 2

    message = capsys.readouterr().err
    assert "--storage-options is not a YAML mapping" in message
    assert "SECRET" not in message


def test_storage_options_without_a_protocol_are_refused_not_ignored(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_code("status", str(tmp_path), "--storage-options", "{secret: SECRET}") == 2

    message = capsys.readouterr().err
    assert "'secret' has no options of its own" in message
    assert "SECRET" not in message


@pytest.mark.parametrize("name", ["[/b]", "[kg]", "[link=file:///etc]x"])
def test_brackets_in_answers_and_names_are_printed_as_they_are(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    row = dict.fromkeys(["page_number", "start_s", "outdated", "error_message", "skip_reason"])
    asked = {"uri": name, "task": "ocr", "status": "ok", "text": f"weight {name} total"}

    tables.show_annotations([row | asked], title=f"from {name}")
    code = exit_code("manifest", "build", str(tmp_path / name), "-o", str(tmp_path / "m.parquet"))

    printed = capsys.readouterr()
    assert f"from {name}" in printed.out
    assert f"weight {name} total" in printed.out
    assert code == 2
    assert str(tmp_path / name) in printed.err


def test_an_answer_cannot_command_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    row = dict.fromkeys(["page_number", "start_s", "outdated", "error_message", "skip_reason"])
    asked = {"uri": "a\x9b.png", "task": "native", "status": "ok", "text": "\x1b]0;owned\x07 yes"}

    tables.show_annotations([row | asked], title="some")

    printed = capsys.readouterr().out
    assert "]0;owned" in printed
    assert not set("\x1b\x07\x9b") & set(printed)


@pytest.mark.parametrize(
    "command", [["report", "{folder}", "-o", "{file}/r.html"], ["tiny-model", "{file}/m"],
                ["manifest", "build", "{folder}", "-o", "{file}/m"],
                ["demo-corpus", "{file}/c", "--scale", "0.05"], ["demo", "{file}/d"]],
    ids=lambda command: command[0],
)  # fmt: skip
def test_a_place_that_cannot_be_written_ends_with_2_and_is_named(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "file.txt"
    file.write_text("not a folder")

    assert exit_code(*(part.format(folder=tmp_path, file=file) for part in command)) == 2

    assert f"cannot write {file}" in capsys.readouterr().err


def test_what_is_printed_into_a_pipe_is_not_cut_to_eighty_columns(tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text("{}")
    environment = {name: v for name, v in os.environ.items() if name not in ("COLUMNS", "HOME")}

    ended = subprocess.run(  # noqa: S603 - our own program
        [sys.executable, "-m", "phicorpus", "plan", str(tmp_path / "job.yaml")],
        env={**environment, "TERM": "dumb"},
        capture_output=True,
        text=True,
        check=False,
    )

    assert ended.returncode == 2
    assert ended.stdout == ""
    assert ended.stderr.startswith("ConfigError: ")
    assert all(line.endswith("Field required") for line in ended.stderr.splitlines())


@pytest.mark.parametrize("name", ["manifest", "segment", "annotation", "document", "run"])
def test_schemas_are_printed_with_their_meaning(name: str) -> None:
    shown = CliRunner().invoke(cli.app, ["schema", name, "--json"])

    columns = json.loads(shown.output)
    assert all(column["meaning"] for column in columns)


def test_an_unknown_schema_is_refused_with_the_known_ones() -> None:
    shown = CliRunner().invoke(cli.app, ["schema", "nothing"])

    assert shown.exit_code == 2
    assert "annotation" in shown.output


def test_doctor_tells_scripts_what_is_there() -> None:
    shown = CliRunner().invoke(cli.app, ["doctor", "--json"])

    findings = json.loads(shown.output)
    assert {"name", "ok", "stops_working", "install"} <= findings[0].keys()


def test_plan_says_what_would_run_and_starts_nothing(tmp_path: Path) -> None:
    a_corpus(tmp_path, num_images=3)
    write_tiny(tmp_path / "model", 0)
    job = a_job(tmp_path, model=str(tmp_path / "model"))

    shown = CliRunner().invoke(cli.app, ["plan", str(job), "--json"])

    planned = json.loads(shown.output)
    assert planned["num_pending_assets"] == 6
    assert planned["pending_by_task"] == {"ocr": 5, "caption": 5, "native": 1, "transcribe": 1}
    assert not (tmp_path / "output").exists()


def test_a_wrong_config_ends_with_2_and_names_the_key(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job = a_job(tmp_path)
    job.write_text(job.read_text() + "decks: {dpy: 3}\n")

    assert exit_code("annotate", str(job)) == 2
    assert "did you mean 'dpi'" in capsys.readouterr().err


def test_a_wrong_manifest_ends_with_2_and_names_file_column_and_row(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_manifest(tmp_path / "manifest.parquet", [{"uri": "/a.png"}, {"uri": ""}])
    write_tiny(tmp_path / "model", 0)

    assert exit_code("annotate", str(a_job(tmp_path, model=str(tmp_path / "model")))) == 2
    message = " ".join(capsys.readouterr().err.split())
    assert "manifest.parquet" in message
    assert "column 'uri', row 1" in message


def test_a_model_that_is_not_there_ends_with_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a_corpus(tmp_path, num_images=1)
    (tmp_path / "empty").mkdir()

    assert exit_code("annotate", str(a_job(tmp_path, model=str(tmp_path / "empty")))) == 2
    assert "CheckpointError" in capsys.readouterr().err


def test_manifest_check_counts_the_assets(tmp_path: Path) -> None:
    a_corpus(tmp_path, num_images=2)

    shown = CliRunner().invoke(cli.app, ["manifest", "check", str(a_job(tmp_path))])

    assert "5 assets, all right" in shown.output


def test_manifest_build_writes_what_it_found(tmp_path: Path) -> None:
    a_corpus(tmp_path, num_images=2)
    output = tmp_path / "built.parquet"

    shown = CliRunner().invoke(
        cli.app, ["manifest", "build", str(tmp_path), "-o", str(output), "--json"]
    )

    assert json.loads(shown.output) == {
        "num_assets": 5,
        "audio": 1,
        "deck": 1,
        "image": 3,
        "num_left_out": 1,
    }


def test_a_plan_says_which_assets_no_task_applies_to(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a_corpus(tmp_path, num_images=1)
    write_tiny(tmp_path / "model", 0)
    job = a_job(tmp_path, model=str(tmp_path / "model"), tasks=["caption"])

    cli.main(lambda: cli.app(["plan", str(job)], standalone_mode=False))

    assert "1 audio assets: none of the job's tasks applies to them" in capsys.readouterr().err


def test_nothing_to_do_counts_what_there_was_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    planned = PlanSummary(num_assets=5, not_asked={"audio": 2})
    left = {"ok": 7, "error": 3}

    done = RunReport(run_id="r", status="nothing_to_do", planned=planned)
    retried = RunReport(run_id="r", status="nothing_to_do", planned=PlanSummary(), left=left)
    tables.show_report(done, "out")
    tables.show_report(retried, "out")

    first, second = capsys.readouterr().out.splitlines()
    assert first == "Nothing to do: all 3 assets that a task applies to are annotated in out."
    assert second.startswith("Nothing to retry: 3 errors in out: none of them is of what --errors")


def test_the_demos_corpus_is_told_in_words(tmp_path: Path) -> None:
    arguments = ["demo-corpus", str(tmp_path / "c"), "--scale", "0.05"]

    first, second = (CliRunner().invoke(cli.app, arguments).output for _ in range(2))

    assert re.match(rf"wrote {tmp_path}/c: \d+ files \(\d+ page, ", first)
    assert second.startswith("there already: ")


def test_show_of_nothing_says_so(tmp_path: Path) -> None:
    shown = CliRunner().invoke(cli.app, ["show", str(tmp_path)])

    assert "no annotations" in shown.output


@pytest.mark.ray
def test_a_run_of_errors_alone_does_not_end_well_though_no_threshold_is_set(
    tmp_path: Path, cluster: str
) -> None:
    assert cluster
    (tmp_path / "deck.pdf").write_bytes(b"%PDF-1.7 and no more")
    write_manifest(tmp_path / "manifest.parquet", [{"uri": "deck.pdf"}])
    job = a_job(tmp_path, model="tiny", tasks={"native": {}})

    assert exit_code("annotate", str(job)) == 3


@pytest.mark.ray
def test_annotate_counts_errors_and_ends_with_3_above_the_threshold(
    tmp_path: Path, cluster: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cluster
    a_corpus(tmp_path, num_images=1)
    write_tiny(tmp_path / "model", 0)
    settings = {
        "model": str(tmp_path / "model"),
        "tasks": {"caption": {"max_new_tokens": 4}},
        "errors": {"max_error_ratio": 0.1},
    }
    job = a_job(tmp_path, **settings)

    assert exit_code("annotate", str(job), "--json") == 3
    report = json.loads(capsys.readouterr().out)
    assert (report["tally"]["num_ok"], report["tally"]["num_error"]) == (4, 1)

    assert exit_code("annotate", str(job), "--json") == 0
    assert json.loads(capsys.readouterr().out)["status"] == "nothing_to_do"

    told = CliRunner().invoke(cli.app, ["status", str(tmp_path / "output"), "--json"])
    standing = json.loads(told.stdout)
    assert (standing["error_ratio"], standing["num_pending_units"]) == (0.2, 0)
    assert standing["rows_per_s"] > 0

    assert exit_code("annotate", str(job), "--reprocess", "failed", "--json") == 3
    both = json.loads(capsys.readouterr().out)
    assert both["before"][0]["status"] == "nothing_to_do"
    assert both["error_ratio"] == 0.2

    assert exit_code("retry", str(job), "--errors", "timeout", "--json") == 3
    assert json.loads(capsys.readouterr().out)["left"] == {"ok": 4, "error": 1}


def test_a_report_of_what_is_no_output_is_refused_and_written_nowhere(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "report.html"

    assert exit_code("report", str(tmp_path / "typo"), "-o", str(page)) == 2

    assert f"{tmp_path / 'typo'} is not an output" in capsys.readouterr().err
    assert not page.exists()


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        ("urll=/a*", "--where: unknown column 'urll'; did you mean 'uri'?"),
        ("ownr=me", "--where: unknown column 'ownr'; did you mean 'owner'?"),
        ("xyzzy=1", "--where: unknown column 'xyzzy'; known columns: asset_id, uri, "),
    ],
)
def test_a_retry_of_rows_by_a_column_that_there_is_not_ends_with_2(
    condition: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_manifest(tmp_path / "manifest.parquet", [{"uri": "deck.pdf", "owner": "me"}])
    job = a_job(tmp_path, model="tiny", tasks={"native": {}})

    assert exit_code("retry", str(job), "--where", condition) == 2

    assert message in capsys.readouterr().err


@pytest.mark.parametrize("command", ["status", "verify", "retry"])
def test_where_no_run_is_recorded_the_output_is_named(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_code(command, str(tmp_path / "typo")) == 2

    assert f"no run is recorded in {tmp_path / 'typo'}: " in capsys.readouterr().err


def test_with_log_json_standard_error_is_json_lines_even_where_the_command_fails(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_code("--log-json", "annotate", str(tmp_path / "none.yaml")) == 2

    (line,) = map(json.loads, capsys.readouterr().err.splitlines())
    assert (line["level"], line["error"], line["exit_code"]) == ("ERROR", "ConfigError", 2)
    assert "none.yaml" in line["message"]


@pytest.mark.ray
@pytest.mark.usefixtures("cluster")
def test_a_night_s_exit_code_judges_the_output_and_running_it_again_hides_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_files(tmp_path, {"deck.pdf": a_pdf(1), "broken.pdf": b"%PDF-1.7 and no more"})
    write_manifest(tmp_path / "manifest.parquet", [{"uri": "deck.pdf"}, {"uri": "broken.pdf"}])
    settings = {"tasks": ["native"], "model": "tiny", "errors": {"max_error_ratio": 0.1}}
    job = str(a_job(tmp_path, **settings))

    first, said = exit_code("night", job, "--json"), json.loads(capsys.readouterr().out)
    again = exit_code("night", job, "--json")

    assert (first, again) == (3, 3)
    assert [said[step]["status"] for step in ("annotate", "retry")] == ["done", "nothing_to_do"]
    assert (said["status"]["num_pending_units"], said["verify"]["is_right"]) == (0, True)
    for path in tmp_path.glob("output/annotations/*/*/*.parquet"):
        path.write_bytes(path.read_bytes()[:-9])
    assert exit_code("night", job) == 4
