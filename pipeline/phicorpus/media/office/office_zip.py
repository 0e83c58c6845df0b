"""Look into an office document's ZIP before any program opens it whole.

Python's zipfile reads one member at a time and never more than the directory announces, so a bomb
is refused for what it says about itself, and costs milliseconds. What points outside the file is
cut before a renderer sees it: its own settings and the lack of a network come second.

What is handed on is always a new ZIP of the members that were looked at. Two programs may read two
packages in the same bytes: there are two kinds of directory, and names may be there twice.
"""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final
from xml.etree import ElementTree as ET

from lxml import etree  # pyright: ignore[reportAttributeAccessIssue] - has no stubs

from phicorpus.config import DeckConfig
from phicorpus.errors import DecodeError, LimitExceeded, PasswordRequired
from phicorpus.media.media_types import ODP
from phicorpus.media.office import embedded, ooxml

_RELATIONSHIPS: Final = "http://schemas.openxmlformats.org/package/2006/relationships"
_XLINK_HREF: Final = "{http://www.w3.org/1999/xlink}href"
_DRAW_PAGE: Final = "{urn:oasis:names:tc:opendocument:xmlns:drawing:1.0}page"
_HYPERLINK = "/hyperlink"
_NOWHERE = "https://link.invalid/"  # RFC 2606: a name that no network knows
_URL = re.compile(r"\s*(?:[a-z][\w+.-]*:|[/\\]{2})", re.IGNORECASE)
_OUTSIDE = re.compile(r"\s*(?:[a-z][\w+.-]*:|[/\\])|.*(?:\.\.|%2e)", re.IGNORECASE | re.DOTALL)
_CONTENT_TYPES = "[Content_Types].xml"
_MIMETYPE = "mimetype"
_ZIP_START = b"PK\x03\x04"
_EMBEDDED_LEFT_OUT = "embedded_left_out"
_RATIO_FROM_BYTES = 1024**2  # below it any ratio is harmless
_ENCRYPTED = 0x1  # general purpose bit 0: APPNOTE.TXT 4.4.4
_PACKINGS = {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}
_PACKED_RATIO = 0.9  # of its size; what was packed less is stored
_QUICKLY = 1  # zlib
_ZIP_ENTRY = b"PK\x01\x02"  # APPNOTE.TXT, 4.3.12: each entry of a directory begins so
_ENTRIES_RATIO = 10  # of decks.max_members: packages inside have directories too
_MAX_DEPTH = 2  # of packages in packages
_HEAD_BYTES = 64 * 1024
_CHUNK_BYTES = 1024**2
_OVERLAP_BYTES = 32  # longer than any of the words below

# Each spelled in the encodings that an XML parser detects by itself (XML 1.0, appendix F).
_DETECTED = ("utf-8", "utf-16-le", "utf-16-be")
_DOCTYPES = tuple("<!DOCTYPE".encode(name) for name in _DETECTED)
_ENTITIES = tuple("<!ENTITY".encode(name) for name in _DETECTED)
_BLANKS = b"\xef\xbb\xbf\xff\xfe \t\r\n\x0b\x0c\x00"
_ODD_MARKUP = re.compile(
    rb"(?:\xff\xfe\0\0|\0\0\xfe\xff|(?:[\t\r\n ]\0\0\0)*<\0\0\0[\w?!]\0\0\0"
    rb"|\0\0\0(?:[\t\r\n ]\0\0\0)*<\0\0\0[\w?!]|\x4c\x6f\xa7\x94)"
)
_ENCODING = re.compile(rb"""(?:\xef\xbb\xbf)?\s*<\?xml[^>]*?encoding\s*=\s*["']([^"']+)""")
_PLAIN_ENCODINGS = {b"utf-8", b"utf8", b"us-ascii", b"ascii", b"utf-16", b"iso-8859-1"}

# Slide shows and templates are presentations in all but this one word of their table of contents.
_MAIN_PART = re.compile(
    rb"(application/vnd\.)(?:openxmlformats-officedocument\.presentationml\.(?:slideshow|template)"
    rb"|ms-powerpoint\.(?:slideshow|template)\.macroEnabled)(\.main\+xml)"
)
_PRESENTATION = rb"\1openxmlformats-officedocument.presentationml.presentation\2"

_BROKEN = (
    *ooxml.BROKEN_ZIP,
    KeyError,
    ET.ParseError,
    etree.LxmlError,
    MemoryError,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Package:
    """A document that may be opened.

    Attributes:
        content: The file, written anew; without its external parts, where it had some.
        num_pages: As the file itself says; None for PPTX, whose reader counts them.
        flags: What was left out: "external_links", pictures, films or data that it fetches from
            elsewhere; "eps_left_out", pictures that are programs; "embedded_left_out", files in it
            that could not be checked.
    """

    content: bytes
    num_pages: int | None = None
    flags: tuple[str, ...] = ()


def check(content: bytes, media_type: str, config: DeckConfig) -> Package:
    """Refuse what would hurt a program that opens it, and cut what reaches outside the file.

    Raises:
        DecodeError: not a whole ZIP, an unsafe member name, a DOCTYPE, an odd XML encoding, or a
            packing that no office program writes.
        PasswordRequired: encrypted.
        LimitExceeded: more or larger members than `decks.max_members`, `decks.max_member_bytes`,
            `decks.max_unzipped_bytes` or `decks.max_zip_ratio` (of markup) allow.
    """
    try:
        if content.count(_ZIP_ENTRY) > _ENTRIES_RATIO * config.max_members:
            raise LimitExceeded(
                f"decks.max_members: {content.count(_ZIP_ENTRY)} entries in the ZIP's directories, "
                f"limit {config.max_members}"
            )
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            _check_sizes(archive.infolist(), config)
            for member in archive.infolist():
                _check_name(member)
            members = {member.filename: member for member in archive.infolist()}
            for member in members.values():  # of a name that is there twice, the last one counts
                _check_markup(archive, member, config)
            if media_type == ODP:
                return _opendocument(archive, members, config)
            return _presentation(archive, members, config)
    except _BROKEN as error:
        raise DecodeError(
            f"broken {_short(media_type)}: {error or type(error).__name__}"
        ) from error


def checked(content: bytes, media_type: str, config: DeckConfig) -> Iterator[Package]:
    """Yield `check`'s one result; a generator, so that it can run in a sandbox."""
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
    if member.compress_type not in _PACKINGS:
        raise DecodeError(f"{member.filename!r} is packed by method {member.compress_type}")


def _check_markup(archive: zipfile.ZipFile, member: zipfile.ZipInfo, config: DeckConfig) -> None:
    """Refuse a DOCTYPE: renderers answer its entities with slides whose text is gone.

    Markup is told by its first bytes behind blanks, since a part's type does not depend on its
    name. Pictures are left out of the ratio: a white bitmap packs better than any bomb of markup.
    """
    with archive.open(member) as part:
        window = part.read(_HEAD_BYTES)
        if _ODD_MARKUP.match(window):
            raise DecodeError(f"{member.filename}: XML in UTF-32 or EBCDIC")
        encoding = _ENCODING.match(window)
        blank = window
        while blank and not blank.lstrip(_BLANKS):
            if blank.strip(b"\x00"):  # 100 MB of blanks may be markup; zeros are a picture's
                _check_ratio(member, config)
            blank = part.read(_CHUNK_BYTES)
            window = window[-_OVERLAP_BYTES:] + blank
        if not window.lstrip(_BLANKS).startswith(b"<"):
            return
        _check_ratio(member, config)
        if encoding and encoding.group(1).lower() not in _PLAIN_ENCODINGS:
            raise DecodeError(f"{member.filename}: XML encoding {encoding.group(1)!r}")
        # Drawings may name their DOCTYPE, as long as it defines nothing; it is cut later.
        is_part = member.filename.lower().endswith((".xml", ".rels"))
        refused = _ENTITIES if embedded.is_drawing(window) and not is_part else _DOCTYPES
        while window:
            if any(declaration in window for declaration in refused):
                raise DecodeError(f"{member.filename} has a DOCTYPE, which no deck needs")
            chunk = part.read(_CHUNK_BYTES)
            window = window[-_OVERLAP_BYTES:] + chunk if chunk else b""


def _check_ratio(member: zipfile.ZipInfo, config: DeckConfig) -> None:
    ratio = member.file_size / max(member.compress_size, 1)
    if member.file_size > _RATIO_FROM_BYTES and ratio > config.max_zip_ratio:
        raise LimitExceeded(
            f"decks.max_zip_ratio: {member.filename} unpacks {ratio:.0f} times, "
            f"limit {config.max_zip_ratio:g}"
        )


def _presentation(
    archive: zipfile.ZipFile, members: Mapping[str, zipfile.ZipInfo], config: DeckConfig
) -> Package:
    """Cut relationships that point outside, and open slide shows like presentations."""
    writer = _Writer()
    tables = {name: archive.read(name) for name in members if name.lower().endswith(".rels")}
    spelt = ooxml.spellings(tables, members)
    for name, member in members.items():
        part = archive.read(member)
        if name == _CONTENT_TYPES:
            part = _MAIN_PART.sub(_PRESENTATION, part)
        part, flag = _harmless(name, part, config, depth=0)
        writer.add(member, part, flag, name=spelt.get(name, name))
    return Package(content=writer.content(), flags=writer.flags)


def _harmless(
    name: str, part: bytes, config: DeckConfig, *, depth: int
) -> tuple[bytes, str | None]:
    """Cut what a part of an OOXML package fetches; a package in it is looked into as well."""
    if name.lower().endswith(".rels"):
        cut, fetched = _without_external(part)
        return (part if cut is None else cut), (embedded.EXTERNAL_LINKS if fetched else None)
    if part.startswith(_ZIP_START):
        return _nested(part, config, depth=depth + 1)
    return embedded.harmless(part, config.max_member_bytes)


def _nested(content: bytes, config: DeckConfig, *, depth: int) -> tuple[bytes, str | None]:
    """Write a package inside the package anew, as far as it is one; a renderer may open it."""
    if depth > _MAX_DEPTH or content.count(_ZIP_ENTRY) > config.max_members:
        return b"", _EMBEDDED_LEFT_OUT
    writer = _Writer()
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            _check_sizes(archive.infolist(), config)
            members = {member.filename: member for member in archive.infolist()}
            for name, member in members.items():
                _check_name(member)
                _check_markup(archive, member, config)
                part, flag = _harmless(name, archive.read(member), config, depth=depth)
                if name.endswith(".xml") and "mimetype" in members and part.strip():
                    cut, _ = _without_hrefs(part)
                    part, flag = (cut, embedded.EXTERNAL_LINKS) if cut else (part, flag)
                writer.add(member, part, flag)
    except (*_BROKEN, DecodeError, LimitExceeded):
        return b"", _EMBEDDED_LEFT_OUT
    return writer.content(), next(iter(writer.flags), None)


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


class _Writer:
    """A new ZIP, member by member, and the flags of what was cut."""

    def __init__(self) -> None:
        self._target = io.BytesIO()
        self._archive = zipfile.ZipFile(self._target, "w")
        self._flags: dict[str, None] = {}

    @property
    def flags(self) -> tuple[str, ...]:
        return tuple(self._flags)

    def add(
        self,
        member: zipfile.ZipInfo,
        part: bytes,
        flag: str | None = None,
        *,
        name: str | None = None,
    ) -> None:
        """Write a member; packed where it was packed well, since that costs little then."""
        if flag is not None:
            self._flags[flag] = None
        if member.is_dir():
            return
        copy = zipfile.ZipInfo(name or member.filename)
        packed = member.compress_size < _PACKED_RATIO * member.file_size
        copy.compress_type = zipfile.ZIP_DEFLATED if packed else zipfile.ZIP_STORED
        self._archive.writestr(copy, part, compresslevel=_QUICKLY)

    def content(self) -> bytes:
        self._archive.close()
        return self._target.getvalue()


def _opendocument(
    archive: zipfile.ZipFile, members: Mapping[str, zipfile.ZipInfo], config: DeckConfig
) -> Package:
    if any(
        b"encryption-data" in archive.read(member)
        for name, member in members.items()
        if name.endswith("manifest.xml")
    ):
        raise PasswordRequired("the OpenDocument presentation is encrypted")
    writer, num_pages = _Writer(), 0
    # The type stands first, and unpacked: OpenDocument 1.3, part 2, 3.3.
    for name in sorted(members, key=lambda name: name != _MIMETYPE):
        part, flag = archive.read(members[name]), None
        if name != _MIMETYPE:
            part, flag = _harmless(name, part, config, depth=0)
        if name.endswith(".xml") and part.strip():  # some parts are there, but empty
            cut, num_found = _without_hrefs(part)
            num_pages += num_found if name == "content.xml" else 0
            if cut is not None:
                part = cut
                if name != "meta.xml":  # the document's properties name a template
                    flag = embedded.EXTERNAL_LINKS
        writer.add(members[name], part, flag)
    return Package(content=writer.content(), num_pages=num_pages, flags=writer.flags)


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
