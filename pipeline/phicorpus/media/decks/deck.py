"""Decode office decks: what the file says about each slide, and its rendered page beside it."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence

from phicorpus.config import DeckConfig
from phicorpus.errors import DecodeError, LimitExceeded, RenderError, SegmentError, UnsupportedMedia
from phicorpus.media.decks import fonts, hybrid_pdf, odp, pdf, pptx
from phicorpus.media.decks.pptx import Slide
from phicorpus.media.lines import joined, lines
from phicorpus.media.media_types import ODP, PPTX
from phicorpus.media.office.office_zip import Package
from phicorpus.media.office.ooxml import PartError
from phicorpus.media.segment import Native, Segment

_MAX_WORDS = 2000
_MIN_WORDS = 3
_LOST_RATIO = 0.5  # below it a page is taken for emptied
_DIFFERENT_RATIO = 0.9  # below it a page is flagged
_MAX_CELL_LINES = 20  # of a table's cell that is looked for among a page's lines


def segments(
    package: Package,
    media_type: str,
    config: DeckConfig,
    rendered: bytes | None,
    first_index: int = 0,
) -> Iterator[Segment]:
    """Return a deck's pages in order, hidden slides too.

    Args:
        package: The deck, checked.
        media_type: PPTX, PPT or ODP.
        config: Resolution and limits.
        rendered: Its PDF from LibreOffice, or None for `decks.render: native`.
        first_index: Leave out the pages before this one.

    Yields:
        Segments of kind "page" with `native`, and an image where there is a PDF; else with the skip
        reason "not_rendered". PPT and ODP have the PDF's text as `native`, and their own titles,
        notes, tables, charts and hidden flag; so has a PPTX that cannot be read at all. A page
        whose text the renderer dropped is a segment with a RenderError, a damaged slide one with a
        `native_error`. Flags: the package's; the slide's; "render_differs" where some of the
        slide's words are not on its page; "chart_not_rendered" where a sentence stands there in a
        chart's place; and "fonts_missing" where its text is set in other fonts than the deck names,
        so that lines may be longer than their boxes.

    Raises:
        RenderError: pages are missing, or too many.
        DecodeError, LimitExceeded: the file is unreadable, or has more than `decks.max_pages`.
        UnsupportedMedia: PPT or ODP with `decks.render: native`.
    """
    slides: list[Slide] | None = None
    try:
        slides = pptx.slides(package.content, config) if media_type == PPTX else None
    except DecodeError as error:
        # One without slides is an error; one with a damaged part may still have been rendered.
        if rendered is None or not isinstance(error.__cause__, PartError):
            raise
    _check_count(slides, package, config)
    if rendered is not None:
        yield from _rendered_pages(rendered, slides, package, config, first_index)
    elif slides is not None:
        for index in range(first_index, len(slides)):
            slide = slides[index]
            yield _segment(
                index, len(slides), slide, package, skip_reason="not_rendered", error=slide.error
            )
    else:
        raise UnsupportedMedia(f"{media_type} needs decks.render: pixels, which uses LibreOffice")


def unrendered(
    package: Package,
    media_type: str,
    config: DeckConfig,
    error: SegmentError,
    first_index: int = 0,
    end_index: int | None = None,
) -> Iterator[Segment]:
    """Return the pages of a deck that could not be rendered: what its file says, and the error.

    Raises:
        DecodeError, LimitExceeded: the file is unreadable, or has more than `decks.max_pages`.
        UnsupportedMedia: a PPT, which says nothing unless it is rendered.
    """
    if media_type == PPTX:
        slides = pptx.slides(package.content, config)
    elif media_type == ODP:
        of_file = zip(odp.extras(package.content, config), odp.texts(package.content), strict=True)
        slides = [_slide(extras, text) for extras, text in of_file]
    else:
        raise UnsupportedMedia(f"{media_type} says nothing of itself unless it is rendered")
    _check_count(slides, package, config)
    for index in range(len(slides))[first_index:end_index]:
        yield _segment(index, len(slides), slides[index], package, error=error)


def _check_count(slides: Sequence[Slide] | None, package: Package, config: DeckConfig) -> None:
    count = len(slides) if slides is not None else package.num_pages
    if count is not None and count > config.max_pages:
        raise LimitExceeded(f"decks.max_pages: {count} pages, limit {config.max_pages}")


def _rendered_pages(
    rendered: bytes,
    slides: Sequence[Slide] | None,
    package: Package,
    config: DeckConfig,
    first_index: int,
) -> Iterator[Segment]:
    with pdf.Document(rendered, config) as document:
        own = slides if slides is not None else _extras(package, rendered, document, config)
        count = len(slides) if slides is not None else package.num_pages or document.num_pages
        pages = _pages_of_slides(own, count, document.num_pages)
        for index in range(first_index, count):
            page_index = pages[index]
            if page_index is None:
                slide = own[index]
                assert isinstance(slide, Slide)  # noqa: S101 - only damaged slides have no page
                yield _segment(index, count, slide, package, error=slide.error)
            else:
                yield _rendered_page(document, page_index, index, own[index], package, count)


def _pages_of_slides(
    own: Sequence[Slide | odp.Extras], count: int, num_pages: int
) -> list[int | None]:
    """Find the page of each slide; a renderer may leave out those that are damaged.

    Raises:
        RenderError: other pages are missing, or there are too many.
    """
    if num_pages == count:
        return list(range(count))
    whole = [index for index, one in enumerate(own) if not _is_damaged(one)]
    if num_pages != len(whole):
        raise RenderError(f"the renderer gave {num_pages} pages for a deck of {count} slides")
    return [whole.index(index) if index in whole else None for index in range(count)]


def _is_damaged(own: Slide | odp.Extras) -> bool:
    return isinstance(own, Slide) and own.error is not None


def _rendered_page(
    document: pdf.Document,
    page_index: int,
    index: int,
    own: Slide | odp.Extras,
    package: Package,
    count: int,
) -> Segment:
    slide = own if isinstance(own, Slide) else None
    try:
        # Text beside the slide was not dropped by the renderer.
        is_checked = slide is not None
        page = document.page(page_index, with_fonts=is_checked, with_unseen=is_checked)
    except DecodeError as error:
        # What an ODP says beside its text is known without its page.
        known = own if isinstance(own, Slide) else _slide(own, (), "native_incomplete")
        return _segment(index, count, known, package, error=error)
    if isinstance(own, odp.Extras):
        return _segment(index, count, _read_from_page(page.lines, own), package, page=page)
    slide = own
    if slide.error is not None and _is_blank(page):
        return _segment(index, count, slide, package, error=slide.error)
    words = _printed_words(slide)
    found_ratio = found(words, page.lines)
    if found_ratio < _LOST_RATIO and len(words) >= _MIN_WORDS:
        lost = RenderError(
            f"the renderer dropped text of slide {index + 1}: "
            f"{found_ratio:.0%} of {len(words)} words are on its page"
        )
        return _segment(index, count, slide, package, error=lost)
    flags = ["render_differs"] if found_ratio < _DIFFERENT_RATIO else []
    instead = _words(slide.placeholders)
    if instead and found(instead, page.lines) >= _DIFFERENT_RATIO:
        flags.append("chart_not_rendered")
    if fonts.substituted(page.fonts, slide.typefaces):
        flags.append("fonts_missing")
    return _segment(index, count, slide, package, page=page, flags=tuple(flags))


def _is_blank(page: pdf.Page) -> bool:
    return not page.lines and page.image.getcolors(1) is not None


def _read_from_page(printed: Sequence[str], extras: odp.Extras) -> Slide:
    """Take a page's printed text for its own; what stands in its file's tables is not repeated."""
    text = [line for words in printed for line in lines(words)]
    return _slide(extras, tuple(_outside_tables(text, extras.tables)))


def _outside_tables(text: Sequence[str], tables: Sequence[odp.Table]) -> Iterator[str]:
    """Yield the lines that are no cell or row of a table; a cell may be printed on several."""
    rows = [row for table in tables for row in table]
    cells = {cell for row in rows for cell in row}
    said = {_squeezed(cell) for cell in cells} | {_squeezed("".join(row)) for row in rows}
    at = 0
    while at < len(text):
        num_lines = 1 if _squeezed(text[at]) in said else 0
        for count in range(2, _MAX_CELL_LINES + 1):
            num_lines = count if joined(text[at : at + count]) in cells else num_lines
        if not num_lines:
            yield text[at]
        at += max(num_lines, 1)


def _squeezed(text: str) -> str:
    return "".join(text.split())


def _slide(extras: odp.Extras, text: tuple[str, ...], *flags: str) -> Slide:
    native = Native(
        title=extras.title,
        text=text,
        notes=extras.notes,
        tables=extras.tables,
        charts=extras.charts,
    )
    return Slide(native=native, hidden=extras.hidden, flags=(*extras.flags, *flags))


def _extras(
    package: Package, rendered: bytes, document: pdf.Document, config: DeckConfig
) -> list[odp.Extras]:
    """Read a deck's own content beside its pages: an ODP's, or a PPT's in the PDF made of it.

    A PPTX that cannot be read as one has neither.
    """
    is_odp = package.num_pages is not None
    try:
        content = package.content if is_odp else hybrid_pdf.deck(rendered, document)
        extras = odp.extras(content, config)
    except DecodeError:
        extras = []
    if len(extras) != document.num_pages:
        return [odp.Extras(hidden=None, flags=("native_unreadable",))] * document.num_pages
    return extras


def _segment(  # noqa: PLR0913 - the columns of one row
    index: int,
    count: int,
    slide: Slide,
    package: Package,
    *,
    page: pdf.Page | None = None,
    flags: tuple[str, ...] = (),
    skip_reason: str | None = None,
    error: SegmentError | None = None,
) -> Segment:
    return Segment(
        index=index,
        count=count,
        kind="page",
        page_number=index + 1,
        image=page.image if page else None,
        native=slide.native,
        native_error=slide.error,
        hidden=slide.hidden,
        flags=(*package.flags, *slide.flags, *flags),
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


def found(words: Sequence[str], printed: Sequence[str]) -> float:
    """Return which share of words stands in a page's text, whatever its spacing and line breaks.

    Example:
        >>> found(["annual", "report", "2024"], ["AN NUAL Re", "port"])
        0.6666666666666666
    """
    squeezed = re.sub(r"[\W_]+", "", _plain("".join(printed)))
    return sum(word in squeezed for word in words) / len(words) if words else 1.0


def _plain(text: str) -> str:
    """Fold case, ligatures and widths, and drop soft hyphens."""
    return unicodedata.normalize("NFKC", text).casefold().replace("\u00ad", "")
