"""A PDF's text is what its page shows: layers, annotations, placeholders and broken text layers."""

import pytest

from phicorpus.config import DeckConfig
from phicorpus.media.decks import pdf
from phicorpus.media.segment import Segment
from tests.media.decks.pdfs import (
    CATALOG,
    LAYERS,
    OFF,
    ON,
    PROPERTIES,
    a_form,
    a_page,
    a_stream,
    drawn,
    words,
)


def decode(content: bytes) -> list[Segment]:
    return list(pdf.segments(content, DeckConfig()))


def the_text(content: bytes) -> str:
    (segment,) = decode(content)
    assert segment.native is not None
    return "\n".join(segment.native.text)


def test_text_of_layers_that_are_off_is_left_out() -> None:
    content = (
        words("always", y=250)
        + f"/OC /On BDC {words('shown', y=200)} EMC "
        + f"/OC /Off BDC {words('hidden', y=150)} EMC "
        + f"/OC /Members BDC {words('member', y=100)} EMC "
        + f"/OC /On BDC /OC /Off BDC {words('nested', y=120)} EMC EMC "
        + f"/Span << /MCID 0 >> BDC {words('tagged', y=20)} EMC"
    )

    text = the_text(a_page(content, catalog=CATALOG, resources=PROPERTIES, others=LAYERS))

    assert text.split("\n") == ["always", "shown", "tagged"]


def test_a_form_on_a_layer_that_is_off_is_left_out_whole() -> None:
    forms = {30: a_form("hidden form", OFF), 31: a_form("shown form", ON)}
    resources = f"{PROPERTIES} /XObject << /X0 30 0 R /X1 31 0 R >>"

    text = the_text(
        a_page(
            words("page", y=250) + "/X0 Do /X1 Do",
            catalog=CATALOG,
            resources=resources,
            others={**LAYERS, **forms},
        )
    )

    assert text.split("\n") == ["page", "shown form"]


@pytest.mark.parametrize("kind", ["FreeText", "Stamp"])
@pytest.mark.parametrize(
    ("flags", "seen"), [(4, True), (0, True), (1, True), (2, False), (32, False)]
)
def test_what_annotations_draw_is_read_unless_they_are_hidden(
    flags: int, seen: bool, kind: str
) -> None:
    note, look = drawn("reviewed", flags, kind)

    text = the_text(a_page(words("page", y=250), annotations=[note], others=look))

    assert text.split("\n") == (["page", "reviewed"] if seen else ["page"])


def test_a_field_that_belongs_to_no_form_is_not_drawn_and_not_read() -> None:
    field, look = drawn("typed", 4, "Widget")

    assert the_text(a_page(words("page", y=250), annotations=[field], others=look)) == "page"


def test_what_a_sticky_note_says_is_not_on_the_page() -> None:
    note = "<< /Type /Annot /Subtype /Text /Rect [10 10 30 30] /Contents (secret) >>"
    link = "<< /Type /Annot /Subtype /Link /Rect [10 10 30 30] /Contents (secret) >>"

    assert the_text(a_page(words("page", y=250), annotations=[note, link])) == "page"


def test_a_form_that_a_reader_would_make_is_flagged() -> None:
    xfa = {50: a_stream("<xdp:xdp xmlns:xdp='http://ns.adobe.com/xdp/'/>")}
    catalog = "/NeedsRendering true /AcroForm << /Fields [] /XFA 50 0 R >>"

    (segment,) = decode(a_page(words("Please wait", y=250), catalog=catalog, others=xfa))

    assert "xfa_not_rendered" in segment.flags


def test_files_that_a_pdf_brings_along_are_flagged() -> None:
    files = {
        50: "<< /Type /Filespec /F (a.txt) /UF (a.txt) /EF << /F 51 0 R >> >>",
        51: a_stream("hello", "/Type /EmbeddedFile"),
    }
    catalog = "/Names << /EmbeddedFiles << /Names [(a.txt) 50 0 R] >> >>"

    (segment,) = decode(a_page(words("cover", y=250), catalog=catalog, others=files))
    (plain,) = decode(a_page(words("cover", y=250)))

    assert segment.flags == ("attachments_left_out",)
    assert plain.flags == ()


@pytest.mark.parametrize(
    ("text", "garbled"),
    [
        ("The quick brown fox jumps over the lazy dog", False),
        ("1 234,50 2 345,60 3 456,70 " * 5, False),
        ("日本語の文章はここにあります。漢字とかな", False),
        ("Ελληνικά και русский текст", False),
        ("עברית וגם العربية في سطر واحد", False),
        ("∑ x² ≤ ∫ f(t) dt, π → φ ∀ n ∈ A", False),
        ("", False),
        ("\ue001\ue002\ue003 \ue004\ue005\ue006\ue007 \ue008\ue009\ue00a", True),
        ("\ufffd" * 12 + "abc", True),
        ("Annual report 2024".encode("utf-16-le").decode("utf-16-be"), True),
        ("!\"#$%&'()*+,-./" * 9, True),
        ("\x01\x02\x03\x04" * 5, True),
    ],
)
def test_a_text_layer_that_says_nothing_is_told(text: str, garbled: bool) -> None:
    assert pdf.is_garbled(text) == garbled


def test_a_page_whose_codes_are_of_no_alphabet_is_flagged() -> None:
    mapping = (
        "/CIDInit /ProcSet findresource begin 12 dict begin begincmap\n"
        "1 begincodespacerange <00> <FF> endcodespacerange\n"
        "1 beginbfrange <20> <7E> <E020> endbfrange endcmap end end"
    )
    font = "/Type /Font /Subtype /Type1 /BaseFont /Helvetica /ToUnicode 60 0 R"
    content = "BT /F2 20 Tf 20 200 Td (Annual report of all) Tj ET"

    (segment,) = decode(
        a_page(content, resources=f"/Font << /F2 << {font} >> >>", others={60: a_stream(mapping)})
    )

    assert segment.flags == ("text_layer_garbled",)
    assert segment.image is not None
