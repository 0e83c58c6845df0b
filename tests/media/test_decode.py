import io
import os
from collections.abc import Iterator

import numpy as np
import pytest
from pptx import Presentation

from phicorpus.config import AudioConfig, DeckConfig, DecodeConfig
from phicorpus.errors import (
    DecodeError,
    LimitExceeded,
    PasswordRequired,
    RendererMissing,
    RenderError,
    SandboxCrashed,
    SegmentError,
    UnsupportedMedia,
)
from phicorpus.media.decks import deck, libreoffice
from phicorpus.media.decode import decode
from phicorpus.media.decoders import resumed
from phicorpus.media.media_types import PPTX
from phicorpus.media.office.office_zip import Package
from phicorpus.media.sandbox import Limits, Sandbox
from phicorpus.media.segment import Segment
from tests.media.builders import (
    a_deck,
    a_pdf,
    a_recording,
    a_voice,
    add_chart,
    an_image,
    deck_bytes,
    member,
    outcomes,
    saved,
    with_members,
)

pytestmark = pytest.mark.slow

NATIVE = DecodeConfig(decks=DeckConfig(render="native"))
needs_libreoffice = pytest.mark.skipif(
    libreoffice.find_soffice() is None, reason="LibreOffice is not installed"
)


def segments_of(outcome: list[Segment | SegmentError]) -> list[Segment]:
    assert all(isinstance(segment, Segment) for segment in outcome), outcome
    return [segment for segment in outcome if isinstance(segment, Segment)]


def test_a_batch_gives_each_asset_its_segments_in_order() -> None:
    contents = [
        saved(an_image()),
        a_deck("One", "Two", hidden=[1]),
        b"hello",
        a_recording(a_voice(s=2.0)),
        a_pdf("page"),
    ]

    image, deck_, text, sound, page = outcomes(*contents, config=NATIVE)

    assert [segment.kind for segment in segments_of(image)] == ["image"]
    assert [(segment.skip_reason, segment.hidden) for segment in segments_of(deck_)] == [
        ("not_rendered", False),
        ("not_rendered", True),
    ]
    assert [type(error) for error in text] == [UnsupportedMedia]
    assert [segment.end_s for segment in segments_of(sound)] == [2.0]
    assert [segment.native.text for segment in segments_of(page) if segment.native] == [("page",)]


def test_the_content_decides_and_a_refusal_names_both_types() -> None:
    (segment,) = decode(saved(an_image()), "application/pdf")
    assert segment.kind == "image"

    with pytest.raises(UnsupportedMedia, match="declared image/png, found text/html"):
        list(decode(b"<html></html>", "image/png"))
    with pytest.raises(UnsupportedMedia, match="declared nothing, found an unknown type"):
        list(decode(b""))


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (b"", UnsupportedMedia),
        (saved(an_image(size=(400, 400), mode="L", color=7), "JPEG")[:200], DecodeError),
        (a_pdf("x")[:300], DecodeError),
        (a_pdf("x", locked=True), PasswordRequired),
        (a_deck("x")[:5000], DecodeError),
        (
            b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + "EncryptedPackage".encode("utf-16-le"),
            PasswordRequired,
        ),
        (
            with_members(a_deck("x"), {"ppt/slides/slide1.xml": b"<a>" + b" " * 9**7 + b"</a>"}),
            LimitExceeded,
        ),
        (b"ID3\x03\x00\x00\x00\x00\x00\x00", DecodeError),
        (np.random.default_rng(0).bytes(10_000), UnsupportedMedia),
    ],
)
def test_hostile_files_are_named_errors_and_hurt_no_neighbour(
    content: bytes, error: type[SegmentError]
) -> None:
    bad, good = outcomes(content, saved(an_image()), config=NATIVE)

    assert [type(segment) for segment in bad] == [error]
    assert len(segments_of(good)) == 1


def test_an_error_after_the_first_segment_is_a_segment_of_its_own() -> None:
    endless = bytearray(a_recording(a_voice(s=70.0), kind="FLAC"))
    endless[21] &= 0xF0  # STREAMINFO's number of samples, 36 bits: 0 is "unknown"
    endless[22:26] = bytes(4)
    config = DecodeConfig(audio=AudioConfig(vad=False, max_hours=45 / 3600))

    (outcome,) = outcomes(bytes(endless), config=config)

    segments = segments_of(outcome)
    assert [(segment.index, segment.count) for segment in segments] == [(0, None), (1, 2)]
    assert isinstance(segments[1].error, LimitExceeded)
    assert segments[1].start_s == 30.0


def test_a_page_that_kills_its_decoder_is_an_error_and_the_others_stand() -> None:
    with Sandbox(Limits(timeout_s=20, max_memory_bytes=1 << 30)) as sandbox:
        segments = list(resumed(sandbox, deadly, (3, 5)))
        with pytest.raises(SandboxCrashed):
            list(resumed(sandbox, deadly, (0,)))

    assert [segment.index for segment in segments] == list(range(7))
    assert [segment.index for segment in segments if isinstance(segment.error, SandboxCrashed)] == [
        3,
        5,
    ]


def test_without_libreoffice_a_deck_is_an_error_that_says_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PATH", "")

    (outcome,) = outcomes(a_deck("One"))

    (page,) = segments_of(outcome)
    assert isinstance(page.error, RendererMissing)
    assert "apt-get install libreoffice-impress" in str(page.error)
    assert "brew install --cask libreoffice" in str(page.error)
    assert page.native is not None
    assert page.native.text == ("One",)


def test_old_formats_say_that_they_need_the_renderer() -> None:
    ppt = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + "PowerPoint Document".encode("utf-16-le")

    ((error,),) = outcomes(ppt, config=NATIVE)

    assert isinstance(error, UnsupportedMedia)
    assert "decks.render: pixels" in str(error)


def test_a_render_that_lost_pages_or_text_is_an_error() -> None:
    package = Package(content=a_deck("The first of two slides", "The second of two slides"))

    def rendered(*pages: str) -> list[Segment]:
        return list(deck.segments(package, PPTX, DeckConfig(), a_pdf(*pages)))

    whole = rendered("The first of two slides", "THE SEC OND of two ﬁelds slides")
    with pytest.raises(RenderError, match="1 pages for a deck of 2 slides"):
        rendered("The first of two slides")
    emptied = rendered("The first of two slides", "")

    assert [segment.error for segment in whole] == [None, None]
    assert [type(segment.error) for segment in emptied] == [type(None), RenderError]
    assert emptied[1].native is not None
    assert emptied[1].native.title == "The second of two slides"


@needs_libreoffice
def test_decks_are_rendered_with_hidden_slides_charts_and_native_content() -> None:
    presentation = Presentation(io.BytesIO(a_deck("Revenue", "Costs", hidden=[0])))
    add_chart(presentation.slides[1])
    empty = with_members(a_deck("gone"), {})

    first, second = outcomes(deck_bytes(presentation), empty)

    assert [segment.hidden for segment in segments_of(first)] == [True, False]
    for segment in segments_of(first):
        assert segment.error is None
        assert segment.image is not None
        assert segment.image.size == (1500, 1125)
    chart = segments_of(first)[1]
    assert chart.native is not None
    assert chart.native.charts[0].categories == ("East", "West")
    assert chart.image is not None
    colours = np.asarray(chart.image).reshape(-1, 3).astype(int)
    assert (np.ptp(colours, axis=1) > 60).mean() > 0.01  # bars, beside black text on white
    assert len(segments_of(second)) == 1


@needs_libreoffice
def test_a_font_that_is_not_there_is_flagged() -> None:
    presentation = Presentation(io.BytesIO(a_deck("Plain", "Fancy")))
    title = presentation.slides[1].shapes.title
    assert title is not None
    title.text_frame.paragraphs[0].runs[0].font.name = "No Such Font Anywhere"
    theme = "ppt/theme/theme1.xml"
    content = deck_bytes(presentation)
    content = with_members(
        content, {theme: member(content, theme).replace(b"Calibri", b"Liberation Sans")}
    )

    (outcome,) = outcomes(content)

    plain, fancy = segments_of(outcome)
    if plain.flags:
        pytest.skip("the Liberation fonts are not installed")
    assert fancy.flags == ("fonts_missing",)


@needs_libreoffice
def test_one_deck_that_cannot_be_rendered_does_not_lose_the_batch() -> None:
    good = a_deck("Good")
    results = libreoffice.render(
        [(PPTX, good), (PPTX, good[: len(good) // 2]), (PPTX, good)],
        DeckConfig(),
    )

    assert [type(result) for result in results] == [bytes, RenderError, bytes]


@needs_libreoffice
def test_linked_pictures_are_not_fetched() -> None:
    content = a_deck("One")
    rels = "ppt/slides/_rels/slide1.xml.rels"
    kind = "http://schemas.openxmlformats.org/officeDocument/2006/relationships/image"
    link = (
        f'<Relationship Id="rId9" Type="{kind}" Target="file:///etc/hostname" '
        'TargetMode="External"/></Relationships>'
    )
    linked = with_members(
        content, {rels: member(content, rels).replace(b"</Relationships>", link.encode())}
    )

    (outcome,) = outcomes(linked)

    (segment,) = segments_of(outcome)
    assert segment.flags == ("external_links",)
    assert segment.image is not None


def deadly(killers: tuple[int, ...], first_index: int) -> Iterator[Segment]:
    for index in range(first_index, 7):
        if index in killers:
            os.abort()
        yield Segment(index=index, count=7, kind="page", page_number=index + 1)
