"""The markup of OpenDocument: white space, cells, and charts that LibreOffice did not write."""

import io
import zipfile

import pytest

from phicorpus.config import DeckConfig
from phicorpus.media.charts import odf_chart
from phicorpus.media.decks import odp
from phicorpus.media.office.odf import NAMES, parsed, styles, text_lines
from phicorpus.media.segment import Chart

DECLARED = " ".join(f'xmlns:{prefix}="{space}"' for prefix, space in NAMES.items())


@pytest.mark.parametrize(
    ("markup", "lines"),
    [
        ("Annual<text:line-break/>Report", ("Annual", "Report")),
        ("Name<text:tab/>Value", ("Name Value",)),
        ('a<text:s text:c="3"/>b', ("a   b",)),
        ('a<text:s text:c="99999999999"/>b', ("a" + " " * 256 + "b",)),
        ('a<text:s text:c="many"/>b', ("a b",)),
        ("one<text:soft-page-break/>two", ("one two",)),
        ("one <text:soft-page-break/> two", ("one two",)),
        ("in\n   the\tmarkup", ("in the markup",)),
        ("<text:span>a</text:span><text:span>b</text:span> c", ("ab c",)),
        ("<text:a>link</text:a>ed<!-- not --> text", ("linked text",)),
        ("said<office:annotation><text:p>a comment</text:p></office:annotation>", ("said",)),
        ("<text:span><text:span>deep<text:line-break/></text:span></text:span>er", ("deep", "er")),
    ],
)
def test_white_space_that_is_an_element_is_white_space(markup: str, lines: tuple[str, ...]) -> None:
    box = parsed(f"<draw:text-box {DECLARED}><text:p>{markup}</text:p></draw:text-box>".encode())

    assert text_lines(box) == lines


def test_markup_deeper_than_calls_may_go_is_read() -> None:
    deep = "<text:span>" * 200 + "deep" + "</text:span>" * 200

    box = parsed(f"<draw:text-box {DECLARED}><text:p>{deep}</text:p></draw:text-box>".encode())

    assert text_lines(box) == ("deep",)


@pytest.mark.parametrize(
    ("style", "kind", "units"),
    [
        ("<number:date-style {}><number:year/></number:date-style>", "date", "mm"),
        (
            "<number:date-style {}><number:day/><number:hours/></number:date-style>",
            "datetime",
            "hm",
        ),
        (
            "<number:time-style {}><number:hours/><number:minutes/></number:time-style>",
            "time",
            "hm",
        ),
        (
            '<number:time-style number:truncate-on-overflow="false" {}><number:hours/>'
            "<number:minutes/></number:time-style>",
            "elapsed",
            "hm",
        ),
        ("<number:percentage-style {}/>", "percent", "mm"),
    ],
)
def test_styles_of_numbers_are_read(style: str, kind: str, units: str) -> None:
    named = style.format('style:name="N1"')
    root = parsed(f"<a {DECLARED}>{named}</a>".encode())

    assert (styles(root)["N1"].kind, styles(root)["N1"].units) == (kind, units)


def a_row(*cells: str | float) -> str:
    held = (
        f'<table:table-cell office:value="{cell}"/>'
        if isinstance(cell, float)
        else f"<table:table-cell><text:p>{cell}</text:p></table:table-cell>"
        for cell in cells
    )
    return f"<table:table-row>{''.join(held)}</table:table-row>"


def a_chart(series: str, *rows: str, kind: str = "bar", axis: str = "") -> Chart:
    (chart,) = odf_chart.read(
        parsed(
            f'<office:chart {DECLARED}><chart:chart chart:class="chart:{kind}"><chart:plot-area>'
            f'<chart:axis chart:dimension="x">{axis}</chart:axis>{series}</chart:plot-area>'
            f"<table:table>{''.join(rows)}</table:table></chart:chart></office:chart>".encode()
        ),
        None,
        DeckConfig(),
    ).charts
    return chart


CATEGORIES = '<chart:categories table:cell-range-address="{}"/>'
SERIES = (
    '<chart:series chart:values-cell-range-address="{}" chart:label-cell-address="{}"'
    ' chart:class="chart:{}"/>'
)


def test_a_series_says_which_cells_are_its_own() -> None:
    chart = a_chart(
        SERIES.format("'a table'.$C$2:'a table'.$C$3", "'a table'.C1", "line"),
        a_row("", "not plotted", "Sales"),
        a_row("North", 1.0, 2.0),
        a_row("South", 3.0, 4.0),
        axis=CATEGORIES.format("local-table.A2:.A3"),
    )

    assert (chart.kind, chart.categories) == ("line", ("North", "South"))
    assert chart.series == (("Sales", (2.0, 4.0)),)


def test_series_may_lie_in_rows_and_nested_categories_in_several_columns() -> None:
    chart = a_chart(
        SERIES.format("t.$B$3:.$D$3", "t.$A$3", "bar"),
        a_row("", "2023", "", "2024"),
        a_row("", "H1", "H2", "H1"),
        a_row("Sales", 1.0, "#N/A", 3.0),
        axis=CATEGORIES.format("t.$B$1:.$D$2"),
    )

    assert chart.categories == ("2023 / H1", "2023 / H2", "2024 / H1")
    assert chart.series == (("Sales", (1.0, None, 3.0)),)


def test_a_table_without_series_gives_its_columns() -> None:
    chart = a_chart("", a_row("", "A"), a_row("x", 1.0), a_row("y", "NaN"), kind="circle")

    assert (chart.kind, chart.categories, chart.series) == (
        "pie",
        ("x", "y"),
        (("A", (1.0, None)),),
    )


def an_odp(chart: str, table: str = "") -> bytes:
    page = (
        f'<a {DECLARED}><draw:page>{table}<draw:frame><draw:object xlink:href="./Object 1"/>'
        "</draw:frame></draw:page></a>"
    )
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        archive.writestr("content.xml", page)
        archive.writestr("Object 1/content.xml", f"<b {DECLARED}>{chart}</b>")
    return target.getvalue()


@pytest.mark.parametrize(
    "inside",
    [
        "",
        "<table:table/>",
        '<chart:series chart:values-cell-range-address="t.A1:.XFD9999999"/>',
        '<chart:series chart:values-cell-range-address="t.$B$2:.$B$9"/>',
        '<chart:series chart:values-cell-range-address="nonsense"/>',
    ],
)
def test_a_chart_without_numbers_or_with_too_many_is_flagged(inside: str) -> None:
    (extras,) = odp.extras(an_odp(f"<chart:chart>{inside}</chart:chart>"))

    assert (extras.charts, extras.flags) == ((), ("chart_unreadable",))


def test_an_object_that_is_no_chart_is_no_broken_chart() -> None:
    (extras,) = odp.extras(an_odp("<office:text/>"))

    assert (extras.charts, extras.flags) == ((), ())


def test_a_table_of_too_many_cells_is_flagged_and_the_slide_stands() -> None:
    table = f"<table:table>{a_row('a', 'b')}</table:table>"

    (extras,) = odp.extras(an_odp("<office:text/>", table), DeckConfig(max_table_cells=1))

    assert (extras.tables, extras.flags) == ((), ("native_incomplete",))


def test_attributes_that_are_no_numbers_cost_themselves_alone() -> None:
    table = (
        '<table:table><table:table-row><table:table-cell table:number-columns-repeated="x" '
        'office:value="y"><text:p>a</text:p></table:table-cell></table:table-row></table:table>'
    )

    (extras,) = odp.extras(an_odp("<office:text/>", table))

    assert extras.tables == ((("a",),),)
