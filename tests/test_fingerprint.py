"""Fingerprints: they move where answers change, and nowhere else."""

import pytest

from phicorpus.config import TaskConfig, parse_config
from phicorpus.fingerprint import fingerprint
from phicorpus.tasks import TASKS
from phicorpus.tasks.question import questions


def named(render: str, task: str, kind: str) -> str:
    job = {"manifest": "m", "output": "o", "model": "tiny", "tasks": [task]}
    config = parse_config(job | {"decks": {"render": render}})
    question = questions({task: TaskConfig()}, TASKS)[task]
    return fingerprint(question, kind, config, "m")


@pytest.mark.parametrize(
    ("render", "task", "kind", "name"),
    [
        ("pixels", "ocr", "deck", "fc8c88daadbe"),
        ("pixels", "ocr", "image", "f18a8146b004"),
        ("pixels", "chart", "deck", "f7cc93e8c855"),
        ("native", "caption", "deck", "fb7a9be9abad"),
        ("native", "chart", "image", "f90ac84013ec"),
    ],
)
def test_what_a_model_answered_in_an_earlier_release_holds(
    render: str, task: str, kind: str, name: str
) -> None:
    assert named(render, task, kind) == name


@pytest.mark.parametrize(
    ("render", "task", "name"),
    [
        ("pixels", "native", "fe05dae6376e"),
        ("native", "ocr", "f7ba77fe0ef1"),
    ],
)
def test_what_a_file_said_of_itself_is_read_anew(render: str, task: str, name: str) -> None:
    assert named(render, task, "deck") != name
