"""Look into an office document's ZIP before any program opens it whole.

Python's zipfile reads one member at a time and never more than the directory announces, so a bomb
is refused for what it says about itself, and costs milliseconds. What points outside the file is
cut before a renderer sees it: its own settings and the lack of a network come second.
"""

from __future__ import annotations

import io
import re
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final
from xml.etree import ElementTree as ET

from lxml import etree  # pyright: ignore[reportAttributeAccessIssue] - has no stubs

from pipeline.config import DeckConfig
from pipeline.errors import DecodeError, LimitExceeded, PasswordRequired
from pipeline.media import sniff

_RELATIONSHIPS: Final = "http://schemas.openxmlformats.org/package/2006/relationships"
_XLINK_HREF: Final = "{http://www.w3.org/1999/xlink}href"
_DRAW_PAGE: Final = "{urn:oasis:names:tc:opendocument:xmlns:drawing:1.0}page"
_HYPERLINK = "/hyperlink"
_NOWHERE = "https://link.invalid/"  # RFC 2606: a name that no network knows
_URL = re.compile(r"\s*(?:[a-z][\w+.-]*:|[/\\]{2})", re.IGNORECASE)
_OUTSIDE = re.compile(r"\s*(?:[a-z][\w+.-]*:|[/\\])|.*(?:\.\.|%2e)", re.IGNORECASE | re.DOTALL)
_CONTENT_TYPES = "[Content_Types].xml"
_RATIO_FROM_BYTES = 1024**2  # below it any ratio is harmless
_ENCRYPTED = 0x1  # general purpose bit 0: APPNOTE.TXT 4.4.4
_HEAD_BYTES = 1024
_CHUNK_BYTES = 1024**2
_OVERLAP_BYTES = 32  # longer than any of the words below

# Each spelled in the encodings that an XML parser detects by itself (XML 1.0, appendix F).
_DETECTED = ("utf-8", "utf-16-le", "utf-16-be")
_DOCTYPES = tuple("<!DOCTYPE".encode(name) for name in _DETECTED)
_ENTITIES = tuple("<!ENTITY".encode(name) for name in _DETECTED)
_MARKUP = re.compile(rb"(?:\xef\xbb\xbf|\xff\xfe|\xfe\xff)?[\s\x00]*<")
_ENCODING = re.compile(rb"""(?:\xef\xbb\xbf)?\s*<\?xml[^>]*?encoding\s*=\s*["']([^"']+)""")
_PLAIN_ENCODINGS = {b"utf-8", b"utf8", b"us-ascii", b"ascii", b"utf-16", b"iso-8859-1"}

# Slide shows and templates are presentations in all but this one word of their table of contents.
_MAIN_PART = re.compile(
    rb"(application/vnd\.)(?:openxmlformats-officedocument\.presentationml\.(?:slideshow|template)"
    rb"|ms-powerpoint\.(?:slideshow|template)\.macroEnabled)(\.main\+xml)"
)
_PRESENTATION = rb"\1openxmlformats-officedocument.presentationml.presentation\2"

_BROKEN = (
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    OSError,
    ValueError,
    RuntimeError,
    NotImplementedError,
    KeyError,
    ET.ParseError,
    etree.LxmlError,
    MemoryError,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Package:
    """A document that may be opened.

    Attributes:
        content: The file; without its external parts, where it had some.
        num_pages: As the file itself says; None for PPTX, whose reader counts them.
        flags: "external_links": pictures, films or data that it fetches from elsewhere; left out.
    """

    content: bytes
    num_pages: int | None = None
    flags: tuple[str, ...] = ()


def check(content: bytes, media_type: str, config: DeckConfig) -> Package:
    """Refuse what would hurt a program that opens it, and cut what reaches outside the file.

    Raises:
        DecodeError: not a whole ZIP, an unsafe member name, a DOCTYPE, or an odd XML encoding.
        PasswordRequired: encrypted.
        LimitExceeded: more or larger members than `decks.max_members`, `decks.max_member_bytes`,
            `decks.max_unzipped_bytes` or `decks.max_zip_ratio` (of markup) allow.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            members = archive.infolist()
            _check_sizes(members, config)
            for member in members:
                _check_name(member)
                _check_markup(archive, member, config)
            if media_type == sniff.ODP:
                return _opendocument(content, archive)
            return _presentation(content, archive)
    except _BROKEN as error:
        raise DecodeError(
            f"broken {_short(media_type)}: {error or type(error).__name__}"
        ) from error


def checked(content: bytes, media_type: str, config: DeckConfig) -> Iterator[Package]:
    """Give `check`'s one answer; a generator, so that it can run in a sandbox."""
    yield check(content, media_type, config)


def _check_sizes(members: list[zipfile.ZipInfo], config: DeckConfig) -> None:
    if len(members) > config.max_members:
        raise LimitExceeded(f"decks.max_members: {len(members)}, limit {config.max_members}")
    total_bytes = sum(member.file_size for member in members)
    if total_bytes > config.max_unzipped_bytes:
        raise LimitExceeded(
            f"decks.max_unzipped_bytes: {total_bytes}, limit {config.max_unzipped_bytes}"
        )
    for member in members:
        if member.file_size > config.max_member_bytes:
            raise LimitExceeded(
                f"decks.max_member_bytes: {member.filename} has {member.file_size}, "
                f"limit {config.max_member_bytes}"
            )


def _check_name(member: zipfile.ZipInfo) -> None:
    name = member.filename.replace("\\", "/")
    if name.startswith("/") or ".." in name.split("/"):
        raise DecodeError(f"unsafe member name {member.filename!r}")
    if member.flag_bits & _ENCRYPTED:
        raise PasswordRequired(f"member {member.filename!r} is encrypted")


def _check_markup(archive: zipfile.ZipFile, member: zipfile.ZipInfo, config: DeckConfig) -> None:
    """Refuse a DOCTYPE: renderers answer its entities with slides whose text is gone.

    Markup is told by its first bytes, since a part's type does not depend on its name. Pictures
    are left out of the ratio: a white bitmap packs better than any bomb of markup.
    """
    with archive.open(member) as part:
        window = part.read(_HEAD_BYTES)
        if not _MARKUP.match(window):
            return
        ratio = member.file_size / max(member.compress_size, 1)
        if member.file_size > _RATIO_FROM_BYTES and ratio > config.max_zip_ratio:
            raise LimitExceeded(
                f"decks.max_zip_ratio: {member.filename} unpacks {ratio:.0f} times, "
                f"limit {config.max_zip_ratio:g}"
            )
        encoding = _ENCODING.match(window)
        if encoding and encoding.group(1).lower() not in _PLAIN_ENCODINGS:
            raise DecodeError(f"{member.filename}: XML encoding {encoding.group(1)!r}")
        # Drawings may name their DOCTYPE, as long as it defines nothing.
        refused = _ENTITIES if member.filename.lower().endswith(".svg") else _DOCTYPES
        while window:
            if any(declaration in window for declaration in refused):
                raise DecodeError(f"{member.filename} has a DOCTYPE, which no deck needs")
            chunk = part.read(_CHUNK_BYTES)
            window = window[-_OVERLAP_BYTES:] + chunk if chunk else b""


def _presentation(content: bytes, archive: zipfile.ZipFile) -> Package:
    """Cut relationships that point outside, and open slide shows like presentations."""
    changed: dict[str, bytes] = {}
    external = False
    for name in archive.namelist():
        if name.lower().endswith(".rels"):
            cut, fetched = _without_external(archive.read(name))
            external |= fetched
            if cut is not None:
                changed[name] = cut
    if _CONTENT_TYPES in archive.namelist():
        table = archive.read(_CONTENT_TYPES)
        plain = _MAIN_PART.sub(_PRESENTATION, table)
        if plain != table:
            changed[_CONTENT_TYPES] = plain
    return Package(
        content=_rewritten(archive, changed) if changed else content,
        flags=("external_links",) if external else (),
    )


def _without_external(markup: bytes) -> tuple[bytes | None, bool]:
    """Cut the external relationships of a .rels part.

    Hyperlinks stay, with nowhere to go: a renderer follows them too where a picture names one.

    Returns:
        The part, or None where nothing changed; and whether more than hyperlinks was cut.
    """
    if b"TargetMode" not in markup and b":" not in markup and b"\x00" not in markup[:4]:
        return None, False
    root = ET.fromstring(markup)  # noqa: S314 - a DOCTYPE was refused
    links = [relation for relation in root if _is_external(relation)]
    fetched = [link for link in links if not link.get("Type", "").endswith(_HYPERLINK)]
    for link in links:
        if link in fetched:
            root.remove(link)
        else:
            link.set("Target", _NOWHERE)
            link.set("TargetMode", "External")
    ET.register_namespace("", _RELATIONSHIPS)
    cut = ET.tostring(root, encoding="UTF-8", xml_declaration=True) if links else None
    return cut, bool(fetched)


def _is_external(relation: ET.Element) -> bool:
    return relation.get("TargetMode") == "External" or bool(_URL.match(relation.get("Target", "")))


def _rewritten(archive: zipfile.ZipFile, changed: dict[str, bytes]) -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as copy:
        for name in dict.fromkeys(archive.namelist()):
            copy.writestr(
                zipfile.ZipInfo(name), changed[name] if name in changed else archive.read(name)
            )
    return target.getvalue()


def _opendocument(content: bytes, archive: zipfile.ZipFile) -> Package:
    manifest = archive.read("META-INF/manifest.xml") if _has(archive, "manifest.xml") else b""
    if b"encryption-data" in manifest:
        raise PasswordRequired("the OpenDocument presentation is encrypted")
    changed: dict[str, bytes] = {}
    num_pages = 0
    for name in archive.namelist():
        markup = archive.read(name) if name.endswith(".xml") else b""
        if markup.strip():  # some parts are there, but empty
            cut, num_found = _without_hrefs(markup)
            num_pages += num_found if name == "content.xml" else 0
            if cut is not None:
                changed[name] = cut
    return Package(
        content=_rewritten(archive, changed) if changed else content,
        num_pages=num_pages,
        flags=("external_links",) if set(changed) - {"meta.xml"} else (),  # it names a template
    )


def _without_hrefs(markup: bytes) -> tuple[bytes | None, int]:
    """Cut what an OpenDocument part fetches from outside, in any element but a hyperlink.

    LibreOffice fetches such pictures, from the network and from the disk, although its settings
    forbid it (7.4.7; the settings do work for PPTX).

    Returns:
        The part, or None where nothing changed; and its number of pages.
    """
    # lxml keeps prefixes, which OpenDocument uses in values, and ElementTree does not.
    root = etree.fromstring(markup, etree.XMLParser(resolve_entities=False, no_network=True))
    num_pages, changed = 0, False
    for element in root.iter(etree.Element):
        num_pages += element.tag == _DRAW_PAGE
        target = element.get(_XLINK_HREF)
        if target and _OUTSIDE.match(target) and etree.QName(element).localname != "a":
            del element.attrib[_XLINK_HREF]
            changed = True
    tree = root.getroottree()
    cut = etree.tostring(tree, encoding="UTF-8", xml_declaration=True) if changed else None
    return cut, num_pages


def _has(archive: zipfile.ZipFile, name: str) -> bool:
    return any(member.endswith(name) for member in archive.namelist())


def _short(media_type: str) -> str:
    return media_type.rpartition(".")[2]


# [MS-PPT] 2.3.2: CurrentUserAtom of a file whose text is encrypted, by its headerToken.
_ENCRYPTED_PPT = re.compile(rb"\x00\x00\xf6\x0f....\x14\x00\x00\x00\xdf\xc4\xd1\xf3", re.DOTALL)


def check_ppt(content: bytes) -> Package:
    """Let a binary PPT through; it has no archive to look into.

    Raises:
        PasswordRequired: its text is encrypted.
    """
    if _ENCRYPTED_PPT.search(content):
        raise PasswordRequired("the PPT is encrypted")
    return Package(content=content)
