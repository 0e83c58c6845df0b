"""What bytes are: the media type by content, and by name where nothing better is known.

The content wins everywhere: a file's name and the manifest's declared type are only hints, and a
wrong one is common in real corpora and deliberate in hostile ones.
"""

from __future__ import annotations

import io
import re
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Final

from pipeline.media import sniff_audio
from pipeline.media.audio_types import AUDIO_EXTENSIONS, DEMUXERS
from pipeline.media.piece import AssetKind, Bytes
from pipeline.media.sniff_audio import AUDIO_SIGNATURES

PDF: Final = "application/pdf"
PPTX: Final = "application/vnd.openxmlformats-officedocument.presentationml.presentation"
PPT: Final = "application/vnd.ms-powerpoint"
ODP: Final = "application/vnd.oasis.opendocument.presentation"
ENCRYPTED_OFFICE: Final = "application/x-encrypted-office"
PLAIN_TEXT: Final = "text/plain"
MARKDOWN: Final = "text/markdown"

_DOCX = "application/vnd.openxmlformats-officedocument.wordprocessingml.document"
_XLSX = "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"

_BY_EXTENSION: Mapping[str, str] = {
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".jpe": "image/jpeg",
    ".png": "image/png",
    ".gif": "image/gif",
    ".webp": "image/webp",
    ".tif": "image/tiff",
    ".tiff": "image/tiff",
    ".bmp": "image/bmp",
    ".jp2": "image/jp2",
    ".j2k": "image/jp2",
    ".jpx": "image/jp2",
    ".avif": "image/avif",
    ".heic": "image/heic",
    ".heif": "image/heic",
    ".pbm": "image/x-portable-anymap",
    ".pgm": "image/x-portable-anymap",
    ".ppm": "image/x-portable-anymap",
    ".pnm": "image/x-portable-anymap",
    ".pdf": PDF,
    ".pptx": PPTX,
    ".pptm": PPTX,
    ".ppsx": PPTX,
    ".ppsm": PPTX,
    ".potx": PPTX,
    ".ppt": PPT,
    ".pps": PPT,
    ".pot": PPT,
    ".odp": ODP,
    ".otp": ODP,
    **AUDIO_EXTENSIONS,
    ".txt": PLAIN_TEXT,
    ".md": MARKDOWN,
    ".markdown": MARKDOWN,
}

ASSET_KINDS: Mapping[str, AssetKind] = {
    **{
        media_type: "image"
        for media_type in _BY_EXTENSION.values()
        if media_type.startswith("image/")
    },
    **dict.fromkeys(DEMUXERS, "audio"),
    PDF: "deck",
    PPTX: "deck",
    PPT: "deck",
    ODP: "deck",
    ENCRYPTED_OFFICE: "deck",
    PLAIN_TEXT: "text",
    MARKDOWN: "text",
}

# Content that starts with these bytes is of this type, whatever follows.
_SIGNATURES: tuple[tuple[bytes, str], ...] = (
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"GIF87a", "image/gif"),
    (b"GIF89a", "image/gif"),
    (b"II*\x00", "image/tiff"),
    (b"MM\x00*", "image/tiff"),
    (b"II+\x00", "image/tiff"),
    (b"MM\x00+", "image/tiff"),
    (b"\x00\x00\x00\x0cjP  \r\n\x87\n", "image/jp2"),
    (b"\xff\x4f\xff\x51", "image/jp2"),
    (b"8BPS", "image/vnd.adobe.photoshop"),
    (b"\x1f\x8b", "application/gzip"),
    (b"7z\xbc\xaf\x27\x1c", "application/x-7z-compressed"),
    (b"Rar!\x1a\x07", "application/vnd.rar"),
    (b"{\\rtf", "application/rtf"),
    (b"PAR1", "application/vnd.apache.parquet"),
    *AUDIO_SIGNATURES,
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
    b"M4A ": "audio/mp4",
    b"M4B ": "audio/mp4",
    b"qt  ": "video/quicktime",
}

_MIMETYPE_BYTES = 200
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
    return found, sniff_audio.tag_bytes(content)


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


def asset_kind(media_type: str | None) -> AssetKind | None:
    """Tell which decoder family reads a media type; None for a type that is not read.

    Example:
        >>> asset_kind("image/png"), asset_kind("video/mp4"), asset_kind("text/html")
        ('image', 'audio', None)
    """
    return ASSET_KINDS.get(media_type) if media_type else None


def _sniff_container(content: Bytes, head: bytes) -> str | None:
    """Tell container formats, whose type stands inside."""
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
    """Tell the office formats apart; a damaged archive is judged by the names still in it."""
    stored = re.match(rb"PK\x03\x04.{22}\x08\x00..mimetype([ -~]+?)(?:PK|$)", content, re.DOTALL)
    named = bytes(stored.group(1)) if stored is not None else b""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            names = archive.namelist()
            if "mimetype" in names and archive.getinfo("mimetype").file_size <= _MIMETYPE_BYTES:
                named = archive.read("mimetype")
    except (zipfile.BadZipFile, zlib.error, ValueError, OSError, EOFError, RuntimeError):
        found = re.findall(rb"PK\x03\x04.{26}(\w+/)", content)
        names = [bytes(name).decode("latin-1") for name in found]
    if named:
        return ODP if named.startswith(ODP.encode()) else named.decode("latin-1").strip()
    for folder, media_type in (("ppt/", PPTX), ("word/", _DOCX), ("xl/", _XLSX)):
        if any(name.startswith(folder) for name in names):
            return media_type
    return "application/zip"


def _sniff_ole(content: Bytes) -> str:
    """Tell what an OLE compound file holds, by the stream names in its directory."""
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
    """Tell formats without a clear signature; ordered from the stricter to the looser test."""
    if b"%PDF-" in bytes(content[:1024]):  # Implementation note 13 of the PDF reference 1.7
        return PDF
    if head.startswith(b"BM") and int.from_bytes(head[14:18], "little") in _BITMAP_HEADER_BYTES:
        return "image/bmp"
    if re.match(rb"P[1-6]\s", head):
        return "image/x-portable-anymap"
    if re.match(rb"P7\s", head):
        return "image/x-portable-arbitrarymap"  # which is not read
    return sniff_audio.sniff_frames(content) or _sniff_text(content)


def _sniff_text(content: Bytes) -> str | None:
    """Tell text from bytes, and the markup languages from other text."""
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
