"""Make pictures inside an office package harmless: those that name files, or are programs.

What a member is, its first bytes say: renderers go by them as well, and not by its name.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator
from typing import Any, Final

from lxml import etree  # pyright: ignore[reportAttributeAccessIssue] - has no stubs

from phicorpus.errors import DecodeError

_Node = Any  # lxml has no stubs

EXTERNAL_LINKS: Final = "external_links"
EPS_LEFT_OUT: Final = "eps_left_out"

_SVG: Final = "{http://www.w3.org/2000/svg}"
_NOTHING: Final = b'<svg xmlns="http://www.w3.org/2000/svg" width="1" height="1"/>'
# 1 x 1, transparent.
_CLEAR: Final = bytes.fromhex(
    "89504e470d0a1a0a0000000d49484452000000010000000108060000001f15c489"
    "0000000d49444154789c6360606060000000050001a5f645400000000049454e44ae426082"
)
_BLANKS: Final = b"\xef\xbb\xbf\xff\xfe \t\r\n\x00"
_DRAWING: Final = re.compile(rb"<(?:[\w.-]+:)?svg[\s>/:]")
_HEAD_BYTES: Final = 64 * 1024
_GZIP: Final = b"\x1f\x8b"
_GZIP_BITS: Final = 31  # zlib: a gzip header, and the largest window
_POSTSCRIPT: Final = (b"%!PS", b"\x04%!PS", b"\xc5\xd0\xd3\xc6")
_METAFILES: Final = (
    b"\xd7\xcd\xc6\x9a",
    b"\x01\x00\x09\x00",
    b"\x02\x00\x09\x00",
    b"\x01\x00\x00\x00",
)
_ACTIVE: Final = {"script", "foreignObject", "iframe", "object", "embed", "handler", "include"}
_LINKS: Final = {"href", "src", "base", "schemaLocation"}
_INSIDE: Final = re.compile(
    r"\s*(?:#|data:image/(?:png|jpe?g|gif|bmp|webp|tiff)[;,])", re.IGNORECASE
)
_FUNCTION: Final = re.compile(r"""url\s*\(\s*(?P<mark>["']?)(?P<link>[^)]*?)(?P=mark)\s*\)""", re.I)
_IMPORT: Final = re.compile(r"@(?:import|charset|namespace)[^;{}]*(?:;|$)", re.IGNORECASE)
_COMMENT: Final = re.compile(r"/\*.*?(?:\*/|$)", re.DOTALL)
_ESCAPE: Final = re.compile(r"\\([0-9a-f]{1,6})\s?|\\(.)", re.IGNORECASE | re.DOTALL)


def is_drawing(head: bytes) -> bool:
    """Return whether markup that begins so may be SVG."""
    return _DRAWING.search(head[:_HEAD_BYTES].replace(b"\x00", b"")) is not None


def harmless(content: bytes, max_bytes: int) -> tuple[bytes, str | None]:
    """Cut what a picture fetches, and take out one that is a program.

    Args:
        content: A member of a package, of any kind.
        max_bytes: Of a compressed drawing, unpacked.

    Returns:
        The content, which is the very same where nothing had to be changed, and the flag that says
        what was changed: "external_links" or "eps_left_out".

    Raises:
        DecodeError: it only looks like a drawing, and has a DOCTYPE.
    """
    if content.startswith(_GZIP):
        return _unpacked(content, max_bytes)
    if content.startswith(_POSTSCRIPT):
        return _CLEAR, EPS_LEFT_OUT
    if content.startswith(_METAFILES) and _has_postscript(content):
        return _CLEAR, EPS_LEFT_OUT
    if content[:_HEAD_BYTES].lstrip(_BLANKS).startswith(b"<") and is_drawing(content):
        return _drawing(content)
    return content, None


def _unpacked(content: bytes, max_bytes: int) -> tuple[bytes, str | None]:
    """Look into a compressed drawing (SVGZ, EMZ); one that does not unpack is no drawing."""
    unpacker = zlib.decompressobj(_GZIP_BITS)
    try:
        inner = unpacker.decompress(content, max_bytes)
    except zlib.error:
        return content, None
    if unpacker.unconsumed_tail:
        return _NOTHING, EXTERNAL_LINKS
    changed, flag = (
        harmless(inner, 0) if not inner.startswith(_GZIP) else (_NOTHING, EXTERNAL_LINKS)
    )
    return (content if changed is inner else changed), flag


def _has_postscript(content: bytes) -> bool:
    return b"%!PS" in content


def _drawing(content: bytes) -> tuple[bytes, str | None]:
    """Write an SVG anew without what points outside it; one that is no XML draws nothing."""
    parser = etree.XMLParser(
        resolve_entities=False, no_network=True, load_dtd=False, remove_pis=False, huge_tree=True
    )
    try:
        root = etree.fromstring(content.lstrip(b" \t\r\n"), parser)
    except (etree.LxmlError, ValueError):
        return _NOTHING, None
    if etree.QName(root).localname != "svg":
        if root.getroottree().docinfo.internalDTD is not None:
            raise DecodeError("a part has a DOCTYPE, which no deck needs")
        return content, None
    around = [*_siblings(root)]
    cut = any(isinstance(node, etree._ProcessingInstruction) for node in around)
    for element in list(root.iter()):
        cut |= _cut_node(element)
    # Always as it was read here: without its DOCTYPE and what stands around it.
    return etree.tostring(root, encoding="UTF-8", xml_declaration=True, with_tail=False), (
        EXTERNAL_LINKS if cut else None
    )


def _siblings(root: _Node) -> Iterator[_Node]:
    yield from root.itersiblings(preceding=True)
    yield from root.itersiblings()


def _cut_node(node: _Node) -> bool:
    """Cut an element's links, or the node; says whether there were any."""
    if not isinstance(node.tag, str):
        # A comment stays; a processing instruction may name a style sheet, and an entity a file.
        return node.tag is not etree.Comment and _removed(node)
    if etree.QName(node).localname in _ACTIVE:
        return _removed(node)
    cut = False
    for name, value in list(node.attrib.items()):
        local = etree.QName(name).localname
        if local in _LINKS:
            kept = value if _INSIDE.match(value) else None
        else:
            kept = _without_urls(value)
        if local.lower().startswith("on") or (
            local in {"attributeName"} and "href" in value.lower()
        ):
            kept = None
        if kept is None:
            cut = True
            del node.attrib[name]
        elif kept != value:
            cut = True
            node.set(name, kept)
    if etree.QName(node).localname == "style" and node.text:
        rules = _plain_css(node.text)
        kept_rules = _without_urls(_IMPORT.sub("", rules))
        if kept_rules != rules:
            cut, node.text = True, kept_rules
    return cut


def _removed(node: _Node) -> bool:
    parent = node.getparent()
    if parent is None:
        return False
    if node.tail:  # what follows a node belongs to it in lxml
        before = node.getprevious()
        if before is not None:
            before.tail = (before.tail or "") + node.tail
        else:
            parent.text = (parent.text or "") + node.tail
    parent.remove(node)
    return True


def _without_urls(value: str) -> str:
    r"""Cut the url() of style rules and paints, but those into the drawing itself.

    Example:
        >>> _without_urls("fill: url(#a); mask: url('http://x/')")
        'fill: url(#a); mask: none'
    """
    if "(" not in value and "\\" not in value and "@" not in value:
        return value
    plain = _plain_css(value)
    if not re.search(r"url\s*\(|image(?:-set)?\s*\(|src\s*\(", plain, re.IGNORECASE):
        return value

    def replaced(found: re.Match[str]) -> str:
        return found.group() if _INSIDE.match(found["link"]) else "none"

    kept = _FUNCTION.sub(replaced, plain)
    return value if kept == plain else kept


def _plain_css(text: str) -> str:
    r"""Write out what style sheets may hide: escapes, and comments within words.

    Example:
        >>> _plain_css(r"@im\70 ort 'a'; u/**/rl(b)")
        "@import 'a'; url(b)"
    """
    plain = _COMMENT.sub("", text)
    return _ESCAPE.sub(lambda found: _character(found[1]) if found[1] else found[2], plain)


def _character(code: str) -> str:
    number = int(code, 16)
    return chr(number) if 0 < number < 0xD800 else ""  # noqa: PLR2004 - surrogates and beyond
