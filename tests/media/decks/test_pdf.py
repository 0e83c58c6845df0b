import io

import numpy as np
import pytest
from reportlab.pdfgen import canvas

from phicorpus.config import DeckConfig
from phicorpus.errors import DecodeError, LimitExceeded, PasswordRequired
from phicorpus.media.decks import pdf
from phicorpus.media.segment import Segment
from tests.media.builders import a_pdf


def decode(content: bytes, config: DeckConfig | None = None) -> list[Segment]:
    return list(pdf.segments(content, config or DeckConfig()))


def test_each_page_has_pixels_and_its_own_text() -> None:
    segments = decode(a_pdf("first page", "second page"))

    assert [(segment.index, segment.count, segment.page_number) for segment in segments] == [
        (0, 2, 1),
        (1, 2, 2),
    ]
    assert [segment.native.text for segment in segments if segment.native] == [
        ("first page",),
        ("second page",),
    ]
    for segment in segments:
        assert segment.image is not None
        assert (segment.image.mode, segment.image.size) == ("RGB", (1500, 844))
        assert np.asarray(segment.image).min() < 50
        assert np.asarray(segment.image).mean() > 250


@pytest.mark.parametrize("rotation", [0, 90])
def test_text_that_is_cropped_away_or_beside_the_page_is_not_the_page_s(rotation: int) -> None:
    target = io.BytesIO()
    document = canvas.Canvas(target, pagesize=(800, 400))
    document.setPageRotation(rotation)
    document.setCropBox((0, 0, 300, 400))
    for at, text in ((50, "seen"), (320, "cropped"), (900, "beside")):
        document.drawString(at, 200, text)
    document.showPage()
    document.save()

    (segment,) = decode(target.getvalue())

    assert segment.native is not None
    assert segment.native.text == ("seen",)


def test_what_is_filled_into_a_form_is_seen_and_read() -> None:
    target = io.BytesIO()
    document = canvas.Canvas(target, pagesize=(400, 200))
    document.drawString(50, 150, "Name:")
    document.acroForm.textfield(value="Ada", x=50, y=50, width=200, height=30)
    document.showPage()
    document.save()

    (segment,) = decode(target.getvalue())

    assert segment.native is not None
    assert segment.native.text == ("Name:", "Ada")


def test_a_large_page_is_capped_in_pixels() -> None:
    (segment,) = decode(a_pdf("poster", size=(100_000, 50_000)), DeckConfig(max_side_px=1000))

    assert segment.image is not None
    assert segment.image.size == (1000, 500)


def test_pages_can_be_left_out_at_the_start() -> None:
    content = a_pdf("one", "two", "three")

    segments = list(pdf.segments(content, DeckConfig(), first_index=2))

    assert [(segment.index, segment.count) for segment in segments] == [(2, 3)]


def test_a_password_is_named() -> None:
    with pytest.raises(PasswordRequired):
        decode(a_pdf("secret", locked=True))


def test_a_page_without_area_does_not_lose_the_others() -> None:
    content = a_pdf("one", "two").replace(b"0 0 720 405 ]", b"0 0 99999 1 ]", 1)

    segments = decode(content, DeckConfig(max_side_px=64))

    assert [type(segment.error) for segment in segments] == [DecodeError, type(None)]


def test_too_many_pages_are_refused() -> None:
    with pytest.raises(LimitExceeded, match=r"decks\.max_pages: 3 pages, limit 2"):
        decode(a_pdf("1", "2", "3"), DeckConfig(max_pages=2))


@pytest.mark.parametrize("content", [b"", b"%PDF-1.7\n", a_pdf("x")[:500], b"<html>" * 99])
def test_a_broken_pdf_is_an_error(content: bytes) -> None:
    with pytest.raises(DecodeError):
        decode(content)
