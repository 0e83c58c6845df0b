"""What an ODP, and a PPT, say of themselves, in decks that LibreOffice itself wrote."""

import io
import subprocess
import zipfile
from pathlib import Path

import pypdfium2 as pdfium
import pytest
from pptx import Presentation
from pptx.util import Inches
from reportlab.pdfgen import canvas

from phicorpus.config import DeckConfig
from phicorpus.errors import DecodeError
from phicorpus.media.decks import deck as slides
from phicorpus.media.decks import libreoffice, odp
from phicorpus.media.media_types import ODP, PPT
from phicorpus.media.office.office_zip import Package
from phicorpus.media.segment import Chart, Native, Segment
from tests.media.builders import (
    TITLE_ONLY,
    a_pdf,
    add_chart,
    deck_bytes,
    member,
    outcomes,
    with_members,
)

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def made() -> bytes:
    """A slide with a chart and notes, and a hidden one with a table, as PPTX."""
    deck = Presentation()
    first, second = (deck.slides.add_slide(deck.slide_layouts[TITLE_ONLY]) for _ in range(2))
    assert first.shapes.title is not None
    first.shapes.title.text = "Results"
    add_chart(first)
    notes = first.notes_slide.notes_text_frame
    assert notes is not None
    notes.text = "Say it slowly."
    second._element.set("show", "0")
    shape = second.shapes.add_table(2, 2, Inches(1), Inches(2), Inches(5), Inches(2))
    for row in range(2):
        for column in range(2):
            shape.table.cell(row, column).text = f"cell {row}{column}"
    return deck_bytes(deck)


def converted(deck: bytes, kind: str, folder: Path) -> bytes:
    soffice = libreoffice.find_soffice()
    if soffice is None:
        pytest.skip("LibreOffice is not installed")
    (folder / "deck.pptx").write_bytes(deck)
    subprocess.run(  # noqa: S603 - the program that is tested with
        [
            *(soffice, f"-env:UserInstallation={(folder / 'profile').as_uri()}", "--headless"),
            *("--norestore", "--convert-to", kind, "--outdir", folder, folder / "deck.pptx"),
        ],
        check=True,
        capture_output=True,
        timeout=120,
    )
    return (folder / f"deck.{kind}").read_bytes()


@pytest.fixture(scope="module")
def deck(made: bytes, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return converted(made, "odp", tmp_path_factory.mktemp("odp"))


def test_notes_tables_charts_and_hidden_slides_are_read_from_the_file(deck: bytes) -> None:
    first, second = odp.extras(deck)

    series = (("2023", (1.5, None)), ("2024", (2.0, 4.0)))
    chart = Chart(kind="bar", title=None, categories=("East", "West"), series=series)
    assert first == odp.Extras(title="Results", notes="Say it slowly.", charts=(chart,))
    assert second == odp.Extras(
        hidden=True, tables=((("cell 00", "cell 01"), ("cell 10", "cell 11")),)
    )


def test_a_rendered_page_carries_them_and_repeats_no_table_as_text(deck: bytes) -> None:
    (segments,) = outcomes(deck)

    first, second = (segment for segment in segments if isinstance(segment, Segment))
    assert first.native is not None
    assert second.native is not None
    assert (first.hidden, second.hidden) == (False, True)
    assert (first.native.title, first.native.text[0]) == ("Results", "Results")
    assert (first.native.notes, len(first.native.charts)) == ("Say it slowly.", 1)
    assert second.native.text == ()
    assert second.native.tables == ((("cell 00", "cell 01"), ("cell 10", "cell 11")),)


def test_a_ppt_says_of_itself_what_an_odp_does(made: bytes, tmp_path: Path) -> None:
    (segments,) = outcomes(converted(made, "ppt", tmp_path))

    first, second = (segment for segment in segments if isinstance(segment, Segment))
    assert first.native is not None
    assert second.native is not None
    assert (first.native.title, first.native.notes) == ("Results", "Say it slowly.")
    (chart,) = first.native.charts
    assert dict(chart.series) == {"2023": (1.5, None), "2024": (2.0, 4.0)}
    assert (first.hidden, second.hidden) == (False, True)
    assert second.native.tables == ((("cell 00", "cell 01"), ("cell 10", "cell 11")),)
    assert (first.flags, second.flags) == ((), ())


def test_a_deck_attached_to_its_pdf_is_found(deck: bytes) -> None:
    rendered = io.BytesIO()
    made = pdfium.PdfDocument(a_pdf("Results", "cell 00 cell 01"))
    made.new_attachment("Original.odp").set_data(deck)
    made.save(rendered)

    first, second = pages_of_ppt(rendered.getvalue())

    assert first.native is not None
    assert (first.native.title, first.native.notes) == ("Results", "Say it slowly.")
    assert (first.hidden, second.hidden) == (False, True)


@pytest.mark.parametrize("num_pages", [1, 2])
def test_a_ppt_without_its_own_content_is_flagged_and_keeps_its_pages_text(num_pages: int) -> None:
    pages = pages_of_ppt(a_pdf(*["Results"] * num_pages))

    assert [page.flags for page in pages] == [("native_unreadable",)] * num_pages
    assert [page.hidden for page in pages] == [None] * num_pages
    assert pages[0].native == Native(text=("Results",))


def pages_of_ppt(rendered: bytes) -> list[Segment]:
    return list(slides.segments(Package(content=b""), PPT, DeckConfig(), rendered))


def test_a_chart_without_its_object_is_flagged_and_the_slide_stands(deck: bytes) -> None:
    with zipfile.ZipFile(io.BytesIO(deck)) as archive:
        name = next(n for n in archive.namelist() if n.startswith("Object 1/content"))

    (first, _) = odp.extras(with_members(deck, {name: b"<broken"}))

    assert (first.flags, first.charts, first.notes) == (("chart_unreadable",), (), "Say it slowly.")


def test_a_cell_that_claims_to_be_millions_is_not(deck: bytes) -> None:
    markup = member(deck, "content.xml").replace(
        b"<table:table-cell", b'<table:table-cell table:number-columns-repeated="99999999"', 1
    )

    _, second = odp.extras(with_members(deck, {"content.xml": markup}))

    assert len(second.tables[0][0]) == 257


def test_what_is_no_odp_is_an_error() -> None:
    with pytest.raises(DecodeError, match="broken ODP"):
        odp.extras(b"PK")


def test_a_cell_that_is_printed_on_several_lines_is_not_repeated_as_text(deck: bytes) -> None:
    markup = member(deck, "content.xml").replace(b"cell 00", b"a long cell<text:line-break/>of two")
    package = Package(content=with_members(deck, {"content.xml": markup}), num_pages=2)
    rendered = io.BytesIO()
    document = canvas.Canvas(rendered)
    for printed in (["Results"], ["Words beside", "a long", "cell of two", "cell 01", "cell 1 1"]):
        for number, line in enumerate(printed):
            document.drawString(50, 500 - 30 * number, line)
        document.showPage()
    document.save()

    _, second = slides.segments(package, ODP, DeckConfig(), rendered.getvalue())

    assert second.native is not None
    assert second.native.text == ("Words beside",)
