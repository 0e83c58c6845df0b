"""A PDF's text is what its page shows: layers, annotations, placeholders and broken text layers."""

from collections.abc import Sequence

import pytest

from pipeline.config import DeckConfig
from pipeline.media import pdf
from pipeline.media.piece import Piece

FONT = "/Font << /F1 << /Type /Font /Subtype /Type1 /BaseFont /Helvetica >> >>"
ON, OFF, MEMBERS = 10, 11, 12  # numbers of objects


def decode(content: bytes) -> list[Piece]:
    return list(pdf.pieces(content, DeckConfig()))


def the_text(content: bytes) -> str:
    (piece,) = decode(content)
    assert piece.native is not None
    return "\n".join(piece.native.text)


def a_page(
    content: str,
    *,
    annotations: Sequence[str] = (),
    catalog: str = "",
    resources: str = "",
    others: dict[int, str | bytes] | None = None,
) -> bytes:
    """Write a PDF of one page; annotations are objects from 20 on."""
    known = resources if "/Font" in resources else FONT + resources
    notes = {20 + number: text for number, text in enumerate(annotations)}
    listed = " ".join(f"{number} 0 R" for number in notes)
    objects: dict[int, str | bytes] = {
        1: f"<< /Type /Catalog /Pages 2 0 R {catalog} >>",
        2: "<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        3: f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 400 300] /Contents 4 0 R "
        f"/Resources << {known} >> /Annots [{listed}] >>",
        4: a_stream(content),
        **(others or {}),
        **notes,
    }
    body, places = b"%PDF-1.7\n", {}
    for number, value in sorted(objects.items()):
        places[number] = len(body)
        raw = value if isinstance(value, bytes) else value.encode("latin-1")
        body += b"%d 0 obj\n%s\nendobj\n" % (number, raw)
    start = len(body)
    table = "xref\n0 1\n0000000000 65535 f \n"
    for number, at in places.items():
        table += f"{number} 1\n{at:010d} 00000 n \n"
    trailer = f"trailer\n<< /Root 1 0 R /Size 99 >>\nstartxref\n{start}\n%%EOF\n"
    return body + (table + trailer).encode()


def a_stream(content: str, dictionary: str = "") -> str:
    return f"<< {dictionary} /Length {len(content)} >>\nstream\n{content}\nendstream"


def words(text: str, *, y: int) -> str:
    return f"BT /F1 20 Tf 20 {y} Td ({text}) Tj ET\n"


LAYERS = {
    ON: "<< /Type /OCG /Name (shown) >>",
    OFF: "<< /Type /OCG /Name (hidden) >>",
    MEMBERS: f"<< /Type /OCMD /OCGs [{OFF} 0 R] /P /AllOn >>",
}
CATALOG = (
    f"/OCProperties << /OCGs [{ON} 0 R {OFF} 0 R] /D << /ON [{ON} 0 R] /OFF [{OFF} 0 R] >> >>"
)
PROPERTIES = f"/Properties << /On {ON} 0 R /Off {OFF} 0 R /Members {MEMBERS} 0 R >>"


def a_form(text: str, layer: int) -> str:
    kind = f"/Type /XObject /Subtype /Form /BBox [0 0 400 300] /OC {layer} 0 R"
    return a_stream(words(text, y=60), f"{kind} /Resources << {FONT} >>")


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


def drawn(text: str, flags: int, kind: str = "FreeText") -> tuple[str, dict[int, str]]:
    """Make an annotation with its own drawing."""
    look = a_stream(
        f"BT /F1 18 Tf 2 10 Td ({text}) Tj ET",
        f"/Type /XObject /Subtype /Form /BBox [0 0 300 40] /Resources << {FONT} >>",
    )
    note = (
        f"<< /Type /Annot /Subtype /{kind} /Rect [20 100 320 140] /F {flags} "
        f"/Contents ({text}) /DA (/F1 18 Tf 0 g) /AP << /N 40 0 R >> >>"
    )
    return note, {40: look}


@pytest.mark.parametrize("kind", ["FreeText", "Stamp"])
@pytest.mark.parametrize(("flags", "seen"), [(4, True), (0, True), (2, False), (32, False)])
def test_what_annotations_draw_is_read_unless_they_are_hidden(
    flags: int, seen: bool, kind: str
) -> None:
    note, look = drawn("reviewed", flags, kind)

    text = the_text(a_page(words("page", y=250), annotations=[note], others=look))

    assert text.split("\n") == (["page", "reviewed"] if seen else ["page"])


def test_what_a_sticky_note_says_is_not_on_the_page() -> None:
    note = "<< /Type /Annot /Subtype /Text /Rect [10 10 30 30] /Contents (secret) >>"
    link = "<< /Type /Annot /Subtype /Link /Rect [10 10 30 30] /Contents (secret) >>"

    assert the_text(a_page(words("page", y=250), annotations=[note, link])) == "page"


def test_a_form_that_a_reader_would_make_is_flagged() -> None:
    xfa = {50: a_stream("<xdp:xdp xmlns:xdp='http://ns.adobe.com/xdp/'/>")}
    catalog = "/NeedsRendering true /AcroForm << /Fields [] /XFA 50 0 R >>"

    (piece,) = decode(a_page(words("Please wait", y=250), catalog=catalog, others=xfa))

    assert "xfa_not_rendered" in piece.flags


def test_files_that_a_pdf_brings_along_are_flagged() -> None:
    files = {
        50: "<< /Type /Filespec /F (a.txt) /UF (a.txt) /EF << /F 51 0 R >> >>",
        51: a_stream("hello", "/Type /EmbeddedFile"),
    }
    catalog = "/Names << /EmbeddedFiles << /Names [(a.txt) 50 0 R] >> >>"

    (piece,) = decode(a_page(words("cover", y=250), catalog=catalog, others=files))
    (plain,) = decode(a_page(words("cover", y=250)))

    assert piece.flags == ("attachments_left_out",)
    assert plain.flags == ()


@pytest.mark.parametrize(
    ("text", "garbled"),
    [
        ("The quick brown fox jumps over the lazy dog", False),
        ("1 234,50 2 345,60 3 456,70 " * 5, False),
        ("日本語の文章はここにあります。漢字とかな", False),
        ("Ελληνικά και русский текст", False),
        ("עברית וגם العربية في سطر واحد", False),
        ("∑ x² ≤ ∫ f(t) dt, α → β ∀ n ∈ ℕ", False),
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

    (piece,) = decode(
        a_page(content, resources=f"/Font << /F2 << {font} >> >>", others={60: a_stream(mapping)})
    )

    assert piece.flags == ("text_layer_garbled",)
    assert piece.image is not None
