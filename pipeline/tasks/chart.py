"""Turn a chart into the table behind it."""

from __future__ import annotations

from pipeline.media.piece import Native
from pipeline.tasks import markdown
from pipeline.tasks.task import Answer, Task


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


def from_native(native: Native) -> Answer | None:
    """Give the charts that the deck defines itself; None where the page has none."""
    if not native.charts:
        return None
    charts: list[dict[str, object]] = []
    tables: list[str] = []
    for chart in native.charts:
        columns = ["", *(name for name, _ in chart.series)]
        rows = [
            [label, *(_cell(points, i) for _, points in chart.series)]
            for i, label in enumerate(chart.categories)
        ]
        charts.append({"kind": chart.kind, "title": chart.title, "columns": columns, "rows": rows})
        tables.append(markdown.table(columns, rows))
    return Answer(text="\n\n".join(tables), value={"charts": charts})


def _cell(points: tuple[float | None, ...], i: int) -> str:
    point = points[i] if i < len(points) else None
    return "" if point is None else f"{point:g}"


CHART = Task(
    name="chart",
    version=1,
    kinds=frozenset({"image", "page"}),
    modality="vision",
    prompt="Convert the chart into a Markdown table.",
    max_new_tokens=512,
    parse=parse,
    from_native=from_native,
    may_be_empty=False,
)
