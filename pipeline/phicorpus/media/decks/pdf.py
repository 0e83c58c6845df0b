"""Decode PDF with pdfium: each page's pixels and its own text, one page at a time.

pdfium is not thread safe: every call into it holds one lock for the process. `decode.py` runs this
module in a sandbox, since pdfium is a large C++ library that reads hostile input.
"""

from __future__ import annotations

import math
import threading
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

import pypdfium2 as pdfium
import pypdfium2.raw as pdfium_c
from PIL import Image

from phicorpus.config import DeckConfig
from phicorpus.errors import DecodeError, LimitExceeded, PasswordRequired
from phicorpus.media.decks import pdf_layers
from phicorpus.media.lines import clean_lines
from phicorpus.media.segment import Native, Segment

POINTS_PER_INCH: Final = 72.0
"""PDF 32000-1, 8.3.2.3: the default unit of user space."""

_PDFIUM = threading.Lock()
_SEPARATORS = "\u200b\u200c\u200d\ufeff\ufffe\u00ad\u0002"  # pdfium's hyphens among them
_NO_SIGNS = {"Co", "Cn", "Cc", "Cs"}
_MIN_SIGNS, _MANY_SIGNS = 10, 100
_SOME, _FEW = 0.2, 0.05
_BROKEN = (pdfium.PdfiumError, ValueError, TypeError, OverflowError, MemoryError, OSError)


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """One rendered page.

    Attributes:
        image: RGB.
        lines: The page's own text in the file's order, without empty lines; () for a scan. What is
            filled into a form's fields is among it.
        fonts: Names of the fonts its text is set in, where asked for.
        is_garbled: Its text layer is there, and says nothing: its codes stand for no letters.
    """

    image: Image.Image
    lines: tuple[str, ...]
    fonts: frozenset[str] = frozenset()
    is_garbled: bool = False


class Document:
    """An open PDF; close it, or use it in a `with`.

    Attributes:
        num_pages: How many pages it has.
        flags: "xfa_not_rendered": a form whose pages are made by the reader, and are a notice here;
            "attachments_left_out": it brings files along, of which a portfolio consists.

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
            form_type = self._document.get_formtype()
            if form_type != pdfium_c.FORMTYPE_NONE:
                self._document.init_forms()  # else filled-in fields stay blank
            self._may_have_layers = pdf_layers.may_be_in(content)
            attached = self._document.count_attachments() > 0
            self.flags = (
                *(("xfa_not_rendered",) if form_type == pdfium_c.FORMTYPE_XFA_FULL else ()),
                *(("attachments_left_out",) if attached else ()),
            )
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
        """Close the document, which frees its memory."""
        with _PDFIUM:
            self._document.close()

    def attachment(self, prefix: str) -> bytes | None:
        """Return the first attached file whose name begins so; None if there is none."""
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
                    drawn_over = pdfium_c.FPDFPage_GetAnnotCount(page) > 0 and _flattened(
                        page, has_form=self._document.formenv is not None
                    )
                    raw = None if drawn_over else self._text(page, with_unseen=with_unseen)
                if raw is None:
                    with self._opened(index) as page:
                        raw = self._text(page, with_unseen=with_unseen)
                return Page(
                    image=image,
                    lines=clean_lines(raw.splitlines()),
                    fonts=fonts,
                    is_garbled=is_garbled(raw),
                )
        except _BROKEN as error:
            raise DecodeError(f"broken page {index + 1}: {error}") from error

    def _text(self, page: pdfium.PdfPage, *, with_unseen: bool) -> str:
        """Read a page's text; the page is not to be drawn afterwards."""
        if not with_unseen:
            pdf_layers.switch_off_unseen(page, with_forms=self._may_have_layers)
        textpage = page.get_textpage()
        try:
            if with_unseen or _is_seen(textpage, page.get_bbox()):
                return textpage.get_text_range()
            return textpage.get_text_bounded()
        finally:
            textpage.close()

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


def segments(content: bytes, config: DeckConfig, *, first_index: int = 0) -> Iterator[Segment]:
    """Decode a PDF page by page, from the page at `first_index`.

    Yields:
        One segment per page, with image and `native` text, as far as it is on the page. A broken
        page is a segment with an error. Flags: the document's, and "text_layer_garbled" of a page
        whose text is no text.

    Raises:
        PasswordRequired, DecodeError, LimitExceeded: as `Document` does.
    """
    with Document(content, config) as document:
        for index in range(first_index, document.num_pages):
            try:
                page = document.page(index)
            except DecodeError as error:
                yield _segment(index, document, error=error)
            else:
                yield _segment(index, document, page=page)


def _segment(
    index: int, document: Document, *, page: Page | None = None, error: DecodeError | None = None
) -> Segment:
    garbled = page is not None and page.is_garbled
    return Segment(
        index=index,
        count=document.num_pages,
        kind="page",
        page_number=index + 1,
        image=page.image if page else None,
        native=Native(text=page.lines) if page else None,
        flags=(*document.flags, *(("text_layer_garbled",) if garbled else ())),
        error=error,
    )


def _open(content: bytes) -> pdfium.PdfDocument:
    try:
        return pdfium.PdfDocument(content)
    except pdfium.PdfiumError as error:
        if getattr(error, "err_code", None) == pdfium_c.FPDF_ERR_PASSWORD:
            raise PasswordRequired("the PDF opens with a password only") from error
        raise DecodeError(f"not a readable PDF: {len(content)} bytes, {error}") from error


def _flattened(page: pdfium.PdfPage, *, has_form: bool) -> bool:
    """Make what is filled in, and drawn by annotations, a part of the page when it is opened anew.

    Hidden annotations are dropped; notes have an icon, and no text that is drawn.
    """
    pdf_layers.hide_unseen_annotations(page, has_form=has_form)
    done = pdfium_c.FPDFPage_Flatten(page, pdfium_c.FLAT_NORMALDISPLAY)
    return done == pdfium_c.FLATTEN_SUCCESS


def _is_seen(textpage: pdfium.PdfTextPage, page: tuple[float, float, float, float]) -> bool:
    """Return whether all text touches the page; boxes are left, bottom, right, top."""
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


def is_garbled(text: str) -> bool:
    r"""Return whether a text layer differs from the page: its fonts name their signs wrongly.

    Many of its characters are of no alphabet (private use, or replaced), or are Latin letters with
    their two bytes swapped, or a long text has neither letters nor digits.

    Example:
        >>> is_garbled("A total of 12 (twelve) pages"), is_garbled("\ue001\ue002 \ue003" * 9)
        (False, True)
        >>> is_garbled("Total".encode("utf-16-le").decode("utf-16-be") * 4)
        True
    """
    signs = [char for char in text if not char.isspace() and char not in _SEPARATORS]
    if len(signs) < _MIN_SIGNS:
        return False
    unknown = sum(unicodedata.category(char) in _NO_SIGNS or char == "\ufffd" for char in signs)
    swapped = sum(not ord(char) & 0xFF and 0x20 < ord(char) >> 8 < 0x7F for char in signs)  # noqa: PLR2004 - ASCII
    plain = sum(char.isalnum() for char in signs)
    none_plain = len(signs) >= _MANY_SIGNS and plain < len(signs) * _FEW
    return max(unknown, swapped) > len(signs) * _SOME or none_plain
