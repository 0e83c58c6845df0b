"""Small decks, each one of a kind that was read wrongly: what must come out of them."""

from pathlib import Path

import pytest

from phicorpus.media.decks import libreoffice, odp, pptx
from phicorpus.media.segment import Chart, Native, Segment
from phicorpus.tasks import native
from tests.media.builders import outcomes

FOLDER = Path(__file__).parent.parent.parent / "fixtures" / "field" / "decks"


def content(name: str) -> bytes:
    return (FOLDER / name).read_bytes()


def natives(name: str) -> list[Native]:
    slides = pptx.slides(content(name))
    assert all(slide.flags == () for slide in slides)
    return [slide.native for slide in slides if slide.native]


def the_chart(name: str) -> Chart:
    if name.endswith(".odp"):
        (extras,) = odp.extras(content(name))
        (chart,) = extras.charts
        return chart
    (own,) = natives(name)
    (chart,) = own.charts
    return chart


@pytest.mark.parametrize(
    ("name", "title", "categories", "series"),
    [
        (
            "chart_bar3d.pptx",
            None,
            ("North", "South", "West"),
            (("Sales", (12.0, 7.5, 9.0)), ("Costs", (5.0, 6.0, 7.0))),
        ),
        (
            "chart_na_point.pptx",
            "Sales",
            ("North", "South", "East"),
            (("Sales", (12.0, None, 7.0)),),
        ),
        ("chart_without_cache.pptx", "Sales", ("North", "South"), (("Sales", (12.0, 7.0)),)),
        (
            "chart_title_by_reference.pptx",
            "Revenue by region",
            ("North", "South"),
            (("Sales", (12.0, 7.0)),),
        ),
        ("chart_series_literal_name.pptx", "Sales", ("North", "South"), (("Sales", (12.0, 7.0)),)),
        (
            "chart_time_of_day.pptx",
            "Visitors",
            ("09:00", "12:00", "15:00"),
            (("Visitors", (3.0, 4.0, 5.0)),),
        ),
        (
            "chart_dates.odp",
            "Load",
            ("2024-01-31", "2024-02-29", "2024-03-31"),
            (("Load", (3.0, 4.0, 5.0)),),
        ),
        (
            "chartex_waterfall.pptx",
            None,
            ("Start", "Sales", "Costs"),
            (("Cash", (100.0, 20.0, -50.0)),),
        ),
    ],
)
def test_a_chart_is_read_whole(
    name: str, title: str | None, categories: tuple[str, ...], series: object
) -> None:
    chart = the_chart(name)

    assert chart.categories == categories
    assert chart.series == series
    assert chart.title == title


def test_series_over_their_own_x_values_are_two_charts_in_an_odp_too() -> None:
    (extras,) = odp.extras(content("chart_scatter.odp"))

    assert [(chart.kind, chart.categories, chart.series) for chart in extras.charts] == [
        ("scatter", ("1", "3"), (("Run 1", (2.0, 4.5)),)),
        ("scatter", ("10", "20"), (("Run 2", (1.0, 2.0)),)),
    ]


@pytest.mark.parametrize(
    ("name", "texts"),
    [
        (
            "fractional_coordinates.pptx",
            [("Title 1", "Good text of slide one"), ("Title 2", "Good text of slide two")],
        ),
        ("strict_ooxml.pptx", [("Title 1", "Good text of slide one"), ("Title 2", "Second")]),
        (
            "no_content_type_for_png.pptx",
            [(f"Title {n + 1}", f"Body words {n}") for n in range(3)],
        ),
        (
            "soft_breaks.pptx",
            [("Annual", "Report", "line one", "line two"), ("Annual", "Report"), ("Title 3",)],
        ),
    ],
)
def test_text_is_read_whole(name: str, texts: list[tuple[str, ...]]) -> None:
    assert [own.text for own in natives(name)] == texts


def test_a_table_with_a_formula_is_a_table() -> None:
    (own,) = natives("table_with_formula.pptx")

    assert own.tables == ((("Name", "Value"), ("Area", "12 x+1")),)
    assert own.text == ("Title 1",)


def test_white_space_of_an_odp_is_white_space() -> None:
    first, _, third = odp.extras(content("line_break_and_tab.odp"))

    assert first.title == "Annual Report"
    assert third.tables[0][0][0] == "a b"
    assert third.tables[0][1][1] == "Name Value end"


@pytest.mark.skipif(libreoffice.find_soffice() is None, reason="LibreOffice is not installed")
def test_what_is_rendered_says_each_title_once_and_names_a_chart_that_is_not_drawn() -> None:
    names = ("soft_breaks.pptx", "line_break_and_tab.odp", "chartex_waterfall.pptx")

    broken, lines, waterfall = (
        [segment for segment in outcome if isinstance(segment, Segment)]
        for outcome in outcomes(*map(content, names))
    )

    for segment in (broken[0], lines[0]):
        assert segment.native is not None
        answer = native.read_native(segment.native)
        assert answer is not None
        assert answer.text.count("Annual") == 1
        assert answer.text.startswith("Annual Report\n\n")
    assert "chart_not_rendered" in waterfall[0].flags
