"""The shapes of a slide: their order, their white space, and what of alternatives is read."""

import pytest

from phicorpus.config import DeckConfig
from phicorpus.media.decks import diagram, pptx
from phicorpus.media.office.drawing_text import text_lines
from phicorpus.media.office.ooxml import NAMES, parsed
from phicorpus.media.segment import Native
from tests.media.builders import a_deck, member, with_members

SLIDE = "ppt/slides/slide1.xml"
DECLARED = " ".join(f'xmlns:{prefix}="{space}"' for prefix, space in NAMES.items())
A14 = 'xmlns:a14="http://schemas.microsoft.com/office/drawing/2010/main"'
FUTURE = 'xmlns:new="urn:example:future"'


def a_shape(text: str, top: int = 5, *, left: int = 0, hidden: bool = False) -> str:
    return (
        f'<p:sp><p:nvSpPr><p:cNvPr id="7" name="s" hidden="{int(hidden)}"/><p:cNvSpPr/><p:nvPr/>'
        f'</p:nvSpPr><p:spPr><a:xfrm><a:off x="{left * 914400}" y="{top * 914400}"/>'
        '<a:ext cx="914400" cy="300000"/></a:xfrm></p:spPr><p:txBody><a:bodyPr/>'
        f"<a:p><a:r><a:t>{text}</a:t></a:r></a:p></p:txBody></p:sp>"
    )


def choice(content: str, *, requires: str = "a14", declared: str = A14) -> str:
    return f'<mc:Choice {declared} Requires="{requires}">{content}</mc:Choice>'


def alternatives(*content: str) -> str:
    return f"<mc:AlternateContent>{''.join(content)}</mc:AlternateContent>"


def fallback(content: str) -> str:
    return f"<mc:Fallback>{content}</mc:Fallback>"


def the_native(shapes: str, config: DeckConfig | None = None) -> Native:
    content = a_deck("Title")
    markup = member(content, SLIDE).decode()
    markup = markup.replace("</p:spTree>", f"{shapes}</p:spTree>")
    markup = markup.replace("<p:sld ", f'<p:sld xmlns:mc="{NAMES["mc"]}" ', 1)
    (slide,) = pptx.slides(with_members(content, {SLIDE: markup.encode()}), config)
    assert slide.native is not None
    return slide.native


@pytest.mark.parametrize(
    ("shape", "text"),
    [
        (alternatives(choice(a_shape("first")), choice(a_shape("second"))), ("first",)),
        (
            alternatives(
                choice(a_shape("new"), requires="new", declared=FUTURE),
                choice(a_shape("known")),
                fallback(a_shape("old")),
            ),
            ("known",),
        ),
        (
            alternatives(
                choice(a_shape("new"), requires="a14 new", declared=f"{A14} {FUTURE}"),
                fallback(a_shape("old")),
            ),
            ("old",),
        ),
        (alternatives(choice(a_shape("new"), requires="undeclared", declared="")), ()),
        (alternatives(choice(a_shape("unseen", hidden=True)), fallback(a_shape("old"))), ()),
        (
            alternatives(
                choice(
                    alternatives(
                        choice(a_shape("new"), requires="new", declared=FUTURE),
                        fallback(a_shape("inner")),
                    )
                ),
                fallback(a_shape("outer")),
            ),
            ("inner",),
        ),
    ],
)
def test_one_of_alternatives_is_read(shape: str, text: tuple[str, ...]) -> None:
    assert the_native(shape).text == ("Title", *text)


def test_what_stands_in_alternatives_is_read_at_its_place() -> None:
    shapes = a_shape("bottom", 6) + alternatives(choice(a_shape("top", 4))) + a_shape("middle", 5)

    assert the_native(shapes).text == ("Title", "top", "middle", "bottom")


def test_shapes_of_a_group_stand_where_the_group_puts_them() -> None:
    inside = a_shape("right", left=2) + a_shape("left") + a_shape("below", 6)
    inside = inside.replace("914400", "10").replace("300000", "5")
    group = (
        '<p:grpSp><p:nvGrpSpPr><p:cNvPr id="8" name="g"/><p:cNvGrpSpPr/><p:nvPr/></p:nvGrpSpPr>'
        '<p:grpSpPr><a:xfrm><a:off x="0" y="3000000"/><a:ext cx="3000000" cy="3000000"/>'
        '<a:chOff x="0" y="50"/><a:chExt cx="30" cy="30"/></a:xfrm></p:grpSpPr>'
        f"{inside}</p:grpSp>"
    )

    assert the_native(a_shape("last", 7) + group).text == (
        *("Title", "left", "right", "below", "last"),
    )


def test_white_space_that_is_an_element_is_white_space() -> None:
    body = parsed(
        f"<p:txBody {DECLARED}><a:p><a:r><a:t>one</a:t></a:r><a:br/><a:r><a:t>two\tthree\x0a"
        '</a:t></a:r><a:fld type="slidenum"><a:t>4</a:t></a:fld></a:p><a:p/></p:txBody>'.encode()
    )

    assert text_lines(body) == ("one", "two three", "4")


def a_table(*rows: str) -> str:
    return (
        '<p:graphicFrame><p:nvGraphicFramePr><p:cNvPr id="9" name="t"/><p:cNvGraphicFramePr/>'
        '<p:nvPr/></p:nvGraphicFramePr><p:xfrm><a:off x="0" y="5000000"/><a:ext cx="1" cy="1"/>'
        '</p:xfrm><a:graphic><a:graphicData uri="http://schemas.openxmlformats.org/drawingml/2006/'
        f'table"><a:tbl>{"".join(f"<a:tr>{row}</a:tr>" for row in rows)}</a:tbl></a:graphicData>'
        "</a:graphic></p:graphicFrame>"
    )


def a_cell(text: str, attributes: str = "") -> str:
    return f"<a:tc {attributes}><a:txBody><a:p><a:r><a:t>{text}</a:t></a:r></a:p></a:txBody></a:tc>"


def test_merged_cells_are_said_once_and_a_table_is_a_rectangle() -> None:
    table = a_table(
        a_cell("wide", 'gridSpan="2"') + a_cell("left over", 'hMerge="1"') + a_cell("c"),
        a_cell("tall", 'rowSpan="2"') + a_cell("b"),
        a_cell("left over", 'vMerge="true"') + a_cell("d") + a_cell("e"),
    )

    assert the_native(table).tables == ((("wide", "", "c"), ("tall", "b", ""), ("", "d", "e")),)


def test_a_table_of_too_many_cells_is_flagged() -> None:
    content = a_deck("Title")
    markup = member(content, SLIDE).decode()
    table = a_table(a_cell("a") + a_cell("b"))
    markup = markup.replace("</p:spTree>", f"{table}</p:spTree>")

    (slide,) = pptx.slides(
        with_members(content, {SLIDE: markup.encode()}), DeckConfig(max_table_cells=1)
    )

    assert slide.flags == ("native_incomplete",)
    assert slide.native is not None
    assert (slide.native.tables, slide.native.text) == ((), ("Title",))


def test_a_diagram_is_read_in_the_order_of_its_points() -> None:
    points = "".join(
        f'<dgm:pt modelId="{name}"><dgm:t><a:p><a:r><a:t>{name}</a:t></a:r></a:p></dgm:t></dgm:pt>'
        for name in ("third", "first", "second", "first.b", "first.a", "alone")
    )
    links = "".join(
        f'<dgm:cxn srcId="{source}" destId="{target}" srcOrd="{order}"/>'
        for source, target, order in (
            ("root", "third", 2),
            ("root", "second", 1),
            ("root", "first", 0),
            ("first", "first.b", 1),
            ("first", "first.a", 0),
        )
    )
    model = parsed(
        f'<dgm:dataModel {DECLARED}><dgm:ptLst>{points}<dgm:pt modelId="root" type="doc"/>'
        f"</dgm:ptLst><dgm:cxnLst>{links}</dgm:cxnLst></dgm:dataModel>".encode()
    )

    assert list(diagram.text(model)) == [
        *("first", "first.a", "first.b", "second", "third", "alone"),
    ]


def test_points_of_a_diagram_that_lead_in_a_circle_are_each_read_once() -> None:
    model = parsed(
        f'<dgm:dataModel {DECLARED}><dgm:pt modelId="1"><dgm:t><a:p><a:r><a:t>one</a:t></a:r></a:p>'
        '</dgm:t></dgm:pt><dgm:cxn srcId="1" destId="1"/></dgm:dataModel>'.encode()
    )

    assert list(diagram.text(model)) == ["one"]
