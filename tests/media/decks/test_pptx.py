import datetime
import io

import pytest
from pptx import Presentation
from pptx.chart.data import BubbleChartData, CategoryChartData, XyChartData
from pptx.enum.chart import XL_CHART_TYPE
from pptx.util import Inches

from phicorpus.errors import DecodeError
from phicorpus.media.decks import pptx
from phicorpus.media.segment import Chart, Native
from tests.media.builders import (
    TITLE_ONLY,
    a_deck,
    add_chart,
    chart_data,
    deck_bytes,
    member,
    with_members,
)

A = "http://schemas.openxmlformats.org/drawingml/2006/main"
SLIDE = "ppt/slides/slide1.xml"
CHART_PART = "ppt/charts/chart{}.xml"


def chart_part(content: bytes) -> str:
    """The first chart's name."""
    names = (CHART_PART.format(number) for number in range(1, 99))
    return next(name for name in names if _has(content, name))


def the_native(content: bytes) -> Native:
    (slide,) = pptx.slides(content)
    assert slide.native is not None
    return slide.native


def test_titles_hidden_slides_and_their_order_are_read() -> None:
    slides = pptx.slides(a_deck("One", "Two", "Three", hidden=[1]))

    assert [slide.native.title for slide in slides if slide.native] == ["One", "Two", "Three"]
    assert [slide.hidden for slide in slides] == [False, True, False]


def test_text_is_in_reading_order_and_groups_are_entered() -> None:
    deck = Presentation()
    slide = deck.slides.add_slide(deck.slide_layouts[TITLE_ONLY])
    for words, left, top in (("bottom", 1, 6), ("right", 5, 3), ("left", 1, 3.1)):
        box = slide.shapes.add_textbox(Inches(left), Inches(top), Inches(2), Inches(1))
        box.text_frame.text = words
    inner = slide.shapes.add_group_shape().shapes.add_group_shape()
    box = inner.shapes.add_textbox(Inches(1), Inches(5), Inches(2), Inches(1))
    box.text_frame.text = "deep\nlines"
    unseen = slide.shapes.add_textbox(Inches(1), Inches(4), Inches(2), Inches(1))
    unseen.text_frame.text = "unseen"
    unseen._element.xpath("./*/p:cNvPr")[0].set("hidden", "1")
    assert slide.shapes.title is not None
    slide.shapes.title.text = "The title"
    slide.notes_slide.notes_text_frame.text = "say\nthis"  # type: ignore[union-attr]

    native = the_native(deck_bytes(deck))

    assert native.title == "The title"
    assert native.text == ("The title", "left", "right", "deep", "lines", "bottom")
    assert native.notes == "say\nthis"


def test_what_lies_beside_the_slide_is_left_out_and_bent_letters_are_marked() -> None:
    deck = Presentation()
    slide = deck.slides.add_slide(deck.slide_layouts[TITLE_ONLY])
    beside = slide.shapes.add_textbox(Inches(-5), Inches(1), Inches(2), Inches(1))
    beside.text_frame.text = "beside"
    bent = slide.shapes.add_textbox(Inches(1), Inches(1), Inches(2), Inches(1))
    bent.text_frame.text = "bent"
    body = bent.text_frame._txBody.bodyPr
    body.append(body.makeelement(f"{{{A}}}prstTxWarp", {"prst": "textWave1"}))

    (found,) = pptx.slides(deck_bytes(deck))

    assert found.native is not None
    assert found.native.text == ("bent",)
    assert found.drawn_text == ("bent",)


def test_text_beside_formulas_is_read() -> None:
    content = a_deck("One")
    mc = "http://schemas.openxmlformats.org/markup-compatibility/2006"
    m = "http://schemas.openxmlformats.org/officeDocument/2006/math"
    shape = (
        f'<mc:AlternateContent xmlns:mc="{mc}"><mc:Choice Requires="a14"><p:sp><p:txBody><a:p><a:r>'
        f'<a:t>where </a:t></a:r><m:r xmlns:m="{m}"><m:t>E=mc²</m:t></m:r></a:p></p:txBody></p:sp>'
        "</mc:Choice><mc:Fallback/></mc:AlternateContent></p:spTree>"
    )
    slide = member(content, SLIDE).replace(b"</p:spTree>", shape.encode())

    assert the_native(with_members(content, {SLIDE: slide})).text == ("One", "where E=mc²")


def test_a_broken_shape_does_not_lose_the_rest_of_its_slide() -> None:
    deck = Presentation(io.BytesIO(a_deck("One")))
    table = deck.slides[0].shapes.add_table(1, 1, Inches(1), Inches(2), Inches(4), Inches(1)).table
    table.cell(0, 0).text = "lost"
    content = deck_bytes(deck)
    slide = member(content, SLIDE).replace(b"a:tbl>", b"a:other>")

    (found,) = pptx.slides(with_members(content, {SLIDE: slide}))

    assert found.flags == ("native_incomplete",)
    assert found.native is not None
    assert found.native.text == ("One",)


def test_tables_are_read_cell_by_cell() -> None:
    deck = Presentation()
    slide = deck.slides.add_slide(deck.slide_layouts[TITLE_ONLY])
    table = slide.shapes.add_table(2, 2, Inches(1), Inches(2), Inches(4), Inches(1)).table
    for row in range(2):
        for column in range(2):
            table.cell(row, column).text = f"{row}\n{column}"

    assert the_native(deck_bytes(deck)).tables == ((("0 0", "0 1"), ("1 0", "1 1")),)


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (XL_CHART_TYPE.COLUMN_CLUSTERED, "bar"),
        (XL_CHART_TYPE.BAR_STACKED, "bar"),
        (XL_CHART_TYPE.LINE_MARKERS, "line"),
        (XL_CHART_TYPE.AREA, "area"),
        (XL_CHART_TYPE.RADAR, "radar"),
        (XL_CHART_TYPE.DOUGHNUT, "doughnut"),
    ],
)
def test_charts_give_their_data_with_gaps(kind: XL_CHART_TYPE, name: str) -> None:
    deck = Presentation()
    add_chart(deck.slides.add_slide(deck.slide_layouts[TITLE_ONLY]), kind)

    (chart,) = the_native(deck_bytes(deck)).charts

    assert chart == Chart(
        kind=name,
        title=None,
        categories=("East", "West"),
        series=(("2023", (1.5, None)), ("2024", (2.0, 4.0))),
    )


def test_a_chart_title_and_nested_categories_are_read() -> None:
    deck = Presentation()
    slide = deck.slides.add_slide(deck.slide_layouts[TITLE_ONLY])
    data = CategoryChartData()
    for year in ("2023", "2024"):
        data.add_category(year).add_sub_category("H1")
    data.add_series("Sales", (1, 2))
    box = (Inches(1), Inches(2), Inches(4), Inches(3))
    chart = slide.shapes.add_chart(XL_CHART_TYPE.LINE, *box, chart_data(data)).chart  # type: ignore[attr-defined]
    chart.has_title = True
    chart.chart_title.text_frame.text = "Sales\nby year"

    (found,) = the_native(deck_bytes(deck)).charts

    assert found.title == "Sales by year"
    assert found.categories == ("2023 / H1", "2024 / H1")


def test_scatter_series_over_different_x_are_charts_of_their_own() -> None:
    deck = Presentation()
    slide = deck.slides.add_slide(deck.slide_layouts[TITLE_ONLY])
    scatter = XyChartData()
    for name, points in (("a", ((1, 10), (2, 20))), ("b", ((3, 30),))):
        series = scatter.add_series(name)
        for point in points:
            series.add_data_point(*point)
    bubble = BubbleChartData()
    bubble.add_series("c").add_data_point(5, 6, 7)
    box = (Inches(1), Inches(2), Inches(4), Inches(3))
    slide.shapes.add_chart(XL_CHART_TYPE.XY_SCATTER, *box, chart_data(scatter))
    slide.shapes.add_chart(XL_CHART_TYPE.BUBBLE, *box, chart_data(bubble))

    charts = the_native(deck_bytes(deck)).charts

    assert [(chart.kind, chart.categories, chart.series) for chart in charts] == [
        ("scatter", ("1", "2"), (("a", (10.0, 20.0)),)),
        ("scatter", ("3",), (("b", (30.0,)),)),
        ("bubble", ("5",), (("c", (6.0,)), ("c (size)", (7.0,)))),
    ]


def test_a_gap_in_a_scatter_moves_no_point() -> None:
    deck = Presentation()
    slide = deck.slides.add_slide(deck.slide_layouts[TITLE_ONLY])
    data = XyChartData()
    series = data.add_series("a")
    for point in ((1, 10), (2, 20), (3, 30)):
        series.add_data_point(*point)
    box = (Inches(1), Inches(2), Inches(4), Inches(3))
    slide.shapes.add_chart(XL_CHART_TYPE.XY_SCATTER, *box, chart_data(data))
    content = deck_bytes(deck)
    part = chart_part(content)
    before, _, after = member(content, part).partition(b'<c:pt idx="1">')
    gap = before + after.partition(b"</c:pt>")[2]

    (found,) = the_native(with_members(content, {part: gap})).charts

    assert found.categories == ("1", "", "3")
    assert found.series == (("a", (10.0, 20.0, 30.0)),)


@pytest.mark.parametrize("calendar", [1900, 1904])
def test_dates_on_an_axis_are_dates_and_not_numbers_of_days(calendar: int) -> None:
    deck = Presentation()
    slide = deck.slides.add_slide(deck.slide_layouts[TITLE_ONLY])
    data = CategoryChartData()
    data.categories = [datetime.date(2020, 1, 1), datetime.date(2020, 2, 1)]
    data.add_series("Sales", (1, 2))
    box = (Inches(1), Inches(2), Inches(4), Inches(3))
    slide.shapes.add_chart(XL_CHART_TYPE.LINE, *box, chart_data(data))
    content = deck_bytes(deck)
    part = chart_part(content)
    markup = member(content, part)
    if calendar == 1904:
        markup = markup.replace(b'date1904 val="0"', b'date1904 val="1"')
        markup = markup.replace(b"43831", b"42369").replace(b"43862", b"42400")

    (found,) = the_native(with_members(content, {part: markup})).charts

    assert found.categories == ("2020-01-01", "2020-02-01")


def test_a_broken_chart_loses_neither_its_slide_nor_the_others() -> None:
    content = a_deck("One", "Two", chart=True)
    part = chart_part(content)
    broken = member(content, part).replace(b"<c:v>2.0</c:v>", b"<c:v>two</c:v>")
    broken = broken.replace(b"<c:v>2</c:v>", b"<c:v>two</c:v>")

    slides = pptx.slides(with_members(content, {part: broken}))

    assert sorted(slide.flags for slide in slides) == [(), ("chart_unreadable",)]
    assert [slide.native.title for slide in slides if slide.native] == ["One", "Two"]


def test_a_broken_slide_does_not_lose_the_others() -> None:
    content = a_deck("One", "Two")
    slide = member(content, SLIDE)

    slides = pptx.slides(with_members(content, {SLIDE: slide.replace(b"p:cSld", b"p:other")}))

    assert [slide.flags for slide in slides] == [("native_unreadable",), ()]


def test_smart_art_text_is_read() -> None:
    content = a_deck("One")
    dgm = "http://schemas.openxmlformats.org/drawingml/2006/diagram"
    r = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
    frame = (
        '<p:graphicFrame><p:nvGraphicFramePr><p:cNvPr id="9" name="d"/><p:cNvGraphicFramePr/>'
        "<p:nvPr/></p:nvGraphicFramePr><p:xfrm><a:off x='0' y='5000000'/><a:ext cx='9' cy='9'/>"
        f'</p:xfrm><a:graphic><a:graphicData uri="{dgm}"><dgm:relIds xmlns:dgm="{dgm}" '
        f'xmlns:r="{r}" r:dm="rId77"/></a:graphicData></a:graphic></p:graphicFrame></p:spTree>'
    )
    data = (
        f'<dgm:dataModel xmlns:dgm="{dgm}" xmlns:a="{A}"><a:p><a:r><a:t>step </a:t></a:r><a:r>'
        "<a:t>one</a:t></a:r></a:p></dgm:dataModel>"
    )
    rels = "ppt/slides/_rels/slide1.xml.rels"
    link = f'<Relationship Id="rId77" Type="{r}/diagramData" Target="../diagrams/data1.xml"/>'
    types = member(content, "[Content_Types].xml")
    override = (
        b'<Override PartName="/ppt/diagrams/data1.xml" ContentType='
        b'"application/vnd.openxmlformats-officedocument.drawingml.diagramData+xml"/></Types>'
    )
    slide = member(content, SLIDE)

    native = the_native(
        with_members(
            content,
            {
                SLIDE: slide.replace(b"</p:spTree>", frame.encode()),
                rels: member(content, rels).replace(
                    b"</Relationships>", f"{link}</Relationships>".encode()
                ),
                "ppt/diagrams/data1.xml": data.encode(),
                "[Content_Types].xml": types.replace(b"</Types>", override),
            },
        )
    )

    assert native.text == ("One", "step one")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"PK\x03\x04",
        a_deck("x")[:3000],
        deck_bytes(Presentation()),
        with_members(a_deck("x"), {"ppt/presentation.xml": b"<a/>"}),
        with_members(a_deck("x"), {"ppt/presentation.xml": b"<a>"}),
    ],
)
def test_what_is_no_presentation_is_an_error(content: bytes) -> None:
    with pytest.raises(DecodeError):
        pptx.slides(content)


def _has(content: bytes, name: str) -> bool:
    try:
        member(content, name)
    except KeyError:
        return False
    return True
