"""What a slide says and how it looks are two views of it; one that fails never takes the other."""

import io
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from pptx import Presentation
from pptx.util import Inches

from phicorpus.config import DeckConfig, DecodeConfig
from phicorpus.errors import (
    DecodeError,
    LimitExceeded,
    RendererMissing,
    RenderError,
    SandboxCrashed,
    SandboxTimeout,
    SegmentError,
    UnsupportedMedia,
)
from phicorpus.media.decks import deck, libreoffice, pptx
from phicorpus.media.media_types import ODP, PPT, PPTX
from phicorpus.media.office.office_zip import Package
from phicorpus.media.segment import Native, Segment
from tests.media.builders import (
    TITLE_ONLY,
    a_deck,
    a_pdf,
    deck_bytes,
    member,
    outcomes,
    with_members,
)

pytestmark = pytest.mark.slow

SLIDE_2 = "ppt/slides/slide2.xml"
PRESENTATION_LINKS = "ppt/_rels/presentation.xml.rels"
FIELD = Path(__file__).parent.parent.parent / "fixtures" / "field" / "decks"
needs_libreoffice = pytest.mark.skipif(
    libreoffice.find_soffice() is None, reason="LibreOffice is not installed"
)


def three() -> bytes:
    return a_deck("The first of three", "The second of three", "The third of three")


def renamed(package: bytes, name: Callable[[str], str | None]) -> bytes:
    """Copy a ZIP under other names; None leaves a member out."""
    target = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(package)) as source, zipfile.ZipFile(target, "w") as copy:
        for old in source.namelist():
            if (new := name(old)) is not None:
                copy.writestr(new, source.read(old))
    return target.getvalue()


def without_slide_2() -> bytes:
    return renamed(three(), lambda name: None if name == SLIDE_2 else name)


def changed(name: str, old: bytes, new: bytes) -> bytes:
    content = three()
    assert old in member(content, name)
    return with_members(content, {name: member(content, name).replace(old, new)})


BROKEN_SLIDES = {
    "missing": without_slide_2,
    "not XML": lambda: changed(SLIDE_2, b"</p:cSld>", b"<<"),
    "empty": lambda: with_members(three(), {SLIDE_2: b""}),
    "no shapes": lambda: changed(SLIDE_2, b"p:cSld", b"p:other"),
    "a link to nowhere": lambda: changed(PRESENTATION_LINKS, b"slides/slide2", b"slides/slide9"),
    "an id of nothing": lambda: changed(
        "ppt/presentation.xml", b'id="257" r:id="', b'id="257" r:id="x'
    ),
}


@pytest.mark.parametrize("damage", BROKEN_SLIDES)
def test_a_broken_slide_is_named_in_words_and_costs_no_other(damage: str) -> None:
    first, second, third = pptx.slides(BROKEN_SLIDES[damage]())

    assert (first.flags, third.flags) == ((), ())
    assert second.native is None
    assert second.flags == ("native_unreadable",)
    assert str(second.error).startswith("slide 2 is unreadable: ")
    assert "KeyError" not in str(second.error)


@pytest.mark.parametrize("damage", BROKEN_SLIDES)
def test_a_broken_slide_that_is_not_rendered_is_an_error_alone(damage: str) -> None:
    config = DecodeConfig(decks=DeckConfig(render="native"))

    (segments,) = outcomes(BROKEN_SLIDES[damage](), config=config)

    errors = [type(segment.error) for segment in segments if isinstance(segment, Segment)]
    assert errors == [type(None), DecodeError, type(None)]


@needs_libreoffice
def test_pages_stand_beside_broken_slides() -> None:
    for segments in outcomes(*(make() for make in BROKEN_SLIDES.values())):
        first, second, third = (segment for segment in segments if isinstance(segment, Segment))
        assert (first.error, third.error) == (None, None)
        assert first.image is not None
        assert third.native is not None
        assert third.native.title == "The third of three"
        assert second.native_error is not None
        assert (second.image is None) == (second.error is not None)


@pytest.mark.parametrize(
    "content",
    [
        renamed(three(), lambda name: name.replace("ppt/slides/slide", "PPT/Slides/SLIDE")),
        renamed(three(), lambda name: name.replace("/", "\\")),
        renamed(three(), lambda name: None if "slideLayout6.xml" in name else name),
        renamed(three(), lambda name: None if "theme" in name else name),
        with_members(three(), {"[Content_Types].xml": b"<Types/>"}),
        with_members(three(), {"_rels/.rels": b"<Relationships/>"}),
    ],
)
def test_a_package_that_is_odd_is_read_whole(content: bytes) -> None:
    titles = [slide.native.title for slide in pptx.slides(content) if slide.native]

    assert titles == ["The first of three", "The second of three", "The third of three"]


def test_a_presentation_that_cannot_be_read_has_its_pages_and_their_text() -> None:
    content = with_members(three(), {"ppt/presentation.xml": b"<<"})
    rendered = a_pdf("The first", "The second")

    pages = list(deck.segments(Package(content=content), PPTX, DeckConfig(), rendered))

    assert [page.native for page in pages] == [
        Native(text=("The first",)),
        Native(text=("The second",)),
    ]
    assert [page.flags for page in pages] == [("native_unreadable",)] * 2
    assert [page.error for page in pages] == [None, None]


@pytest.mark.parametrize(
    "error", [RenderError, RendererMissing, SandboxTimeout, SandboxCrashed, LimitExceeded]
)
def test_a_deck_without_pictures_keeps_what_its_file_says(error: type[SegmentError]) -> None:
    for name, kind in (("soft_breaks.pptx", PPTX), ("line_break_and_tab.odp", ODP)):
        package = Package(content=(FIELD / name).read_bytes())

        pages = list(deck.unrendered(package, kind, DeckConfig(), error("it failed")))

        assert [type(page.error) for page in pages] == [error] * 3
        first = pages[0].native
        assert first is not None
        assert first.title == "Annual Report"
        assert first.text == ("Annual", "Report", "line one", "line two")


def test_a_ppt_without_pictures_says_nothing() -> None:
    with pytest.raises(UnsupportedMedia):
        list(deck.unrendered(Package(content=b""), PPT, DeckConfig(), RenderError("no")))


def test_a_renderer_that_fails_costs_the_pictures_alone(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    soffice = tmp_path / "soffice"
    soffice.write_text("#!/bin/sh\nexit 0\n")
    soffice.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    odp = (FIELD / "line_break_and_tab.odp").read_bytes()

    pptx_pages, odp_pages = outcomes(three(), odp)

    for pages in (pptx_pages, odp_pages):
        assert len(pages) == 3
        for page in pages:
            assert isinstance(page, Segment)
            assert isinstance(page.error, RenderError)
            assert page.native is not None


def test_a_render_of_the_wrong_length_costs_the_pictures_alone() -> None:
    package = Package(content=three())

    with pytest.raises(RenderError, match="1 pages for a deck of 3 slides"):
        list(deck.segments(package, PPTX, DeckConfig(), a_pdf("The first of three")))


def test_positions_that_cannot_be_read_cost_the_position_alone() -> None:
    presentation = Presentation()
    slide = presentation.slides.add_slide(presentation.slide_layouts[TITLE_ONLY])
    for number in range(6):
        box = slide.shapes.add_textbox(Inches(1), Inches(1 + number), Inches(3), Inches(1))
        box.text_frame.text = f"line {number}"
    content = deck_bytes(presentation)
    name = "ppt/slides/slide1.xml"
    markup = member(content, name).decode()
    odd = ["914400.5", "1e999", "NaN", "left", "9" * 400, ""]
    for number, value in enumerate(odd):
        markup = markup.replace(
            f'x="914400" y="{914400 * (number + 1)}"', f'x="{value}" y="{value}"'
        )
    markup = markup.replace("<a:xfrm>", '<a:xfrm rot="around" flipH="maybe">')

    (found,) = pptx.slides(with_members(content, {name: markup.encode()}))

    assert found.flags == ()
    assert found.native is not None
    assert sorted(found.native.text) == [f"line {number}" for number in range(6)]
