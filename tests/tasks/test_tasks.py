import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phicorpus.config import TaskConfig
from phicorpus.errors import ConfigError
from phicorpus.media.segment import Chart, Native
from phicorpus.tasks import TASKS, chart, fits, markdown, native
from phicorpus.tasks.question import questions

CELL = st.text(st.characters(codec="utf-8", exclude_categories=("C", "Z")), min_size=1, max_size=8)


@given(st.lists(st.lists(CELL, min_size=2, max_size=2), min_size=1, max_size=5))
def test_a_written_table_is_read_back(rows: list[list[str]]) -> None:
    plain = [[cell.replace("\\", "/") for cell in row] for row in rows]

    assert markdown.read_table(markdown.table(["a", "b"], plain)) == (["a", "b"], plain)


@given(st.text(max_size=200))
def test_no_text_breaks_a_parser(text: str) -> None:
    for task in TASKS.values():
        answer = task.parse(text)
        json.dumps(answer.value)
        assert isinstance(answer.text, str)


@pytest.mark.parametrize(
    "text",
    [
        "| a | b |\n|---|---|\n| 1 | 2 |",
        "The chart:\n\na | b\n--- | ---\n1 | 2\n\nThat is all.",
        "```\n| a | b |\n| :-- | --: |\n| 1 | 2 |\n```",
    ],
)
def test_models_ways_of_writing_a_table_are_read(text: str) -> None:
    assert chart.parse(text).value == {"charts": [{"columns": ["a", "b"], "rows": [["1", "2"]]}]}


def test_a_chart_answer_without_a_table_is_kept_and_flagged() -> None:
    answer = chart.parse("I see no chart.")

    assert (answer.text, answer.value, answer.flags) == ("I see no chart.", None, ("no_table",))


def test_a_decks_own_charts_become_tables_with_gaps() -> None:
    own = Chart(
        kind="line", title="T", categories=("x", "y"), series=(("s", (1.0, None)), ("t", (2.5,)))
    )

    answer = chart.read_native(Native(charts=(own,)))

    assert answer is not None
    assert answer.value["charts"][0]["rows"] == [["x", "1", "2.5"], ["y", "", ""]]


def test_a_decks_own_numbers_keep_all_of_their_digits() -> None:
    sales = (1234567.0, 1234.5678, 0.1, 2e9)
    own = Chart(kind="bar", title=None, categories=tuple("abcd"), series=(("s", sales),))

    answer = chart.read_native(Native(charts=(own,)))

    assert answer is not None
    cells = [cell for _, cell in answer.value["charts"][0]["rows"]]
    assert cells == ["1234567", "1234.5678", "0.1", "2000000000"]


def test_a_decks_own_points_need_no_labels() -> None:
    own = Chart(kind="bar", title=None, categories=("x",), series=(("s", (1.0, 2.0)),))

    answer = chart.read_native(Native(charts=(own,)))

    assert answer is not None
    assert answer.value["charts"][0]["rows"] == [["x", "1"], ["", "2"]]


def test_a_page_without_charts_gives_no_chart() -> None:
    assert chart.read_native(Native(text=("words",))) is None


def test_a_title_that_is_among_the_text_is_written_once() -> None:
    answer = native.read_native(Native(title="News", text=("Kicker", "News", "Tea is up.")))

    assert answer is not None
    assert answer.text == "Kicker\n\nNews\n\nTea is up."


def test_an_empty_page_is_flagged() -> None:
    answer = native.read_native(Native())

    assert answer is not None
    assert answer.flags == ("empty",)


def test_tasks_fit_the_kinds_of_asset_that_hold_their_segments() -> None:
    kinds = ("image", "deck", "audio", "text")
    assert {(task, kind) for task in TASKS for kind in kinds if fits(TASKS[task], kind)} == {
        ("summarise", "text"),
        ("ask", "text"),
        ("ocr", "image"),
        ("ocr", "deck"),
        ("caption", "image"),
        ("caption", "deck"),
        ("chart", "image"),
        ("chart", "deck"),
        ("native", "deck"),
        ("transcribe", "audio"),
    }


def test_a_task_without_a_question_of_its_own_has_to_be_given_one() -> None:
    with pytest.raises(ConfigError, match=r"tasks\.ask\.prompt: say what to ask"):
        questions({"ask": TaskConfig()}, TASKS)

    assert questions({"ask": TaskConfig(prompt="Who wrote it?")}, TASKS)["ask"].prompt


def test_a_task_whose_kinds_are_of_two_flows_is_refused() -> None:
    with pytest.raises(ValueError, match="task both is for vision, and passage is of text"):
        replace(TASKS["caption"], name="both", kinds=frozenset({"passage"}))
