"""The parts of an Office Open XML file, found by their relationships.

Tolerant where readers of whole packages refuse: a part's type does not depend on the table of
contents, names may differ in case, and strict OOXML (ISO/IEC 29500 part 1) is read as transitional.
The file must have passed `package.check` first.
"""

from __future__ import annotations

import io
import posixpath
import zipfile
import zlib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import unquote

from lxml import etree  # pyright: ignore[reportAttributeAccessIssue] - has no stubs

from phicorpus.errors import DecodeError

_OFFICE: Final = "http://schemas.openxmlformats.org/"
_STRICT: Final = "http://purl.oclc.org/ooxml/"
NAMES: Final[Mapping[str, str]] = {
    "a": f"{_OFFICE}drawingml/2006/main",
    "p": f"{_OFFICE}presentationml/2006/main",
    "c": f"{_OFFICE}drawingml/2006/chart",
    "dgm": f"{_OFFICE}drawingml/2006/diagram",
    "r": f"{_OFFICE}officeDocument/2006/relationships",
    "m": f"{_OFFICE}officeDocument/2006/math",
    "s": f"{_OFFICE}spreadsheetml/2006/main",
    "mc": f"{_OFFICE}markup-compatibility/2006",
    "cx": "http://schemas.microsoft.com/office/drawing/2014/chartex",
}
BROKEN_ZIP: Final = (
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    OSError,
    ValueError,
    RuntimeError,
    NotImplementedError,
)
"""What zipfile raises for an archive, or a member of one, that is damaged or not to be read."""
_MICROSOFT: Final = "http://schemas.microsoft.com/office/"
_UNDERSTOOD: Final = frozenset(
    {
        *NAMES.values(),
        f"{_MICROSOFT}drawing/2010/main",  # a14: formulas
        f"{_MICROSOFT}drawing/2014/main",  # a16
        f"{_MICROSOFT}powerpoint/2010/main",  # p14
        f"{_MICROSOFT}powerpoint/2012/main",  # p15
        f"{_MICROSOFT}drawing/2007/8/2/chart",  # c14
        f"{_MICROSOFT}drawing/2012/chart",  # c15
        f"{_MICROSOFT}drawing/2015/9/8/chartex",  # cx1
        f"{_MICROSOFT}drawing/2015/10/21/chartex",  # cx2
        *(f"{_MICROSOFT}drawing/2016/5/{day}/chartex" for day in range(9, 15)),  # cx3 to cx8
    }
)

# What writers mean that leave the declaration out.
_USUAL: Final[Mapping[str, str]] = {
    "a14": f"{_MICROSOFT}drawing/2010/main",
    "p14": f"{_MICROSOFT}powerpoint/2010/main",
    "cx1": f"{_MICROSOFT}drawing/2015/9/8/chartex",
}


class PartError(Exception):
    """A part is missing or broken; says which, in words."""


def tag(name: str) -> str:
    """Write a name with its namespace as lxml does.

    Example:
        >>> tag("a:t")
        '{http://schemas.openxmlformats.org/drawingml/2006/main}t'
    """
    prefix, _, local = name.partition(":")
    return f"{{{NAMES[prefix]}}}{local}"


_ALTERNATIVES: Final = tag("mc:AlternateContent")
_CHOICE: Final = tag("mc:Choice")
_FALLBACK: Final = tag("mc:Fallback")


@dataclass(frozen=True, slots=True, kw_only=True)
class Relationship:
    """A link from one part to another."""

    kind: str
    target: str
    is_external: bool

    def is_a(self, kind: str) -> bool:
        """Check whether its type ends in `kind`, transitional or strict."""
        return self.kind.rpartition("/")[2] == kind


class Parts:
    """An open package.

    Raises:
        DecodeError: not a ZIP.
    """

    def __init__(self, content: bytes) -> None:
        try:
            self._archive = zipfile.ZipFile(io.BytesIO(content))
        except BROKEN_ZIP as error:
            raise DecodeError(f"not a readable package: {error}") from error
        self._names: dict[str, str] = {}
        for name in self._archive.namelist():
            self._names.setdefault(_folded(name), name)
        self._links: dict[str, dict[str, Relationship]] = {}

    def names(self) -> Iterator[str]:
        """Name all parts, as their folder does."""
        return iter(self._names.values())

    def has(self, name: str) -> bool:
        return _folded(name) in self._names

    def content(self, name: str) -> bytes:
        """Read a part.

        Raises:
            PartError: it is not there, or damaged.
        """
        found = self._names.get(_folded(name))
        if found is None:
            raise PartError(f"the file has no part {name}")
        try:
            return self._archive.read(found)
        except BROKEN_ZIP as error:
            raise PartError(f"the part {name} cannot be unpacked: {error}") from error

    def markup(self, name: str) -> Any:  # noqa: ANN401 - lxml's element
        """Parse a part.

        Raises:
            PartError: it is not there, or not XML.
        """
        try:
            return parsed(self.content(name))
        except etree.LxmlError as error:
            raise PartError(f"the part {name} is not XML: {error}") from error

    def links(self, name: str) -> dict[str, Relationship]:
        """Read the relationships of a part, by id; none where there are none. "" is the package.

        Raises:
            PartError: they are broken.
        """
        if name not in self._links:
            folder, _, file = name.rpartition("/")
            table = posixpath.join(folder, "_rels", f"{file}.rels")
            root = self.markup(table) if self.has(table) else ()
            self._links[name] = {
                link.get("Id", ""): Relationship(
                    kind=link.get("Type", ""),
                    target=_resolved(folder, link.get("Target", "")),
                    is_external=link.get("TargetMode") == "External",
                )
                for link in root
                if isinstance(link.tag, str)
            }
        return self._links[name]

    def target(self, name: str, link_id: str | None) -> str:
        """Name the part that a relationship of a part leads to.

        Raises:
            PartError: it leads nowhere, or outside.
        """
        link = self.links(name).get(link_id or "")
        if link is None:
            raise PartError(f"{name or 'the file'} names no part by {link_id!r}")
        if link.is_external:
            raise PartError(f"{name}: what {link_id} names lies outside the file")
        if not self.has(link.target):
            raise PartError(f"{name} names {link.target}, which is not in the file")
        return link.target

    def related(self, name: str, kind: str) -> str | None:
        """Name the first part of a kind that a part leads to; None where it leads to none."""
        for link in self.links(name).values():
            if link.is_a(kind) and not link.is_external and self.has(link.target):
                return link.target
        return None


def spellings(tables: Mapping[str, bytes], names: Collection[str]) -> dict[str, str]:
    """Name the members of a package as its tables of relationships do.

    Office programs find a part whatever its case, and slashes of the other kind; LibreOffice does
    not.

    Args:
        tables: The content of each .rels part, by name.
        names: Of all members.

    Returns:
        The names to change, and into what.
    """
    by_folded = {_folded(name): name for name in names}
    changed: dict[str, str] = {}
    for table, markup in tables.items():
        folder = posixpath.dirname(posixpath.dirname(table.replace("\\", "/")))
        for link in parsed(markup).iterchildren(etree.Element):
            target = _resolved(folder, link.get("Target", ""))
            found = by_folded.get(_folded(target))
            if link.get("TargetMode") == "External" or found is None or target in names:
                continue
            changed[found] = target
            at, _, file = target.rpartition("/")
            own = f"{at}/_rels/{file}.rels"
            if own not in names and _folded(own) in by_folded:
                changed[by_folded[_folded(own)]] = own
    return changed


def parsed(markup: bytes) -> Any:  # noqa: ANN401 - lxml's element
    """Parse XML without entities or network, and name strict namespaces as transitional ones.

    Raises:
        lxml.etree.LxmlError: it is not XML.
    """
    parser = etree.XMLParser(resolve_entities=False, no_network=True, huge_tree=False)
    root = etree.fromstring(markup, parser)
    if _STRICT.encode() in markup or b"\x00" in markup[:4]:
        for element in root.iter(etree.Element):
            element.tag = _transitional(element.tag)
            for name, value in element.attrib.items():
                if _STRICT in name:
                    del element.attrib[name]
                    element.set(_transitional(name), value)
    return root


def children(element: Any) -> Iterator[Any]:  # noqa: ANN401 - lxml's element
    """Yield an element's children; of alternatives those of the one that holds, in its place.

    That is the first Choice whose namespaces are all understood, else the Fallback (ECMA-376
    part 3, 10.2).
    """
    # A stack, since alternatives may be nested deeper than Python calls.
    open_ = [iter(element)]
    while open_:
        child = next(open_[-1], None)
        if child is None:
            open_.pop()
        elif child.tag == _ALTERNATIVES:
            open_.append(iter(_chosen(child)))
        elif isinstance(child.tag, str):
            yield child


def alternatives(element: Any) -> Any:  # noqa: ANN401 - lxml's element
    """Find the alternatives around an element, the innermost; None where there are none."""
    return next(element.iterancestors(_ALTERNATIVES), None)


def fallback(alternatives_: Any) -> Any:  # noqa: ANN401 - lxml's element
    """Return the part of alternatives for readers that understand none; () where there is none."""
    found = alternatives_.find(_FALLBACK)
    return () if found is None else found


def descendants(element: Any, *names: str) -> Iterator[Any]:  # noqa: ANN401 - lxml's element
    """Yield what lies below an element and has one of the names, in order, as `children` would."""
    wanted = {tag(name) for name in names}
    open_ = [children(element)]
    while open_:
        child = next(open_[-1], None)
        if child is None:
            open_.pop()
        elif child.tag in wanted:
            yield child
        else:
            open_.append(children(child))


def is_true(text: str | None) -> bool:
    """Read an xsd:boolean.

    Example:
        >>> [is_true(text) for text in ("1", "true", "0", None)]
        [True, True, False, False]
    """
    return text is not None and text.strip() in {"1", "true", "on"}


def _chosen(alternatives_: Any) -> Any:  # noqa: ANN401 - lxml's element
    for choice in alternatives_.iterchildren(_CHOICE):
        prefixes = (choice.get("Requires") or "").split()
        spaces = (choice.nsmap.get(prefix, _USUAL.get(prefix)) for prefix in prefixes)
        if prefixes and all(space in _UNDERSTOOD for space in map(_transitional, spaces)):
            return choice
    return fallback(alternatives_)


def _transitional(name: str | None) -> str | None:
    """Rename what strict OOXML names; `http://purl.oclc.org/ooxml/drawingml/main` and its like.

    Example:
        >>> _transitional("{http://purl.oclc.org/ooxml/drawingml/main}t") == tag("a:t")
        True
    """
    if name is None or _STRICT not in name:
        return name
    before, _, after = name.partition(_STRICT)
    family, _, rest = after.partition("/")
    return f"{before}{_OFFICE}{family}/2006/{rest}"


def _folded(name: str) -> str:
    return unquote(name).replace("\\", "/").lstrip("/").casefold()


def _resolved(folder: str, target: str) -> str:
    """Name a relationship's target from the root of the package."""
    path = unquote(target).replace("\\", "/")
    return posixpath.normpath(path if path.startswith("/") else posixpath.join("/", folder, path))[
        1:
    ]
