"""Leave out of a PDF page's text what stands on layers that are off.

pdfium draws optional content as it is switched, and does not say how that is. So text on a layer is
compared with the picture: where the page looks the same without it, it is not on the page. Callers
hold pdfium's lock.
"""

from __future__ import annotations

import ctypes
import re
import zlib
from collections.abc import Iterator
from typing import Final

import pypdfium2 as pdfium
import pypdfium2.raw as pdfium_c

_OPTIONAL_CONTENT: Final = "OC"  # PDF 32000-1, 8.11.3.2
_NAME_BYTES: Final = 256
_MAX_LAYERS: Final = 64  # looked at, of one page
_SIDE_PX: Final = 1200  # of the pictures that are compared
_OBJECT_STREAM: Final = re.compile(rb"/ObjStm\b.{0,400}?stream\r?\n", re.DOTALL)
_MAX_STREAM_BYTES: Final = 4 * 1024**2
_MAX_STREAMS: Final = 2000

Layer = tuple[str, ...]


def may_be_in(content: bytes) -> bool:
    """Return whether a file names optional content outside its pages' own streams."""
    return b"/OC" in content or any(b"/OC" in stream for stream in _object_streams(content))


def switch_off_unseen(page: pdfium.PdfPage, *, with_forms: bool) -> None:
    """Make text inactive that is on a layer and changes no pixel; it is no text of the page then.

    Args:
        page: Open; it is not to be drawn afterwards.
        with_forms: Look at forms (parts that are drawn as a whole) too, which may be on a layer
            without a sign of it.
    """
    layers = _layers(page, with_forms=with_forms)
    if not layers:
        return
    whole = _drawn(page)
    for objects in list(layers.values())[:_MAX_LAYERS]:
        _set_active(objects, active=False)
        if _drawn(page) != whole:
            _set_active(objects, active=True)


def hide_unseen_annotations(page: pdfium.PdfPage, *, has_form: bool) -> None:
    """Hide annotations that are not drawn, and no others: flattening has rules of its own.

    It draws what is not for the screen, and fields of no form; and leaves out what is called
    invisible, though that holds for unknown kinds only (ISO 32000-2, table 167).
    """
    for number in range(pdfium_c.FPDFPage_GetAnnotCount(page)):
        annotation = pdfium_c.FPDFPage_GetAnnot(page, number)
        if not annotation:
            continue
        flags = pdfium_c.FPDFAnnot_GetFlags(annotation) & ~pdfium_c.FPDF_ANNOT_FLAG_INVISIBLE
        is_field = pdfium_c.FPDFAnnot_GetSubtype(annotation) == pdfium_c.FPDF_ANNOT_WIDGET
        if flags & pdfium_c.FPDF_ANNOT_FLAG_NOVIEW or (is_field and not has_form):
            flags |= pdfium_c.FPDF_ANNOT_FLAG_HIDDEN
        pdfium_c.FPDFAnnot_SetFlags(annotation, flags)
        pdfium_c.FPDFPage_CloseAnnot(annotation)


def _layers(page: pdfium.PdfPage, *, with_forms: bool) -> dict[Layer, list[pdfium.PdfObject]]:
    """Group the page's texts by the layers they are on."""
    layers: dict[Layer, list[pdfium.PdfObject]] = {}
    kinds = [pdfium_c.FPDF_PAGEOBJ_TEXT, *([pdfium_c.FPDF_PAGEOBJ_FORM] if with_forms else [])]
    for number, item in enumerate(page.get_objects(filter=kinds)):
        names = tuple(_marks(item))
        is_form = pdfium_c.FPDFPageObj_GetType(item) == pdfium_c.FPDF_PAGEOBJ_FORM
        if names or is_form:
            alone = is_form or "" in names  # a group of layers has no name
            layers.setdefault((*names, str(number)) if alone else names, []).append(item)
    return layers


def _marks(item: pdfium.PdfObject) -> Iterator[str]:
    """Return the names of the layers that an object is marked with."""
    for number in range(max(pdfium_c.FPDFPageObj_CountMarks(item), 0)):
        mark = pdfium_c.FPDFPageObj_GetMark(item, number)
        buffer, length = (ctypes.c_ushort * _NAME_BYTES)(), ctypes.c_ulong()
        size = ctypes.sizeof(buffer)
        pdfium_c.FPDFPageObjMark_GetName(mark, buffer, size, length)
        if _text(buffer, length) == _OPTIONAL_CONTENT:
            named = pdfium_c.FPDFPageObjMark_GetParamStringValue(
                mark, b"Name", buffer, size, length
            )
            yield _text(buffer, length) if named else ""


def _text(buffer: ctypes.Array[ctypes.c_ushort], length: ctypes.c_ulong) -> str:
    return bytes(buffer)[: length.value].decode("utf-16-le", "replace").rstrip("\0")


def _set_active(objects: list[pdfium.PdfObject], *, active: bool) -> None:
    for item in objects:
        pdfium_c.FPDFPageObj_SetIsActive(item, active)


def _drawn(page: pdfium.PdfPage) -> bytes:
    scale = _SIDE_PX / max(*page.get_size(), 1.0)
    bitmap = page.render(scale=scale, grayscale=True)  # pyright: ignore[reportArgumentType] - annotated by its default, 1
    try:
        return bytes(bitmap.buffer)
    finally:
        bitmap.close()


def _object_streams(content: bytes) -> Iterator[bytes]:
    view = memoryview(content)
    for number, found in enumerate(_OBJECT_STREAM.finditer(content)):
        if number == _MAX_STREAMS:
            return
        try:
            yield zlib.decompressobj().decompress(view[found.end() :], _MAX_STREAM_BYTES)
        except zlib.error:
            continue
