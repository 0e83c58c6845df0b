"""What a page's file says of it, as text."""

import pytest

from phicorpus.media.segment import Chart, Native
from phicorpus.tasks import chart, native, ocr, page_text

TABLE = (("Item", "Cost"), ("Chair", "40"))
CHART = Chart(
    kind="bar",
    title="Revenue",
    categories=("North", "South"),
    series=(("Sales", (12.0, None)),),
    category_title="Region",
)
PAGE = Native(title="News", text=("News", "Up."), tables=(TABLE,), charts=(CHART,))
TABLE_TEXT = "| Item | Cost |\n| --- | --- |\n| Chair | 40 |"
CHART_TEXT = "Revenue\n\n| Region | Sales |\n| --- | --- |\n| North | 12 |\n| South |  |"


@pytest.mark.parametrize(
    ("title", "text", "written"),
    [
        ("Annual Report", ("Annual", "Report", "Up."), ["Annual Report", "Up."]),
        ("Annual Report", ("Up.", "ANNUAL  REPORT"), ["Up.", "Annual Report"]),
        (
            "Annual Report",
            ("Annual", "Up.", "Report"),
            ["Annual Report", "Annual", "Up.", "Report"],
        ),
        ("Annual Report", ("Ann\u00adual Re", "port", "Up."), ["Annual Report", "Up."]),
        ("The \ufb01rst", ("The first", "Up."), ["The \ufb01rst", "Up."]),
        ("News", ("News", "News"), ["News", "News"]),
        ("News", (), ["News"]),
        (None, ("Up.",), ["Up."]),
    ],
)
def test_a_title_is_said_once(title: str | None, text: tuple[str, ...], written: list[str]) -> None:
    assert page_text.paragraphs(Native(title=title, text=text)) == written


def test_a_row_of_the_files_own_content_has_text_tables_and_charts() -> None:
    answer = native.read_native(PAGE)

    assert answer is not None
    assert answer.text == f"News\n\nUp.\n\n{TABLE_TEXT}\n\n{CHART_TEXT}"


def test_text_alone_has_no_chart_and_a_chart_has_no_text() -> None:
    charts = chart.read_native(PAGE)

    assert ocr.read_native(PAGE).text == f"News\n\nUp.\n\n{TABLE_TEXT}"
    assert charts is not None
    assert charts.text == CHART_TEXT
    assert charts.value["charts"][0]["columns"] == ["Region", "Sales"]


def test_what_is_written_is_read_back() -> None:
    assert Native.from_json(PAGE.to_json()) == PAGE


def test_content_of_an_earlier_release_is_read() -> None:
    earlier = PAGE.to_json().replace(',"category_title":"Region","value_title":null', "")

    (read,) = Native.from_json(earlier).charts

    assert (read.title, read.category_title, read.value_title) == ("Revenue", None, None)
