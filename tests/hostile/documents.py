"""PDF and decks that attack: bombs, entities, links, macros, passwords, endless pages."""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Iterator

from pptx import Presentation
from pptx.util import Inches

from phicorpus.media.media_types import ODP, PPTX
from tests.hostile.attack import Attack, attack
from tests.media.builders import a_deck, a_pdf, an_image, deck_bytes, member, saved, with_members
from tests.media.zips import a_bomb_of_a_type, a_directory_of, a_zip_of_two_directories

_SLIDE = "ppt/slides/slide1.xml"
_SLIDE_LINKS = "ppt/slides/_rels/slide1.xml.rels"
_LAUGHS = "".join(
    f'<!ENTITY l{n} "{f"&l{n - 1};" * 10}">' if n else '<!ENTITY l0 "ha">' for n in range(10)
)
_ODP_SPACES = (
    'xmlns:office="urn:oasis:names:tc:opendocument:xmlns:office:1.0" '
    'xmlns:draw="urn:oasis:names:tc:opendocument:xmlns:drawing:1.0" '
    'xmlns:svg="urn:oasis:names:tc:opendocument:xmlns:svg-compatible:1.0" '
    'xmlns:xlink="http://www.w3.org/1999/xlink"'
)


def attacks() -> Iterator[Attack]:
    yield from _pdfs()
    yield from _packages()
    yield from _zips()
    yield attack("a deck with a macro", with_macro(a_deck("Macro inside")), "ok")
    yield attack(
        "an encrypted deck",
        b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(504) + "EncryptedPackage".encode("utf-16-le"),
        "PasswordRequired",
        says="encrypted",
        media_type=PPTX,
    )
    yield attack(
        "an OLE file that says it is a presentation, and is not",
        b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(504) + "PowerPoint Document".encode("utf-16le"),
        *("RenderError", "SandboxCrashed", "DecodeError"),
    )
    yield attack("a PDF named as a deck", a_pdf("page"), "ok", media_type=PPTX)
    yield attack(
        "a web page named as a deck",
        b"<html><img src=http://127.0.0.1:9/></html>",
        "UnsupportedMedia",
        says="found text/html",
        media_type=PPTX,
    )


def _pdfs() -> Iterator[Attack]:
    yield attack(
        "a PDF of 5000 pages",
        a_raw_pdf(num_pages=5000),
        "LimitExceeded",
        says=r"decks\.max_pages: 5000 pages, limit 1000",
    )
    yield attack(
        "a PDF of 200,000 pages that are one",
        a_raw_pdf(num_pages=200_000, shared=True),
        *("LimitExceeded", "DecodeError"),
        says=r"decks\.max_pages|PDF",
    )
    yield attack("a PDF page of four kilometres", a_raw_pdf(box=(14_400_000, 14_400_000)), "ok")
    yield attack(
        "a PDF page without area", a_raw_pdf(box=(0, 0)), *("ok", "DecodeError"), says="page"
    )
    yield attack(
        "a PDF page as thin as a line",
        a_raw_pdf(box=(14_400, 0.001)),
        *("ok", "DecodeError"),
        says="page",
    )
    bomb = zlib.compress(bytes(256 * 1024**2), 9)
    yield attack(
        "a PDF whose page unpacks to 256 MB",
        a_raw_pdf(stream=bomb, packed=True),
        *("ok", "DecodeError", "LimitExceeded", "SandboxTimeout"),
    )
    yield attack(
        "a PDF that draws for hours",
        a_raw_pdf(stream=b"0 0 m 500 500 l S " * 3_000_000),
        *("ok", "SandboxTimeout", "LimitExceeded"),
        says=r"within .* s|max_memory_bytes",
        is_endless=True,
    )
    yield attack("a PDF form that calls itself", a_looping_pdf(), "ok", "SandboxCrashed")
    yield attack(
        "a PDF with a password", a_pdf("x", locked=True), "PasswordRequired", says="password"
    )
    yield attack(
        "a PDF that runs JavaScript",
        a_raw_pdf(catalog="/OpenAction << /S /JavaScript /JS (while\\(1\\){};) >>"),
        "ok",
    )
    yield attack("a PDF behind 500 bytes of HTML", b"<html>".ljust(500) + a_pdf("page"), "ok")


def _packages() -> Iterator[Attack]:
    deck = a_deck("One", "Two")
    slide = member(deck, _SLIDE).decode()
    start = slide.index("<p:sld")
    yield attack(
        "a deck with a member of 200 MB",
        with_members(deck, {"ppt/media/bomb.bin": bytes(200 * 1024**2)}),
        "LimitExceeded",
        says=r"decks\.max_member_bytes",
    )
    yield attack(
        "a deck of six members of 100 MB",
        with_members(deck, {f"ppt/media/{n}.bin": bytes(100 * 1024**2) for n in range(6)}),
        "LimitExceeded",
        says=r"decks\.max_unzipped_bytes",
    )
    yield attack(
        "a slide of 60 MB of text",
        with_members(deck, {_SLIDE: slide.replace("One", "a" * 60 * 1024**2).encode()}),
        "LimitExceeded",
        says=r"decks\.max_zip_ratio",
    )
    yield attack(
        "a deck of 12,000 members",
        with_members(deck, {f"x/{n}": b"" for n in range(12_000)}),
        "LimitExceeded",
        says=r"decks\.max_members",
    )
    yield attack(
        "a deck whose member climbs out",
        with_members(deck, {"ppt/../../../../tmp/evil": b"x"}),
        "DecodeError",
        says="unsafe member name",
    )
    yield attack(
        "billion laughs",
        with_doctype(deck, _LAUGHS, slide[start:].replace("One", "&l9;")),
        "DecodeError",
        says="DOCTYPE",
    )
    yield attack(
        "an entity that is /etc/passwd",
        with_doctype(deck, '<!ENTITY x SYSTEM "file:///etc/passwd">', slide[start:]),
        "DecodeError",
        says="DOCTYPE",
    )
    yield attack(
        "a ZIP that is no deck",
        with_members(deck, {})[:0] + _zip({"a.txt": b"a"}),
        "UnsupportedMedia",
        says="found application/zip",
        media_type=PPTX,
    )
    yield attack(
        "a deck without slides", deck_bytes(Presentation()), "DecodeError", says="without slides"
    )
    yield attack(
        "a deck of 1200 slides of which most are not there",
        with_members(deck, {"ppt/presentation.xml": _many_slides(deck, 1200)}),
        *("LimitExceeded", "DecodeError", "RenderError"),
        says=r"decks\.max_pages|presentation|slides",
    )


def _zips() -> Iterator[Attack]:
    """Give ZIPs that say one thing to one reader and another to the next."""
    for packing in (zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA, zipfile.ZIP_DEFLATED):
        yield attack(
            f"a deck whose type unpacks to 256 MB by method {packing}",
            a_bomb_of_a_type(256 * 1024**2, packing),
            *("UnsupportedMedia", "DecodeError", "LimitExceeded"),
        )
    yield attack(
        "a ZIP of a million entries that are one",
        a_directory_of(1_000_000),
        "UnsupportedMedia",
        says="found application/zip",
    )
    parts = {"mimetype": ODP.encode(), "META-INF/manifest.xml": b"<a/>"}
    inside, outside = (member(an_odp(link), "content.xml") for link in ("a.png", "file:///etc/a"))
    yield attack(
        "a deck of two directories",
        a_zip_of_two_directories(
            {**parts, "content.xml": inside}, {**parts, "content.xml": outside}
        ),
        *("ok", "RenderError", "DecodeError"),
    )
    yield attack(
        "a slide with a DOCTYPE behind blanks",
        with_members(a_deck("One"), {_SLIDE: b"\n" * 70_000 + b"<!DOCTYPE a><a/>"}),
        "DecodeError",
        says="DOCTYPE",
    )
    yield attack(
        "a slide in UTF-32",
        with_members(a_deck("One"), {_SLIDE: "<!DOCTYPE a><a/>".encode("utf-32")}),
        "DecodeError",
        says="UTF-32",
    )


def _drawings(link: str) -> Iterator[Attack]:
    """Give decks whose pictures fetch something, or are programs."""
    start = '<svg xmlns="http://www.w3.org/2000/svg" xmlns:x="http://www.w3.org/1999/xlink"'
    for what, drawing in (
        ("loads a picture", f'{start}><image x:href="{link}" width="9" height="9"/></svg>'),
        ("imports a style", f"{start}><style>@import url({link});</style></svg>"),
        ("has a style sheet", f'<?xml-stylesheet href="{link}"?>{start}/>'),
        ("loads the disk", f'{start}><image href="file:///etc/hostname"/></svg>'),
        ("is PostScript", "%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(/etc/a) run\n"),
    ):
        deck = with_picture()
        (picture,) = (name for name in names(deck) if name.startswith("ppt/media/"))
        yield attack(
            f"a picture of a deck that {what}",
            with_members(deck, {picture: drawing.encode()}),
            "ok",
        )


def names(package: bytes) -> list[str]:
    with zipfile.ZipFile(io.BytesIO(package)) as archive:
        return archive.namelist()


def linking(link: str) -> Iterator[Attack]:
    """Give documents that fetch something from elsewhere."""
    yield from _drawings(link)
    deck = with_picture()
    entity = f'<!ENTITY x SYSTEM "{link}">'
    slide = member(deck, _SLIDE).decode()
    yield attack("an entity from elsewhere", with_doctype(deck, entity, slide), "DecodeError")
    for what, target in (("elsewhere", link), ("the disk", "file:///etc/hostname")):
        links = member(deck, _SLIDE_LINKS).decode()
        links = links.replace('Target="../media/image1.png"', f'Target="{target}"')
        links = links.replace(f'Target="{target}"', f'Target="{target}" TargetMode="External"')
        yield attack(
            f"a deck with a picture from {what}",
            with_members(deck, {_SLIDE_LINKS: links.encode()}),
            *("ok", "DecodeError", "RenderError"),
        )
        yield attack(f"an ODP with a picture from {what}", an_odp(target), "ok", "RenderError")
    for action in (f"/S /URI /URI ({link})", f"/S /SubmitForm /F << /FS /URL /F ({link}) >>"):
        yield attack(
            f"a PDF that opens {action[3:8]}",
            a_raw_pdf(catalog=f"/OpenAction << {action} >>"),
            "ok",
        )


def with_doctype(deck: bytes, entities: str, slide: str) -> bytes:
    body = slide[slide.index("<p:sld") :]
    head = f'<?xml version="1.0" encoding="UTF-8"?><!DOCTYPE p [{entities}]>'
    return with_members(deck, {_SLIDE: (head + body).encode()})


def with_picture() -> bytes:
    deck = Presentation()
    slide = deck.slides.add_slide(deck.slide_layouts[6])
    slide.shapes.add_picture(io.BytesIO(saved(an_image())), Inches(1), Inches(1))
    return deck_bytes(deck)


def with_macro(deck: bytes) -> bytes:
    """Mark a deck as one with macros, and put a VBA project in, which is no more than its name."""
    types = member(deck, "[Content_Types].xml").replace(
        b"openxmlformats-officedocument.presentationml.presentation.main+xml",
        b"ms-powerpoint.presentation.macroEnabled.main+xml",
    )
    project = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + b"Shell(/bin/touch /tmp/evil)" * 100
    return with_members(deck, {"[Content_Types].xml": types, "ppt/vbaProject.bin": project})


def an_odp(picture: str) -> bytes:
    image = f'<draw:image xlink:href="{picture}" xlink:type="simple" xlink:show="embed"/>'
    page = f'<draw:page><draw:frame svg:width="9cm" svg:height="9cm">{image}</draw:frame>'
    content = (
        f"<office:document-content {_ODP_SPACES}><office:body><office:presentation>{page}"
        "</draw:page></office:presentation></office:body></office:document-content>"
    )
    entry = '<manifest:file-entry manifest:full-path="{}" manifest:media-type="{}"/>'
    manifest = (
        '<manifest:manifest xmlns:manifest="urn:oasis:names:tc:opendocument:xmlns:manifest:1.0">'
        f"{entry.format('/', ODP)}{entry.format('content.xml', 'text/xml')}"
        "</manifest:manifest>"
    )
    return _zip(
        {
            "mimetype": ODP.encode(),
            "content.xml": content.encode(),
            "META-INF/manifest.xml": manifest.encode(),
        }
    )


def _zip(members: dict[str, bytes]) -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return target.getvalue()


def _many_slides(deck: bytes, count: int) -> bytes:
    listing = member(deck, "ppt/presentation.xml").decode()
    ids = "".join(f'<p:sldId id="{n}" r:id="rId{n}"/>' for n in range(256, 256 + count))
    return listing.replace("<p:sldIdLst>", f"<p:sldIdLst>{ids}").encode()


def a_raw_pdf(
    *,
    num_pages: int = 1,
    shared: bool = False,
    box: tuple[float, float] = (300, 200),
    stream: bytes = b"",
    packed: bool = False,
    catalog: str = "",
) -> bytes:
    """Write a PDF by hand, without a cross-reference table, as damaged files are."""
    page = f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 {box[0]} {box[1]}] /Contents 3 0 R >>"
    numbers = [4] * num_pages if shared else range(4, 4 + num_pages)
    kids = " ".join(f"{number} 0 R" for number in numbers)
    filtered = "/Filter /FlateDecode " if packed else ""
    objects = [
        f"1 0 obj << /Type /Catalog /Pages 2 0 R {catalog} >> endobj",
        f"2 0 obj << /Type /Pages /Count {num_pages} /Kids [{kids}] >> endobj",
        *(f"{number} 0 obj {page} endobj" for number in sorted(set(numbers))),
        f"3 0 obj << /Length {len(stream)} {filtered}>> stream",
    ]
    end = b"\nendstream endobj\ntrailer << /Root 1 0 R >>\n%%EOF"
    return b"%PDF-1.7\n" + "\n".join(objects).encode() + b"\n" + stream + end


def a_looping_pdf() -> bytes:
    form = b"/F Do"
    return (
        b"%PDF-1.7\n1 0 obj << /Type /Catalog /Pages 2 0 R >> endobj\n"
        b"2 0 obj << /Type /Pages /Count 1 /Kids [4 0 R] >> endobj\n"
        b"4 0 obj << /Type /Page /Parent 2 0 R /MediaBox [0 0 99 99] /Contents 3 0 R "
        b"/Resources << /XObject << /F 5 0 R >> >> >> endobj\n"
        b"3 0 obj << /Length 5 >> stream\n" + form + b"\nendstream endobj\n"
        b"5 0 obj << /Type /XObject /Subtype /Form /BBox [0 0 99 99] /Length 5 "
        b"/Resources << /XObject << /F 5 0 R >> >> >> stream\n" + form + b"\nendstream endobj\n"
        b"trailer << /Root 1 0 R >>\n%%EOF"
    )
