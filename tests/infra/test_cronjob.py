"""The nightly job: its objects fit each other, and its script does what it says, in a real sh."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
Document = dict[str, Any]

KUBECTL = """#!/bin/sh
echo "$*" >> "$FOLDER/asked"
case "$1 $*" in
  get*message*) echo "exit code 3" ;;
  get*)
    answer=$(head -n 1 "$FOLDER/answers"); sed -i 1d "$FOLDER/answers"
    [ "$answer" = silence ] && exit 1
    echo "$answer" ;;
esac
"""
"""A kubectl that gives one prepared status after another, and writes down what it was asked."""


@pytest.fixture(scope="module")
def documents() -> dict[str, Document]:
    loaded = yaml.safe_load_all((ROOT / "infra/cronjob.yaml").read_text("utf-8"))
    return {document["kind"]: document for document in loaded}


@pytest.fixture(scope="module")
def pod(documents: dict[str, Document]) -> Document:
    return documents["CronJob"]["spec"]["jobTemplate"]["spec"]["template"]["spec"]


@pytest.fixture(scope="module")
def rayjob() -> Document:
    loaded = yaml.safe_load_all((ROOT / "infra/rayjob.yaml").read_text("utf-8"))
    return next(document for document in loaded if document["kind"] == "RayJob")


def submit(pod: Document, folder: Path, statuses: list[str]) -> tuple[int, list[str]]:
    """Run the script; gives its exit code and the verbs that kubectl was asked to do."""
    (folder / "answers").write_text("".join(f"{status}\n" for status in statuses))
    (folder / "kubectl").write_text(KUBECTL)
    (folder / "kubectl").chmod(0o755)
    (container,) = pod["containers"]
    environment = {"PATH": f"{folder}:{os.environ['PATH']}", "FOLDER": str(folder), "POLL_S": "0"}
    ended = subprocess.run(  # noqa: S603 - the file's own script
        [*container["command"], *container["args"]],
        env=environment,
        check=False,
        timeout=20,
        capture_output=True,
    )
    asked = (folder / "asked").read_text().splitlines()
    return ended.returncode, [line.split()[0] for line in asked]


@pytest.mark.parametrize("before", ["", "Complete", "Failed", "ValidationFailed"])
def test_a_night_makes_a_new_run_and_waits_for_its_end(
    pod: Document, tmp_path: Path, before: str
) -> None:
    code, asked = submit(pod, tmp_path, [before, "", "Initializing", "Running", "Complete"])

    assert code == 0
    assert asked == ["get", "delete", "create", "get", "get", "get", "get"]


def test_a_night_whose_run_fails_fails(pod: Document, tmp_path: Path) -> None:
    code, _ = submit(pod, tmp_path, ["Complete", "Running", "Retrying", "Running", "Failed"])

    assert code == 1


@pytest.mark.parametrize("status", ["Running", "Initializing", "Waiting", "Retrying", "Suspended"])
def test_a_run_that_still_goes_on_is_left_alone(pod: Document, tmp_path: Path, status: str) -> None:
    code, asked = submit(pod, tmp_path, [status])

    assert (code, asked) == (0, ["get"])


def test_a_question_without_an_answer_ends_no_run_that_may_go_on(
    pod: Document, tmp_path: Path
) -> None:
    code, asked = submit(pod, tmp_path, ["silence"])

    assert code != 0
    assert asked == ["get"]


def test_while_it_waits_a_question_without_an_answer_is_asked_again(
    pod: Document, tmp_path: Path
) -> None:
    code, asked = submit(pod, tmp_path, ["", "Running", "silence", "Complete"])

    assert code == 0
    assert asked == ["get", "delete", "create", "get", "get", "get"]


def test_it_may_do_what_its_script_asks_for_and_nothing_else(
    documents: dict[str, Document], pod: Document
) -> None:
    (rule,) = documents["Role"]["rules"]
    script = pod["containers"][0]["args"][0]

    assert (rule["apiGroups"], rule["resources"]) == (["ray.io"], ["rayjobs"])
    assert {*re.findall(r"kubectl (\w+)", script)} <= {*rule["verbs"]}
    assert documents["RoleBinding"]["roleRef"]["name"] == documents["Role"]["metadata"]["name"]
    (subject,) = documents["RoleBinding"]["subjects"]
    account = documents["ServiceAccount"]["metadata"]["name"]
    assert subject["name"] == pod["serviceAccountName"] == account
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["containers"][0]["securityContext"]["capabilities"]["drop"] == ["ALL"]


def test_it_takes_the_run_and_nothing_else_out_of_the_rayjobs_file(
    pod: Document, rayjob: Document
) -> None:
    script = pod["containers"][0]["args"][0]
    file, key, value = re.findall(r"create -f (\S+) -l ([\w./]+)=(\w+)", script)[0]
    loaded = yaml.safe_load_all((ROOT / "infra/rayjob.yaml").read_text("utf-8"))
    chosen = [d for d in loaded if d["metadata"].get("labels", {}).get(key) == value]

    assert chosen == [rayjob]
    assert set(re.findall(r"rayjob (\w+) ", script)) == {rayjob["metadata"]["name"]}
    (mount,) = pod["containers"][0]["volumeMounts"]
    assert Path(file) == Path(mount["mountPath"]) / "rayjob.yaml"


def test_nights_do_not_overlap_and_outlive_their_run(
    documents: dict[str, Document], rayjob: Document
) -> None:
    spec = documents["CronJob"]["spec"]

    assert spec["concurrencyPolicy"] == "Forbid"
    assert re.fullmatch(r"(\S+ ){4}\S+", spec["schedule"])
    job = spec["jobTemplate"]["spec"]
    assert job["backoffLimit"] == 0
    assert job["activeDeadlineSeconds"] > rayjob["spec"]["activeDeadlineSeconds"]
