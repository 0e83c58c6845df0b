"""A new task is one file and its name in TASKS: jobs ask it, documents and the demo have it.

The package is laid into a temporary folder, of links but for what the recipe changes.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest

from phicorpus.cli.demo import demo_config
from phicorpus.config import TaskConfig
from phicorpus.engine.scripted import Script, ScriptedEngine
from phicorpus.stages.assemble import assemble
from phicorpus.stages.infer import Infer
from phicorpus.tasks import TASKS
from phicorpus.tasks.question import questions
from tests.builders import a_corpus, a_segment, segments
from tests.examples.alt_text import ALT_TEXT

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
WITH_ALT_TEXT = {**TASKS, ALT_TEXT.name: ALT_TEXT}


def answered(**columns: object) -> list[dict[str, object]]:
    """Run the stage that asks, on one segment."""

    async def run() -> list[pa.Table]:
        engine = ScriptedEngine(Script(answer={"cannot see": "A cat.", "sentence": "A pet"}))
        stage = Infer(lambda: engine, questions({n: TaskConfig() for n in asked}, WITH_ALT_TEXT))
        return [table async for table in stage(segments(a_segment(tasks=asked, **columns)))]

    asked = ["caption", "alt_text"]
    return pa.concat_tables(asyncio.run(run())).to_pylist()


def test_its_answers_are_rows_and_stand_in_the_document_as_it_says() -> None:
    rows = answered(segment_kind="image", segment_count=1)

    assert {(row["task"], row["text"]) for row in rows} == {
        ("caption", "A pet"),
        ("alt_text", "A cat."),
    }
    (document,) = assemble("image", rows, WITH_ALT_TEXT)
    assert document["markdown"] == "*A pet*\n\n> A cat."


def test_an_answer_about_a_recording_stands_beside_its_transcript() -> None:
    rows = answered(segment_kind="window", segment_count=1, start_s=0.0, end_s=1.0)

    (document,) = assemble("audio", rows, WITH_ALT_TEXT)
    (without,) = assemble("audio", rows)

    assert (document["markdown"], without["markdown"]) == ("> A cat.", None)


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A folder to import phicorpus from, which has the new task."""
    source, copy = ROOT / "pipeline/phicorpus", tmp_path / "source/phicorpus"
    copy.mkdir(parents=True)
    for path in source.iterdir():
        if path.name not in {"tasks", "__pycache__"}:
            (copy / path.name).symlink_to(path)
    shutil.copytree(source / "tasks", copy / "tasks", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copyfile(ROOT / "tests/examples/alt_text.py", copy / "tasks/alt_text.py")
    registry = copy / "tasks/__init__.py"
    text = registry.read_text("utf-8")
    imported = (
        "from phicorpus.tasks.alt_text import ALT_TEXT\nfrom phicorpus.tasks.ask import ASK\n"
    )
    text = text.replace("from phicorpus.tasks.ask import ASK\n", imported)
    registry.write_text(re.sub(r"\bASK\)", "ASK, ALT_TEXT)", text))
    return copy.parent


def test_the_command_line_and_the_demo_know_it_by_its_name_in_the_registry(
    package: Path, tmp_path: Path
) -> None:
    a_corpus(tmp_path, num_images=1)
    (tmp_path / "job.yaml").write_text(
        "{manifest: manifest.parquet, output: output, model: tiny, tasks: [alt_text, transcribe]}"
    )

    def run(*arguments: str) -> str:
        ended = subprocess.run(  # noqa: S603 - our own program
            [sys.executable, *arguments],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(package)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert ended.returncode == 0, ended.stderr
        return ended.stdout

    planned = json.loads(run("-m", "phicorpus", "plan", "job.yaml", "--json"))
    checked = run("-m", "phicorpus", "manifest", "check", "job.yaml")
    demo = "from pathlib import Path; from phicorpus.cli.demo import demo_config;"
    in_demo = run("-c", f"{demo} print(demo_config(Path('d')).tasks['alt_text'].max_new_tokens)")

    assert planned["pending_by_task"] == {"alt_text": 3, "transcribe": 1}
    assert {name for name in planned["fingerprints"] if name.startswith("alt")} == {
        "alt_text/image",
        "alt_text/deck",
    }
    assert "all right" in checked
    assert in_demo == "24\n"


def test_the_demo_asks_what_the_small_model_has_learnt() -> None:
    tasks = demo_config(Path("demo")).tasks

    assert {name: task.max_new_tokens for name, task in tasks.items()} == {
        "ocr": 64,
        "caption": 24,
        "chart": 64,
        "transcribe": 96,
        "native": None,
    }


def test_readme_s_table_has_every_task() -> None:
    table = (ROOT / "README.md").read_text("utf-8").partition("| task | of | gives |")[2]
    rows = re.findall(r"^\| `(\w+)` \|", table.partition("\n\n")[0], re.MULTILINE)

    assert rows == [*TASKS]
