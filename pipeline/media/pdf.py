"""Decode PDF with pdfium: each page's pixels and its own text, one page at a time.

pdfium is not thread safe: every call into it holds one lock for the process. `decode.py` runs this
module in a sandbox, since pdfium is a large C++ library that reads hostile input.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

import pypdfium2 as pdfium
import pypdfium2.raw as pdfium_c
from PIL import Image

from pipeline.config import DeckConfig
from pipeline.errors import DecodeError, LimitExceeded, PasswordRequired
from pipeline.media.piece import Native, Piece

POINTS_PER_INCH: Final = 72.0
"""PDF 32000-1, 8.3.2.3: the default unit of user space."""

_PDFIUM = threading.Lock()
_BROKEN = (pdfium.PdfiumError, ValueError, TypeError, OverflowError, MemoryError, OSError)


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """One rendered page.

    Attributes:
        image: RGB.
        lines: The page's own text in the file's order, without empty lines; () for a scan. What is
            filled into a form's fields is among it.
        fonts: Names of the fonts its text is set in, where asked for.
    """

    image: Image.Image
    lines: tuple[str, ...]
    fonts: frozenset[str] = frozenset()


class Document:
    """An open PDF; close it, or use it in a `with`.

    Raises:
        PasswordRequired: it opens with a password only.
        DecodeError: not a PDF, truncated, or without pages.
        LimitExceeded: more than `decks.max_pages` pages.
    """

    def __init__(self, content: bytes, config: DeckConfig) -> None:
        self._config = config
        with _PDFIUM:
            self._document = _open(content)
            self.num_pages = len(self._document)
            self._has_form = self._document.get_formtype() != pdfium_c.FORMTYPE_NONE
            if self._has_form:
                self._document.init_forms()  # else filled-in fields stay blank
        if not 0 < self.num_pages <= config.max_pages:
            self.close()
            if self.num_pages:
                raise LimitExceeded(
                    f"decks.max_pages: {self.num_pages} pages, limit {config.max_pages}"
                )
            raise DecodeError("a PDF without pages")

    def __enter__(self) -> Document:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give the document's memory back."""
        with _PDFIUM:
            self._document.close()

    def attachment(self, prefix: str) -> bytes | None:
        """Give the first attached file whose name begins so; None if there is none."""
        with _PDFIUM:
            for index in range(self._document.count_attachments()):
                attached = self._document.get_attachment(index)
                if attached.get_name().startswith(prefix):
                    return bytes(attached.get_data())
        return None

    def page(self, index: int, *, with_fonts: bool = False, with_unseen: bool = False) -> Page:
        """Render the page at `index`, from 0, at `decks.dpi` within `decks.max_side_px`.

        Args:
            index: Of the page.
            with_fonts: Name the fonts of its text.
            with_unseen: Give text outside of the page too: beside it, or cropped away.

        Raises:
            DecodeError: the page is broken or without area.
        """
        try:
            with _PDFIUM:
                with self._opened(index) as page:
                    image = self._render(page)
                    fonts = _fonts(page) if with_fonts else frozenset[str]()
                    lines = _lines(page, with_unseen=with_unseen)
                    filled = self._has_form and _flattened(page)
                if filled:
                    with self._opened(index) as page:
                        lines = _lines(page, with_unseen=with_unseen)
                return Page(image=image, lines=lines, fonts=fonts)
        except _BROKEN as error:
            raise DecodeError(f"broken page {index + 1}: {error}") from error

    @contextmanager
    def _opened(self, index: int) -> Iterator[pdfium.PdfPage]:
        page = self._document[index]
        try:
            yield page
        finally:
            page.close()

    def _render(self, page: pdfium.PdfPage) -> Image.Image:
        width, height = page.get_size()
        longest = max(width, height)
        if not (math.isfinite(longest) and min(width, height) > 0):
            raise ValueError(f"page size {width} x {height} points")
        scale = min(self._config.dpi / POINTS_PER_INCH, self._config.max_side_px / longest)
        if min(width, height) * scale < 1:
            raise ValueError(f"page size {width:g} x {height:g} points is a line")
        bitmap = page.render(
            scale=scale,  # pyright: ignore[reportArgumentType] - annotated by its default, 1
            rev_byteorder=True,
            may_draw_forms=True,
        )
        try:
            return bitmap.to_pil().convert("RGB")
        finally:
            bitmap.close()


def pieces(content: bytes, config: DeckConfig, *, first_index: int = 0) -> Iterator[Piece]:
    """Decode a PDF page by page, from the page at `first_index`.

    Yields:
        One piece per page, with image and `native` text, as far as it is on the page. A broken page
        is a piece with an error.

    Raises:
        PasswordRequired, DecodeError, LimitExceeded: as `Document` does.
    """
    with Document(content, config) as document:
        for index in range(first_index, document.num_pages):
            try:
                page = document.page(index)
            except DecodeError as error:
                yield _piece(index, document.num_pages, error=error)
            else:
                yield _piece(index, document.num_pages, page=page)


def _piece(
    index: int, count: int, *, page: Page | None = None, error: DecodeError | None = None
) -> Piece:
    return Piece(
        index=index,
        count=count,
        kind="page",
        page_number=index + 1,
        image=page.image if page else None,
        native=Native(text=page.lines) if page else None,
        error=error,
    )


def _open(content: bytes) -> pdfium.PdfDocument:
    try:
        return pdfium.PdfDocument(content)
    except pdfium.PdfiumError as error:
        if getattr(error, "err_code", None) == pdfium_c.FPDF_ERR_PASSWORD:
            raise PasswordRequired("the PDF opens with a password only") from error
        raise DecodeError(f"not a readable PDF: {len(content)} bytes, {error}") from error


def _flattened(page: pdfium.PdfPage) -> bool:
    """Make what is filled in a part of the page, which shows when it is opened anew."""
    try:
        page.flatten()
    except pdfium.PdfiumError:
        return False
    return True


def _lines(page: pdfium.PdfPage, *, with_unseen: bool) -> tuple[str, ...]:
    textpage = page.get_textpage()
    try:
        if with_unseen or _is_seen(textpage, page.get_bbox()):
            return clean_lines(textpage.get_text_range().splitlines())
        return clean_lines(textpage.get_text_bounded().splitlines())
    finally:
        textpage.close()


def _is_seen(textpage: pdfium.PdfTextPage, page: tuple[float, float, float, float]) -> bool:
    """Tell whether all text touches the page; boxes are left, bottom, right, top."""
    boxes = (textpage.get_rect(number) for number in range(textpage.count_rects()))
    return all(
        box[0] <= page[2] and box[1] <= page[3] and box[2] >= page[0] and box[3] >= page[1]
        for box in boxes
    )


def _fonts(page: pdfium.PdfPage) -> frozenset[str]:
    texts = page.get_objects(filter=[pdfium_c.FPDF_PAGEOBJ_TEXT])
    return frozenset(
        text.get_font().get_base_name() for text in texts if isinstance(text, pdfium.PdfTextObj)
    )


def clean_lines(lines: Sequence[str]) -> tuple[str, ...]:
    r"""Drop control characters, noncharacters, lone surrogates and empty lines.

    Example:
        >>> clean_lines(["a\x00b\ufffe", " ", "c "])
        ('ab', 'c')
    """
    kept = ("".join(char for char in line if _is_text(char)).strip() for line in lines)
    return tuple(line for line in kept if line)


def _is_text(char: str) -> bool:
    return char == "\t" or (
        char.isprintable() or char.isspace() or char in "\u200c\u200d\u200e\u200f\u00ad"
    )
