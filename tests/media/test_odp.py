"""What an ODP says of itself, in a deck that LibreOffice itself wrote."""

import io
import subprocess
import zipfile

import pytest
from pptx import Presentation
from pptx.util import Inches

from pipeline.errors import DecodeError
from pipeline.media import libreoffice, odp
from pipeline.media.piece import Chart, Piece
from tests.media.builders import (
    TITLE_ONLY,
    add_chart,
    deck_bytes,
    member,
    outcomes,
    with_members,
)


@pytest.fixture(scope="module")
def deck(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A slide with a chart and notes, and a hidden one with a table."""
    soffice = libreoffice.find_soffice()
    if soffice is None:
        pytest.skip("LibreOffice is not installed")
    made = Presentation()
    first, second = (made.slides.add_slide(made.slide_layouts[TITLE_ONLY]) for _ in range(2))
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
    folder = tmp_path_factory.mktemp("odp")
    (folder / "deck.pptx").write_bytes(deck_bytes(made))
    subprocess.run(  # noqa: S603 - the program that is tested with
        [
            *(soffice, f"-env:UserInstallation={(folder / 'profile').as_uri()}", "--headless"),
            *("--norestore", "--convert-to", "odp", "--outdir", folder, folder / "deck.pptx"),
        ],
        check=True,
        capture_output=True,
        timeout=120,
    )
    return (folder / "deck.odp").read_bytes()


def test_notes_tables_charts_and_hidden_slides_are_read_from_the_file(deck: bytes) -> None:
    first, second = odp.extras(deck)

    series = (("2023", (1.5, None)), ("2024", (2.0, 4.0)))
    chart = Chart(kind="bar", title=None, categories=("East", "West"), series=series)
    assert first == odp.Extras(notes="Say it slowly.", charts=(chart,))
    assert second == odp.Extras(
        hidden=True, tables=((("cell 00", "cell 01"), ("cell 10", "cell 11")),)
    )


def test_a_rendered_page_carries_them_and_repeats_no_table_as_text(deck: bytes) -> None:
    (pieces,) = outcomes(deck)

    first, second = (piece for piece in pieces if isinstance(piece, Piece))
    assert first.native is not None
    assert second.native is not None
    assert (first.hidden, second.hidden) == (False, True)
    assert first.native.text[0] == "Results"
    assert (first.native.notes, len(first.native.charts)) == ("Say it slowly.", 1)
    assert second.native.text == ()
    assert second.native.tables == ((("cell 00", "cell 01"), ("cell 10", "cell 11")),)


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
