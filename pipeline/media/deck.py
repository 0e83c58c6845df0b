"""Decode office decks: what the file says about each slide, and its rendered page beside it."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence

from pipeline.config import DeckConfig
from pipeline.errors import DecodeError, LimitExceeded, RenderError, SegmentError, UnsupportedMedia
from pipeline.media import fonts, hybrid, odp, office, pdf, sniff
from pipeline.media.office import Slide
from pipeline.media.package import Package
from pipeline.media.piece import Native, Piece

_MAX_WORDS = 2000
_MIN_WORDS = 3
_LOST_RATIO = 0.5  # below it a page is taken for emptied
_DIFFERENT_RATIO = 0.9  # below it a page is flagged


def pieces(
    package: Package,
    media_type: str,
    config: DeckConfig,
    rendered: bytes | SegmentError | None,
    first_index: int = 0,
) -> Iterator[Piece]:
    """Give a deck's pages in order, hidden slides too.

    Args:
        package: The deck, checked.
        media_type: PPTX, PPT or ODP.
        config: Resolution and limits.
        rendered: Its PDF from LibreOffice, why there is none, or None for `decks.render: native`.
        first_index: Leave out the pages before this one.

    Yields:
        Pieces of kind "page" with `native`, and an image where there is a PDF; else with the skip
        reason "not_rendered". PPT and ODP have the PDF's text as `native`, and their own titles,
        notes, tables, charts and hidden flag. A page whose text the renderer dropped is a piece
        with a RenderError. Flags: the package's; the slide's; "render_differs" where some of the
        slide's words are not on its page; and "fonts_missing" where its text is set in other fonts
        than the deck names, so that lines may be longer than their boxes.

    Raises:
        SegmentError: `rendered`, where it is one.
        RenderError: pages are missing, or too many.
        DecodeError, LimitExceeded: the file is unreadable, or has more than `decks.max_pages`.
        UnsupportedMedia: PPT or ODP with `decks.render: native`.
    """
    if isinstance(rendered, SegmentError):
        raise rendered
    slides = office.slides(package.content) if media_type == sniff.PPTX else None
    count = len(slides) if slides is not None else package.num_pages
    if count is not None and count > config.max_pages:
        raise LimitExceeded(f"decks.max_pages: {count} pages, limit {config.max_pages}")
    if rendered is not None:
        yield from _rendered_pages(rendered, slides, count, package, config, first_index)
    elif slides is not None:
        for index in range(first_index, len(slides)):
            yield _piece(index, len(slides), slides[index], package, skip_reason="not_rendered")
    else:
        raise UnsupportedMedia(f"{media_type} needs decks.render: pixels, which uses LibreOffice")


def _rendered_pages(
    rendered: bytes,
    slides: Sequence[Slide] | None,
    count: int | None,
    package: Package,
    config: DeckConfig,
    first_index: int,
) -> Iterator[Piece]:
    with pdf.Document(rendered, config) as document:
        if count not in {None, document.num_pages}:
            raise RenderError(
                f"the renderer gave {document.num_pages} pages for a deck of {count} slides"
            )
        own = slides if slides is not None else _extras(package, rendered, document)
        for index in range(first_index, document.num_pages):
            yield _rendered_page(document, index, own[index], package)


def _rendered_page(
    document: pdf.Document, index: int, own: Slide | odp.Extras, package: Package
) -> Piece:
    count = document.num_pages
    slide = own if isinstance(own, Slide) else None
    try:
        # Text beside the slide was not dropped by the renderer.
        is_checked = slide is not None
        page = document.page(index, with_fonts=is_checked, with_unseen=is_checked)
    except DecodeError as error:
        return _piece(index, count, slide, package, error=error)
    if isinstance(own, odp.Extras):
        return _piece(index, count, _read_from_page(page.lines, own), package, page=page)
    slide = own
    words = _printed_words(slide)
    found_ratio = found(words, page.lines)
    if found_ratio < _LOST_RATIO and len(words) >= _MIN_WORDS:
        lost = RenderError(
            f"the renderer dropped text of slide {index + 1}: "
            f"{found_ratio:.0%} of {len(words)} words are on its page"
        )
        return _piece(index, count, slide, package, error=lost)
    flags = ["render_differs"] if found_ratio < _DIFFERENT_RATIO else []
    if fonts.substituted(page.fonts, slide.typefaces):
        flags.append("fonts_missing")
    return _piece(index, count, slide, package, page=page, flags=tuple(flags))


def _read_from_page(lines: Sequence[str], extras: odp.Extras) -> Slide:
    """Take a page's printed text for its own; what stands in its file's tables is not repeated."""
    rows = [row for table in extras.tables for row in table]
    cells = {cell for row in rows for cell in row} | {" ".join(row) for row in rows}
    native = Native(
        title=extras.title,
        text=tuple(line for line in lines if line not in cells),
        notes=extras.notes,
        tables=extras.tables,
        charts=extras.charts,
    )
    return Slide(native=native, hidden=extras.hidden, flags=extras.flags)


def _extras(package: Package, rendered: bytes, document: pdf.Document) -> list[odp.Extras]:
    """Read a deck's own content beside its pages: an ODP's, or a PPT's in the PDF made of it."""
    is_ppt = package.num_pages is None
    try:
        extras = odp.extras(hybrid.deck(rendered, document) if is_ppt else package.content)
    except DecodeError:
        extras = []
    if len(extras) != document.num_pages:
        return [odp.Extras(hidden=None, flags=("native_unreadable",))] * document.num_pages
    return extras


def _piece(  # noqa: PLR0913 - the columns of one row
    index: int,
    count: int,
    slide: Slide | None,
    package: Package,
    *,
    page: pdf.Page | None = None,
    flags: tuple[str, ...] = (),
    skip_reason: str | None = None,
    error: SegmentError | None = None,
) -> Piece:
    return Piece(
        index=index,
        count=count,
        kind="page",
        page_number=index + 1,
        image=page.image if page else None,
        native=slide.native if slide else None,
        hidden=slide.hidden if slide else None,
        flags=(*package.flags, *(slide.flags if slide else ()), *flags),
        skip_reason=skip_reason,
        error=error,
    )


def _printed_words(slide: Slide) -> list[str]:
    """List the words that must stand in the page's text.

    Not numbers, since dates and page numbers are made anew, nor labels of charts, which are
    thinned out, nor what may be drawn as shapes.
    """
    if slide.native is None:
        return []
    cells = [cell for table in slide.native.tables for row in table for cell in row]
    drawn = set(_words(slide.drawn_text))
    return [word for word in _words([*slide.native.text, *cells]) if word not in drawn][:_MAX_WORDS]


def _words(texts: Sequence[str]) -> list[str]:
    return re.findall(r"[^\W\d_]{2,}", _plain(" ".join(texts)))


def found(words: Sequence[str], lines: Sequence[str]) -> float:
    """Tell which share of words stands in a page's text, whatever its spacing and line breaks.

    Example:
        >>> found(["annual", "report", "2024"], ["AN NUAL Re", "port"])
        0.6666666666666666
    """
    squeezed = re.sub(r"[\W_]+", "", _plain("".join(lines)))
    return sum(word in squeezed for word in words) / len(words) if words else 1.0


def _plain(text: str) -> str:
    """Fold case, ligatures and widths, and drop soft hyphens."""
    return unicodedata.normalize("NFKC", text).casefold().replace("\u00ad", "")
