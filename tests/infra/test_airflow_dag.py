"""The night on Airflow: its commands and exit codes are the README's, and it does what they say.

Airflow is no dependency. Where it is not installed, a stand-in of a few lines takes its place; the
file itself and the shell are real.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml

from phicorpus import cli, errors
from phicorpus.cli import outputs, run
from phicorpus.config import parse_config
from phicorpus.driver.signals import EXIT_SIGINT, EXIT_SIGTERM

ROOT = Path(__file__).parents[2]
DAG_FILE = ROOT / "infra/airflow_dag.py"
STEPS = ["annotate", "retry", "status", "verify"]

STAND_IN = {
    "airflow/sdk/__init__.py": """
class Asset(str): ...

class DAG:
    def __init__(self, dag_id, **settings):
        self.dag_id, self.settings, self.task_dict = dag_id, settings, {}
    def __enter__(self):
        DAG.open = self
        return self
    def __exit__(self, *_): ...

class BaseOperator:
    def __init__(self, *, task_id, **settings):
        self.task_id, self.downstream_task_ids = task_id, set()
        vars(self).update(DAG.open.settings["default_args"], **settings)
        self.outlets = getattr(self, "outlets", [])
        DAG.open.task_dict[task_id] = self
    def __rshift__(self, other):
        self.downstream_task_ids.add(other.task_id)
        return other
""",
    "airflow/sdk/exceptions.py": """
class AirflowException(Exception): ...
class AirflowFailException(AirflowException): ...
class AirflowSkipException(AirflowException): ...
""",
    "airflow/providers/standard/hooks/subprocess.py": """
import subprocess
from types import SimpleNamespace

class SubprocessHook:
    def run_command(self, command):
        both = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        ended = subprocess.run(command, text=True, **both)
        output = ended.stdout.splitlines()
        return SimpleNamespace(exit_code=ended.returncode, output=output[-1] if output else "")
    def send_sigterm(self): ...
""",
}
"""As much of Airflow 3 as the file uses."""

ASK = """
import json, runpy, sys
night = runpy.run_path(sys.argv[1])
tasks = night["dag"].task_dict

def outcome(task):
    try:
        return task.execute({})
    except Exception as error:
        return type(error).__name__

def of(task):
    return {
        "command": task.command,
        "then": sorted(task.downstream_task_ids),
        "retries": task.retries,
        "trigger_rule": getattr(task.trigger_rule, "value", task.trigger_rule),
        "alerts": bool(task.on_failure_callback),
        "alerts_when_skipped": bool(getattr(task, "on_skipped_callback", None)),
        "outlets": [getattr(outlet, "uri", outlet) for outlet in task.outlets],
    }

told = {name: of(task) for name, task in tasks.items()}
task = tasks["verify"]
ends = {}
for command in json.loads(sys.argv[2]):
    task.command = command
    ends[command] = outcome(task)
told = {"tasks": told, "ends": ends, "job": night["JOB"], "output": night["OUTPUT"]}
print("TOLD" + json.dumps(told))
"""

ENDS = {code: f"echo said; exit {code}" for code in (0, 1, 2, 3, 4, 5, 6, 70, 130, 143)}
KILLED = "kill -9 $$"


@pytest.fixture(scope="module")
def night(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the file makes, and how its tasks end for each exit code, in a process of its own."""
    folder = tmp_path_factory.mktemp("airflow")
    environment = {**os.environ, "AIRFLOW_HOME": str(folder), "PYTHONWARNINGS": "ignore"}
    if find_spec("airflow") is None:
        for name, text in STAND_IN.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text)
        environment["PYTHONPATH"] = str(folder)
    asked = json.dumps([*ENDS.values(), KILLED])
    told = subprocess.run(  # noqa: S603 - our own file
        [sys.executable, "-c", ASK, str(DAG_FILE), asked],
        env=environment,
        check=True,
        capture_output=True,
        text=True,
    )
    return json.loads(told.stdout.partition("TOLD")[2])


def test_a_night_does_the_readmes_commands_in_their_order(night: dict[str, Any]) -> None:
    text = (ROOT / "README.md").read_text("utf-8")
    (block,) = re.findall(r"^A night.+?```bash\n(.+?)```", text, re.DOTALL | re.MULTILINE)
    lines = [line.partition("#")[0].split() for line in block.splitlines()]
    places = {night["job"]: "job.yaml", night["output"]: "s3://bucket/annotations"}
    commands = [shlex.split(night["tasks"][step]["command"]) for step in STEPS]

    assert [[places.get(word, word) for word in command] for command in commands] == lines
    assert {name: task["then"] for name, task in night["tasks"].items()} == {
        "annotate": ["retry"],
        "retry": ["status"],
        "status": ["verify"],
        "verify": [],
    }
    assert {*STEPS} <= {command.name for command in cli.app.registered_commands}


def test_job_and_output_are_those_of_the_job_on_kubernetes(night: dict[str, Any]) -> None:
    loaded = yaml.safe_load_all((ROOT / "infra/rayjob.yaml").read_text("utf-8"))
    documents = {document["kind"]: document for document in loaded}
    config = parse_config(yaml.safe_load(documents["ConfigMap"]["data"]["job.yaml"]))

    assert night["output"] == config.output
    assert night["job"] in documents["RayJob"]["spec"]["entrypoint"]


def test_what_goes_on_when_run_again_is_tried_again_and_nothing_else(night: dict[str, Any]) -> None:
    ends = {code: night["ends"][command] for code, command in ENDS.items()}
    text = (ROOT / "README.md").read_text("utf-8")
    (after,) = re.findall(r"run it again after ([\d, ]+): it goes on", text)
    again = {int(code) for code in after.split(",")}

    assert again == {errors.StoreError.exit_code, errors.WorkersLost.exit_code} | {
        EXIT_SIGINT,
        EXIT_SIGTERM,
    }
    assert {code for code, end in ends.items() if end == "AirflowException"} == again
    assert night["ends"][KILLED] == "AirflowException"
    assert all(task["retries"] > 0 for task in night["tasks"].values())


def test_a_night_ends_well_softly_or_at_once(night: dict[str, Any]) -> None:
    ends = {code: night["ends"][command] for code, command in ENDS.items()}
    soft = {code for code, end in ends.items() if end == "AirflowSkipException"}

    assert ends[0] == "said"
    assert soft == {run.EXIT_ERRORS_ABOVE_THRESHOLD}
    assert {code for code, end in ends.items() if end == "AirflowFailException"} == {
        *(1, 2, 70),
        outputs.EXIT_NOT_RIGHT,
    }


def test_readers_start_after_a_verified_night_and_after_no_other(night: dict[str, Any]) -> None:
    tasks = night["tasks"]

    assert {name: task["outlets"] for name, task in tasks.items() if task["outlets"]} == {
        "verify": [night["output"]]
    }
    assert {task["trigger_rule"] for task in tasks.values()} == {"none_failed"}


def test_somebody_hears_of_what_failed_and_of_too_many_errors(night: dict[str, Any]) -> None:
    tasks = night["tasks"]

    assert all(task["alerts"] for task in tasks.values())
    assert {name for name, task in tasks.items() if task["alerts_when_skipped"]} == {"retry"}
