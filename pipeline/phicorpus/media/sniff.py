"""The media type of bytes, by content; by name where nothing better is known.

The content wins everywhere: a file's name and the manifest's declared type are only hints, and a
wrong one is common in real corpora and deliberate in hostile ones.
"""

from __future__ import annotations

import io
import re
import struct
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Final

from phicorpus.media import sniff_audio
from phicorpus.media.media_types import (
    ENCRYPTED_OFFICE,
    MEDIA_TYPES,
    ODP,
    PDF,
    PLAIN_TEXT,
    PPT,
    PPTX,
    asset_kind,
)
from phicorpus.media.segment import Bytes

POSTSCRIPT: Final = "application/postscript"

_DOCX = "application/vnd.openxmlformats-officedocument.wordprocessingml.document"
_XLSX = "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"

_BY_EXTENSION: Mapping[str, str] = {
    extension: entry.name for entry in MEDIA_TYPES.values() for extension in entry.extensions
}

# What is named, and not read.
_UNREAD_SIGNATURES = (
    (b"\x00\x00\x00\x0cJXL \r\n\x87\n", "image/jxl"),
    (b"II\xbc\x01", "image/jxr"),
    (b"8BPS", "image/vnd.adobe.photoshop"),
    (b"gimp xcf", "image/x-xcf"),
    (b"icns", "image/icns"),
    (b"\xc5\xd0\xd3\xc6", POSTSCRIPT),
    (b"%!PS", POSTSCRIPT),
    (b"\x04%!PS", POSTSCRIPT),
    (b"\xd7\xcd\xc6\x9a", "image/wmf"),
    (b"AT&TFORM", "image/vnd.djvu"),
    (b"\x97JB2\r\n\x1a\n", "image/x-jbig2"),
    (b"v/1\x01", "image/x-exr"),
    (b"#?RADIANCE", "image/vnd.radiance"),
    (b"#?RGBE", "image/vnd.radiance"),
    (b"SIMPLE  =", "image/fits"),
    (b"DDS ", "image/vnd-ms.dds"),
    (b"qoif", "image/qoi"),
    (b"FLIF", "image/flif"),
    (b"Y\xa6j\x95", "image/x-sun-raster"),
    (b"\x01\xda\x00\x01", "image/x-sgi"),
    (b"\x01\xda\x01\x01", "image/x-sgi"),
    (b"FUJIFILMCCD-RAW", "image/x-fuji-raf"),
    (b"IIRO", "image/x-olympus-orf"),
    (b"IIRS", "image/x-olympus-orf"),
    (b"MMOR", "image/x-olympus-orf"),
    (b"IIU\x00", "image/x-panasonic-rw2"),
    (b"\x00MRM", "image/x-minolta-mrw"),
    (b"FOVb", "image/x-sigma-x3f"),
    (b"\x1f\x8b", "application/gzip"),
    (b"7z\xbc\xaf'\x1c", "application/x-7z-compressed"),
    (b"Rar!\x1a\x07", "application/vnd.rar"),
    (b"{\\rtf", "application/rtf"),
    (b"PAR1", "application/vnd.apache.parquet"),
)

# Content that starts with these bytes is of this type, whatever follows.
_SIGNATURES: tuple[tuple[bytes, str], ...] = (
    *((mark, entry.name) for entry in MEDIA_TYPES.values() for mark in entry.signatures),
    *_UNREAD_SIGNATURES,
)

_FTYP_BRANDS: Mapping[bytes, str] = {
    b"avif": "image/avif",
    b"avis": "image/avif",
    b"heic": "image/heic",
    b"heix": "image/heic",
    b"hevc": "image/heic",
    b"heim": "image/heic",
    b"heis": "image/heic",
    b"mif1": "image/heic",
    b"msf1": "image/heic",
    b"crx ": "image/x-canon-cr3",
    b"M4A ": "audio/mp4",
    b"M4B ": "audio/mp4",
    b"qt  ": "video/quicktime",
}

_MIMETYPE_BYTES = 200
_ZIP_ENTRY = b"PK\x01\x02"  # APPNOTE.TXT, 4.3.12: each entry of a directory begins so
_MAX_ZIP_ENTRIES = 100_000  # of a ZIP whose directory is read here; each takes 400 bytes
_ZIP_HEAD_BYTES = 1024**2
_UNPACKED_BIT_BY_BIT = {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}  # others have no bound
_BROKEN_ZIP = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    ValueError,
    OSError,
    EOFError,
    KeyError,
    RuntimeError,
    OverflowError,
    MemoryError,
)
_PCX_BITS = {b"\x01", b"\x02", b"\x04", b"\x08"}
_BITMAP_HEADER_BYTES = {12, 16, 40, 52, 56, 64, 108, 124}


def sniff(content: Bytes) -> str | None:
    r"""Name the media type of bytes by what they are; None when it cannot be told.

    Types that nothing here decodes (ZIP, DOCX, SVG, HTML, plain text, ...) are named too, so that
    an error can say what was found.

    Example:
        >>> sniff(b"%PDF-1.7")
        'application/pdf'
        >>> sniff(b"RIFF\x24\x00\x00\x00WAVEfmt ")
        'audio/wav'
        >>> sniff(b"") is None
        True
    """
    tagged = sniff_audio.tag_bytes(content)
    if tagged:
        found = _sniff_untagged(memoryview(content)[tagged:])
        return found if asset_kind(found) == "audio" else "audio/mpeg"
    return _sniff_untagged(content)


def locate(content: Bytes, declared: str | None) -> tuple[str | None, int]:
    r"""Name the media type of bytes, and where what is of it begins, behind tags and junk.

    What is no known content is searched for the sound that the name or the manifest declares.

    Example:
        >>> locate(b"ID3\x04\0\0\0\0\0\0fLaC", None)
        ('audio/flac', 10)
    """
    found = sniff(content)
    if found in {None, PLAIN_TEXT}:
        return sniff_audio.search(content, declared) or (found, 0)
    start = sniff_audio.tag_bytes(content)
    if start == len(content):  # the tag's length is wrong, or all there is
        return sniff_audio.search(content, found) or (found, start)
    return found, start


def _sniff_untagged(content: Bytes) -> str | None:
    head = bytes(content[:64])
    for signature, media_type in _SIGNATURES:
        if head.startswith(signature):
            return media_type
    return _sniff_container(content, head) or _sniff_loose(content, head)


def guess(uri: str) -> str | None:
    """Name the media type that a URI's extension promises; None for an unknown one.

    Example:
        >>> guess("s3://bucket/talks/Keynote.PPTX?versionId=3") == PPTX
        True
        >>> guess("s3://bucket/talk #1?.wav"), guess("notes")
        ('audio/wav', None)
    """
    plain = re.split(r"[?#]", uri, maxsplit=1)[0]
    names = (plain,) if uri.startswith(("http://", "https://")) else (uri, plain)
    kinds = (_BY_EXTENSION.get(PurePosixPath(name).suffix.lower()) for name in names)
    return next((kind for kind in kinds if kind is not None), None)


def _sniff_container(content: Bytes, head: bytes) -> str | None:
    """Recognise container formats, whose type is inside."""
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "image/webp"
    if head[4:8] == b"ftyp":
        if head[8:12] in {b"mif1", b"msf1"} and b"avif" in head[12:]:
            return "image/avif"
        return _FTYP_BRANDS.get(head[8:12]) or (
            "audio/3gpp" if head[8:10] == b"3g" else "video/mp4"
        )
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return _sniff_zip(content)
    if head.startswith(b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"):
        return _sniff_ole(content)
    return sniff_audio.sniff_container(head)


def _sniff_zip(content: Bytes) -> str:
    """Distinguish the office formats; a damaged archive is judged by the names still in it."""
    head = bytes(content[:_ZIP_HEAD_BYTES])
    stored = re.match(
        rb"PK\x03\x04.{22}\x08\x00..mimetype([ -~]{1,200}?)(?:PK|$)", head[:300], re.DOTALL
    )
    named, names = _read_zip(content)
    if names is None:
        found = re.findall(rb"PK\x03\x04.{26}(\w+/)", head, re.DOTALL)
        names = [bytes(name).decode("latin-1") for name in found]
    named = named or (bytes(stored.group(1)) if stored is not None else b"")
    if named:
        return ODP if named.startswith(ODP.encode()) else named.decode("latin-1").strip()
    for folder, media_type in (("ppt/", PPTX), ("word/", _DOCX), ("xl/", _XLSX)):
        if any(name.lower().startswith(folder) for name in names):
            return media_type
    return "application/zip"


def _read_zip(content: Bytes) -> tuple[bytes, list[str] | None]:
    """Read a ZIP's names and the type it declares, within little memory; no names if it cannot."""
    whole = bytes(content)
    if whole.count(_ZIP_ENTRY) > _MAX_ZIP_ENTRIES:
        return b"", None
    try:
        with zipfile.ZipFile(io.BytesIO(whole)) as archive:
            names = archive.namelist()
            if "mimetype" not in names:
                return b"", names
            member = archive.getinfo("mimetype")
            small = member.file_size <= _MIMETYPE_BYTES
            if not small or member.compress_type not in _UNPACKED_BIT_BY_BIT:
                return b"", names
            with archive.open(member) as declared:
                return declared.read(_MIMETYPE_BYTES), names
    except _BROKEN_ZIP:
        return b"", None


def _sniff_ole(content: Bytes) -> str:
    """Recognise what an OLE compound file holds, by the stream names in its directory."""
    whole = bytes(content)
    for stream, media_type in (
        ("EncryptedPackage", ENCRYPTED_OFFICE),
        ("PowerPoint Document", PPT),
        ("WordDocument", "application/msword"),
        ("Workbook", "application/vnd.ms-excel"),
    ):
        if stream.encode("utf-16-le") in whole:
            return media_type
    return "application/x-ole-storage"


def _sniff_loose(content: Bytes, head: bytes) -> str | None:
    """Recognise formats without a clear signature, from the stricter to the looser test."""
    if b"%PDF-" in bytes(content[:1024]):  # Implementation note 13 of the PDF reference 1.7
        return PDF
    if head.startswith(b"BM") and int.from_bytes(head[14:18], "little") in _BITMAP_HEADER_BYTES:
        return "image/bmp"
    if re.match(rb"P[1-7Ff]\s", head) and (portable := _sniff_portable(head)):
        return portable
    return sniff_audio.sniff_frames(content) or _sniff_unread(content, head) or _sniff_text(content)


def _sniff_portable(head: bytes) -> str | None:
    """Distinguish the portable maps; two of them are not read."""
    if head[1:2] == b"7":
        return "image/x-portable-arbitrarymap"
    if head[1:2] in b"Ff":
        floats = re.match(rb"P[Ff]\s+\d+\s+\d+\s", head)
        return "image/x-portable-floatmap" if floats else None
    return "image/x-portable-anymap"


def _sniff_unread(content: Bytes, head: bytes) -> str | None:
    """Recognise images that are not read, with signatures that are short or not at the start."""
    if head.startswith(b"\xff\x0a"):
        return "image/jxl"
    if bytes(content[128:132]) == b"DICM":
        return "application/dicom"
    if head.startswith(b"\x01\x00\x00\x00") and head[40:44] == b" EMF":
        return "image/emf"
    if head[:4] in {b"\x00\x00\x01\x00", b"\x00\x00\x02\x00"} and _is_icon(head):
        return "image/vnd.microsoft.icon"
    if head[:3] in {b"\x0a\x05\x01", b"\x0a\x02\x01", b"\x0a\x03\x01"} and head[3:4] in _PCX_BITS:
        return "image/vnd.zbrush.pcx"
    return "image/x-tga" if bytes(content[-18:]) == b"TRUEVISION-XFILE.\x00" else None


def _is_icon(head: bytes) -> bool:
    """Return whether an icon's first entry is one: its data lie behind all entries."""
    count, reserved = int.from_bytes(head[4:6], "little"), head[9:10]
    start = int.from_bytes(head[18:22], "little")
    return count > 0 and reserved == b"\0" and start >= 6 + 16 * count


def _sniff_text(content: Bytes) -> str | None:
    """Distinguish text from bytes, and the markup languages from other text."""
    sample = bytes(content[:4096])
    if not sample or b"\x00" in sample:
        return None
    start = sample.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if start.startswith((b"<!doctype html", b"<html")):
        return "text/html"
    if start.startswith(b"<") and b"<svg" in start:
        return "image/svg+xml"
    if start.startswith(b"<?xml"):
        return "application/xml"
    try:
        sample.decode("utf-8")
    except UnicodeDecodeError as error:
        if error.start < len(sample) - 4:
            return None
    return PLAIN_TEXT
