"""Charts of a PPTX, read from their own XML."""

import io
import re
import zipfile
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pptx import Presentation
from pptx.chart.data import BubbleChartData, CategoryChartData
from pptx.enum.chart import XL_CHART_TYPE
from pptx.util import Inches

from phicorpus.config import DeckConfig
from phicorpus.media.charts.workbook import areas
from phicorpus.media.decks import pptx
from phicorpus.media.decks.pptx import Slide
from phicorpus.media.segment import Chart
from tests.media.builders import TITLE_ONLY, chart_data, deck_bytes, member, with_members

BOX = (Inches(1), Inches(2), Inches(4), Inches(3))
CX = "http://schemas.microsoft.com/office/drawing/2014/chartex"
A = "http://schemas.openxmlformats.org/drawingml/2006/main"
EDIT = Callable[[str], str]


def a_chart(
    kind: XL_CHART_TYPE = XL_CHART_TYPE.COLUMN_CLUSTERED,
    data: CategoryChartData | BubbleChartData | None = None,
) -> bytes:
    """A deck with one chart: East and West, 2023 and 2024."""
    if data is None:
        data = CategoryChartData()
        data.categories = ["East", "West"]
        data.add_series("2023", (1.5, 2))
        data.add_series("2024", (3, 4))
    deck = Presentation()
    slide = deck.slides.add_slide(deck.slide_layouts[TITLE_ONLY])
    slide.shapes.add_chart(kind, *BOX, chart_data(data))
    return deck_bytes(deck)


def part_of(content: bytes, folder: str) -> str:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return next(name for name in archive.namelist() if name.startswith(folder))


def edited(content: bytes, *changes: tuple[str, str]) -> bytes:
    """Change the chart's XML, each change a regular expression that must be found."""
    part = part_of(content, "ppt/charts/chart")
    markup = member(content, part).decode()
    for found, instead in changes:
        assert re.search(found, markup, re.DOTALL), found
        markup = re.sub(found, instead, markup, flags=re.DOTALL)
    return with_members(content, {part: markup.encode()})


def without_caches(content: bytes) -> bytes:
    return edited(content, (r"<c:(str|num|multiLvlStr)Cache>.*?</c:\1Cache>", ""))


def the_slide(content: bytes, config: DeckConfig | None = None) -> Slide:
    (slide,) = pptx.slides(content, config)
    return slide


def the_chart(content: bytes) -> Chart:
    slide = the_slide(content)
    assert slide.flags == ()
    assert slide.native is not None
    (chart,) = slide.native.charts
    return chart


BOTH = (("2023", (1.5, 2.0)), ("2024", (3.0, 4.0)))


@pytest.mark.parametrize(
    ("element", "kind"),
    [
        ("bar3DChart", "bar"),
        ("lineChart", "line"),
        ("line3DChart", "line"),
        ("pieChart", "pie"),
        ("pie3DChart", "pie"),
        ("ofPieChart", "pie"),
        ("doughnutChart", "doughnut"),
        ("areaChart", "area"),
        ("area3DChart", "area"),
        ("radarChart", "radar"),
        ("stockChart", "stock"),
        ("surfaceChart", "surface"),
        ("surface3DChart", "surface"),
        ("unheardOfChart", "unheardOf"),
    ],
)
def test_every_kind_of_chart_is_read_alike(element: str, kind: str) -> None:
    chart = the_chart(edited(a_chart(), ("c:barChart>", f"c:{element}>")))

    assert (chart.kind, chart.categories, chart.series) == (kind, ("East", "West"), BOTH)


def test_kinds_that_share_their_categories_are_one_chart() -> None:
    line = r"</c:ser></c:barChart><c:lineChart>\1<c:axId val='3'/><c:axId val='4'/></c:lineChart>"
    second = r"</c:ser>\s*(<c:ser>(?:(?!<c:ser>).)*?</c:ser>).*?</c:barChart>"

    chart = the_chart(edited(a_chart(), (second, line)))

    assert (chart.kind, chart.categories, chart.series) == ("bar+line", ("East", "West"), BOTH)


@pytest.mark.parametrize("text", ["#N/A", "#DIV/0!", "#REF!", "NaN"])
def test_a_point_that_is_no_number_is_a_gap_of_that_point_alone(text: str) -> None:
    chart = the_chart(edited(a_chart(), ("<c:v>1.5</c:v>", f"<c:v>{text}</c:v>")))

    assert chart.series == (("2023", (None, 2.0)), BOTH[1])


def test_a_damaged_number_is_a_gap_and_flagged() -> None:
    slide = the_slide(edited(a_chart(), ("<c:v>1.5</c:v>", "<c:v>one</c:v>")))

    assert slide.flags == ("chart_unreadable",)
    assert slide.native is not None
    assert slide.native.charts[0].series == (("2023", (None, 2.0)), BOTH[1])


def test_a_point_that_is_missing_is_a_gap_and_moves_no_other() -> None:
    chart = the_chart(edited(a_chart(), (r'<c:pt idx="0">\s*<c:v>1.5</c:v>\s*</c:pt>', "")))

    assert chart.series == (("2023", (None, 2.0)), BOTH[1])


def test_the_sizes_of_bubbles_are_a_series_of_their_own() -> None:
    data = BubbleChartData()
    series = data.add_series("Firms")
    series.add_data_point(1, 2, 3)
    series.add_data_point(4, 5, 6)

    chart = the_chart(a_chart(XL_CHART_TYPE.BUBBLE, data))

    assert chart.categories == ("1", "4")
    assert chart.series == (("Firms", (2.0, 5.0)), ("Firms (size)", (3.0, 6.0)))


def test_a_chart_of_one_series_is_called_like_it_unless_its_title_was_deleted() -> None:
    data = CategoryChartData()
    data.categories = ["East"]
    data.add_series("Sales", (1,))
    content = a_chart(data=data)
    deleted = edited(content, ('autoTitleDeleted val="0"', 'autoTitleDeleted val="1"'))

    assert [the_chart(one).title for one in (content, deleted)] == ["Sales", None]
    assert the_chart(a_chart()).title is None


def test_titles_of_axes_are_read_and_no_label_has_a_control_character() -> None:
    def title(text: str) -> str:
        rich = f"<c:rich><a:p xmlns:a='{A}'><a:r><a:t>{text}</a:t></a:r><a:br/></a:p></c:rich>"
        return rf"\1<c:title><c:tx>{rich}</c:tx></c:title>"

    content = edited(
        a_chart(),
        (r"(<c:catAx>\s*<c:axId[^>]*/>)", title("Region")),
        (r"(<c:valAx>\s*<c:axId[^>]*/>)", title("EUR")),
        ("<c:v>East</c:v>", "<c:v>Ea\tst_x000B_\n side</c:v>"),
    )

    chart = the_chart(content)

    assert (chart.category_title, chart.value_title) == ("Region", "EUR")
    assert chart.categories == ("Ea st side", "West")


@pytest.mark.parametrize(
    ("code", "value", "label"),
    [("h:mm", 0.375, "09:00"), ("0%", 0.1, "10%"), ("General", 2.0, "2"), ("[h]:mm", 1.5, "36:00")],
)
def test_labels_are_written_as_the_axis_shows_them(code: str, value: float, label: str) -> None:
    data = CategoryChartData()
    data.categories = [value]
    data.categories.number_format = code  # type: ignore[attr-defined]
    data.add_series("A", (1,))
    linked = a_chart(data=data)
    own = edited(
        linked,
        (r"<c:formatCode>[^<]*</c:formatCode>", "<c:formatCode>0.000</c:formatCode>"),
        (
            r"(<c:catAx>\s*<c:axId[^>]*/>)",
            rf'\1<c:numFmt formatCode="{code}" sourceLinked="0"/>',
        ),
    )

    assert the_chart(linked).categories == (label,)
    assert the_chart(own).categories == (label,)


def test_what_is_not_cached_comes_from_the_workbook_inside() -> None:
    assert the_chart(without_caches(a_chart())) == the_chart(a_chart())


def test_dates_and_nested_categories_come_from_the_workbook_as_from_the_cache() -> None:
    nested = CategoryChartData()
    for year in ("2023", "2024"):
        category = nested.add_category(year)
        category.add_sub_category("H1")
        category.add_sub_category("H2")
    nested.add_series("Sales", (1, 2, 3, None))
    times = CategoryChartData()
    times.categories = [0.375, 0.5, 0.75]
    times.categories.number_format = "h:mm"  # type: ignore[attr-defined]
    times.add_series("Load", (1, 2, 3))

    for data in (nested, times):
        content = a_chart(XL_CHART_TYPE.LINE, data)
        assert the_chart(without_caches(content)) == the_chart(content)


@pytest.mark.parametrize(
    "formula",
    [
        "Numbers",
        "Book.xlsx!Numbers",
        "[0]!Numbers",
        "Sheet1!$B$2:$B$3",
        "(Sheet1!$B$2,Sheet1!$B$3)",
    ],
)
def test_values_are_found_by_whatever_names_them(formula: str) -> None:
    content = without_caches(a_chart())
    workbook = part_of(content, "ppt/embeddings/")
    inner = member(content, workbook)
    names = (
        '<definedNames><definedName name="Numbers">Sheet1!$B$2:$B$3</definedName></definedNames>'
    )
    book = member(inner, "xl/workbook.xml").decode().replace("</sheets>", f"</sheets>{names}")
    content = with_members(
        content, {workbook: with_members(inner, {"xl/workbook.xml": book.encode()})}
    )

    chart = the_chart(edited(content, (r"Sheet1!\$B\$2:\$B\$3", formula)))

    assert chart.series == BOTH


def test_a_whole_column_ends_where_its_cells_do() -> None:
    content = edited(without_caches(a_chart()), (r"\$B\$2:\$B\$3", "$B:$B"))

    assert the_chart(content).series[0] == ("2023", (None, 1.5, 2.0))


def test_without_cache_and_workbook_a_chart_is_flagged_and_not_empty() -> None:
    content = without_caches(a_chart())
    workbook = part_of(content, "ppt/embeddings/")

    for broken in (b"", b"PK\x03\x04", member(content, workbook)[:2000]):
        slide = the_slide(with_members(content, {workbook: broken}))
        assert slide.flags == ("chart_unreadable",)
        assert slide.native is not None
        assert slide.native.charts == ()


def test_a_hostile_workbook_is_flagged() -> None:
    content = without_caches(a_chart())
    workbook = part_of(content, "ppt/embeddings/")
    inner = member(content, workbook)
    sheet = "xl/worksheets/sheet1.xml"
    bomb = member(inner, sheet).replace(b"<sheetData>", b"<sheetData>" + b" " * 30_000_000)
    entity = b'<!DOCTYPE a [<!ENTITY b "2023">]>' + member(inner, sheet).partition(b"?>")[2]

    for hostile in (bomb, entity, b"<worksheet"):
        slide = the_slide(with_members(content, {workbook: with_members(inner, {sheet: hostile})}))
        assert slide.flags == ("chart_unreadable",)


def test_a_chart_of_too_many_points_is_flagged() -> None:
    few = DeckConfig(max_chart_points=3)
    claims = edited(a_chart(), (r'<c:ptCount val="2"/>', '<c:ptCount val="999999999"/>'))

    for content, config in ((a_chart(), few), (claims, None), (without_caches(a_chart()), few)):
        slide = the_slide(content, config)
        assert slide.flags == ("chart_unreadable",)
        assert slide.native is not None
        assert slide.native.charts == ()


def test_many_series_over_many_categories_are_too_many_points() -> None:
    long = (
        '<c:ser><c:cat><c:strLit><c:ptCount val="50000"/></c:strLit></c:cat><c:val><c:numLit>'
        '<c:ptCount val="1"/><c:pt idx="0"><c:v>1</c:v></c:pt></c:numLit></c:val></c:ser>'
    )

    slide = the_slide(edited(a_chart(), (r"<c:ser>.*</c:ser>", long * 3)))

    assert slide.flags == ("chart_unreadable",)


def test_a_series_that_is_lost_is_flagged_and_the_others_stand() -> None:
    content = edited(
        a_chart(),
        (r"(<c:v>2024</c:v>.*?<c:val>.*?)<c:numCache>.*?</c:numCache>", r"\1"),
        (r"<c:externalData.*?</c:externalData>", ""),
    )

    slide = the_slide(content)

    assert slide.flags == ("chart_unreadable",)
    assert slide.native is not None
    assert slide.native.charts[0].series == (BOTH[0], ("2024", (None, None)))


@pytest.mark.parametrize(
    ("formula", "found"),
    [
        ("Sheet1!$B$2:$B$4", [("Sheet1", 1, 1, 3, 1)]),
        ("=Sheet1!B4:B2", [("Sheet1", 1, 1, 3, 1)]),
        ("'My ''own'' Sheet'!$A$1", [("My 'own' Sheet", 0, 0, 0, 0)]),
        ("(Sheet1!$A$1:$A$2,Sheet1!$C$5)", [("Sheet1", 0, 0, 1, 0), ("Sheet1", 4, 2, 4, 2)]),
        ("[Book.xlsx]Sheet1!$AA$10", [("Sheet1", 9, 26, 9, 26)]),
        ("Sheet1!$2:$2", [("Sheet1", 1, 0, 1, 2**20)]),
        ("#REF!", []),
        ("OFFSET(Sheet1!$A$1,1,0)", []),
        ("", []),
    ],
)
def test_the_areas_of_a_formula_are_read(formula: str, found: list[tuple[object, ...]]) -> None:
    read = [(a.sheet, a.top, a.left, a.bottom, a.right) for a in areas(formula)]

    assert read == found


@given(st.text("ABsheet1!'$:,()[]#= .", max_size=40))
def test_no_formula_breaks_the_reader(formula: str) -> None:
    assert isinstance(areas(formula), list)


def with_newer_chart(layout: str, data: str) -> bytes:
    """A deck with a chart of the newer kind, and the sentence for readers that do not know it."""
    content = a_chart()
    slide = "ppt/slides/slide1.xml"
    rels = "ppt/slides/_rels/slide1.xml.rels"
    mc = "http://schemas.openxmlformats.org/markup-compatibility/2006"
    choice = CX.replace("2014", "2015/9/8")
    markup = re.sub(
        r"<p:graphicFrame>(.*?)<a:graphicData.*?</a:graphicData>(.*?)</p:graphicFrame>",
        rf'<mc:AlternateContent xmlns:mc="{mc}"><mc:Choice xmlns:cx1="{choice}" Requires="cx1">'
        rf'<p:graphicFrame>\1<a:graphicData uri="{CX}"><cx:chart xmlns:cx="{CX}" r:id="rId2"/>'
        r"</a:graphicData>\2</p:graphicFrame></mc:Choice><mc:Fallback><p:sp><p:nvSpPr><p:cNvPr "
        r'id="9" name="x"/><p:cNvSpPr/><p:nvPr/></p:nvSpPr><p:spPr/><p:txBody><a:bodyPr/><a:p><a:r>'
        r"<a:t>Not available</a:t></a:r></a:p></p:txBody></p:sp></mc:Fallback>"
        r"</mc:AlternateContent>",
        member(content, slide).decode(),
        flags=re.DOTALL,
    )
    space = (
        f'<cx:chartSpace xmlns:cx="{CX}" xmlns:a="{A}"><cx:chartData><cx:data id="0">{data}'
        "</cx:data></cx:chartData><cx:chart><cx:title><cx:tx><cx:txData><cx:v>Flow</cx:v>"
        "</cx:txData></cx:tx></cx:title><cx:plotArea><cx:plotAreaRegion>"
        f'<cx:series layoutId="{layout}"><cx:tx><cx:txData><cx:v>Cash</cx:v></cx:txData></cx:tx>'
        '<cx:dataId val="0"/></cx:series></cx:plotAreaRegion></cx:plotArea></cx:chart>'
        "</cx:chartSpace>"
    )
    links = re.sub(
        r"Target=\"/?[^\"]*charts/[^\"]*\"",
        'Target="/ppt/charts/chartEx1.xml"',
        member(content, rels).decode(),
    )
    return with_members(
        content,
        {
            slide: markup.encode(),
            rels: links.encode(),
            "ppt/charts/chartEx1.xml": space.encode(),
        },
    )


LEAVES = (
    '<cx:strDim type="cat"><cx:lvl ptCount="3"><cx:pt idx="0">a</cx:pt><cx:pt idx="1">b</cx:pt>'
    '<cx:pt idx="2">c</cx:pt></cx:lvl><cx:lvl ptCount="3"><cx:pt idx="0">One</cx:pt>'
    '<cx:pt idx="2">Two</cx:pt></cx:lvl></cx:strDim><cx:numDim type="size"><cx:lvl ptCount="3" '
    'formatCode="General"><cx:pt idx="0">5</cx:pt><cx:pt idx="2">7</cx:pt></cx:lvl></cx:numDim>'
)


@pytest.mark.parametrize(
    ("layout", "kind"),
    [("treemap", "treemap"), ("sunburst", "sunburst"), ("clusteredColumn", "histogram")],
)
def test_charts_of_the_newer_kind_are_read_and_their_placeholder_is_no_text(
    layout: str, kind: str
) -> None:
    slide = the_slide(with_newer_chart(layout, LEAVES))

    assert slide.flags == ()
    assert slide.native is not None
    assert slide.native.text == ()
    assert slide.placeholders == ("Not available",)
    (chart,) = slide.native.charts
    assert (chart.kind, chart.title) == (kind, "Flow")
    assert chart.categories == ("One / a", "One / b", "Two / c")
    assert chart.series == (("Cash", (5.0, None, 7.0)),)


def test_a_map_s_places_are_its_categories_and_not_their_numbers() -> None:
    places = LEAVES + '<cx:strDim type="entityId"><cx:lvl ptCount="1"/></cx:strDim>'

    slide = the_slide(with_newer_chart("regionMap", places))

    assert slide.native is not None
    (chart,) = slide.native.charts
    assert (chart.kind, chart.categories[0]) == ("regionMap", "One / a")


def test_a_chart_of_the_newer_kind_without_numbers_is_flagged() -> None:
    slide = the_slide(with_newer_chart("funnel", "<cx:numDim><cx:f>Sheet1!A1</cx:f></cx:numDim>"))

    assert slide.flags == ("chart_unreadable",)
    assert slide.native is not None
    assert slide.native.charts == ()
