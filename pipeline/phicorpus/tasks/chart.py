"""Turn a chart into the table behind it."""

from __future__ import annotations

import json
from dataclasses import replace

from phicorpus.errors import AnswerError
from phicorpus.media.segment import Native
from phicorpus.tasks import markdown, page_text
from phicorpus.tasks.task import Answer, Task


def parse(text: str) -> Answer:
    r"""Read the Markdown table in an answer; an answer without one is kept and flagged.

    Example:
        >>> parse("| year | sales |\n|---|---|\n| 2024 | 7 |").value
        {'charts': [{'columns': ['year', 'sales'], 'rows': [['2024', '7']]}]}
        >>> parse("There is no chart.").flags
        ('no_table',)
    """
    found = markdown.read_table(text)
    if found is None:
        return Answer(text=text.strip(), flags=("no_table",))
    columns, rows = found
    return Answer(text=text.strip(), value={"charts": [{"columns": columns, "rows": rows}]})


def parse_json(text: str) -> Answer:
    """Read an answer that was held to the schema: the table as text, and the chart as value.

    Raises:
        AnswerError: it was cut before its end.

    Example:
        >>> parse_json('{"title": "Q", "columns": ["year", "sales"], "rows": [["2024"]]}').value
        {'charts': [{'title': 'Q', 'columns': ['year', 'sales'], 'rows': [['2024', '']]}]}
    """
    try:
        chart = json.loads(text)
    except json.JSONDecodeError as error:
        raise AnswerError(f"the JSON is cut off after {len(text)} characters") from error
    columns: list[str] = chart["columns"]
    width = len(columns)
    rows: list[list[str]] = [(row + [""] * width)[:width] for row in chart["rows"]]
    value = {"charts": [{"title": chart["title"], "columns": columns, "rows": rows}]}
    return Answer(text=markdown.table(columns, rows), value=value)


def read_native(native: Native) -> Answer | None:
    """Return the charts that the deck defines itself; None where the page has none."""
    if not native.charts:
        return None
    charts: list[dict[str, object]] = []
    for chart in native.charts:
        columns, rows = page_text.chart_table(chart)
        charts.append({"kind": chart.kind, "title": chart.title, "columns": columns, "rows": rows})
    return Answer(text="\n\n".join(page_text.charts(native)), value={"charts": charts})


def _strings(most: int, longest: int) -> dict[str, object]:
    return {
        "type": "array",
        "minItems": 1,
        "maxItems": most,
        "items": {"type": "string", "maxLength": longest},
    }


# Bounded, so that no answer grows without end: llguidance holds the model to it.
SCHEMA = {
    "type": "object",
    "properties": {
        "title": {"type": "string", "maxLength": 120},
        "columns": _strings(12, 60),
        "rows": {"type": "array", "maxItems": 60, "items": _strings(12, 60)},
    },
    "required": ["title", "columns", "rows"],
    "additionalProperties": False,
}

_FREE = Task(
    name="chart",
    version=1,
    kinds=frozenset({"image", "page"}),
    modality="vision",
    prompt="Convert the chart into a Markdown table.",
    max_new_tokens=512,
    parse=parse,
    read_native=read_native,
    may_be_empty=False,
    demo_tokens=64,
)

CHART = replace(
    _FREE,
    guided=replace(
        _FREE,
        prompt="Convert the chart into JSON with its title, its columns and its rows.",
        max_new_tokens=1024,
        parse=parse_json,
        json_schema=json.dumps(SCHEMA),
    ),
)
