"""What lies inside a deck, made harmless before a renderer opens it."""

import gzip
import io
import zipfile

import pytest

from phicorpus.config import DeckConfig
from phicorpus.errors import DecodeError, LimitExceeded, SegmentError
from phicorpus.media.media_types import ODP, PPTX
from phicorpus.media.office import embedded, office_zip
from tests.media.builders import a_deck, an_image, member, saved, with_members
from tests.media.zips import a_zip, a_zip_of_two_directories

PICTURE = "ppt/media/image1.png"
ELSEWHERE = "file:///etc/secret.png"
XLINK = 'xmlns:xlink="http://www.w3.org/1999/xlink"'


def check(content: bytes, media_type: str = PPTX) -> office_zip.Package:
    return office_zip.check(content, media_type, DeckConfig())


def an_svg(inside: str, before: str = "", attributes: str = "") -> bytes:
    start = f'<svg xmlns="http://www.w3.org/2000/svg" {XLINK} {attributes}>'
    return f"{before}{start}{inside}<text>kept</text></svg>".encode()


LINKING = [
    an_svg(f'<image xlink:href="{ELSEWHERE}"/>'),
    an_svg(f'<image href="{ELSEWHERE}"/>'),
    an_svg('<image href="../../secret.png"/>'),
    an_svg('<image href="//host/secret.png"/>'),
    an_svg(f'<use xlink:href="{ELSEWHERE}#a"/>'),
    an_svg(f'<filter><feImage href="{ELSEWHERE}"/></filter>'),
    an_svg(f'<rect style="fill: url({ELSEWHERE})"/>'),
    an_svg(f"<rect fill='url( \"{ELSEWHERE}\" )'/>"),
    an_svg(f"<style>@import '{ELSEWHERE}';</style>"),
    an_svg(f"<style>@im\\70ort url({ELSEWHERE});</style>"),
    an_svg(f"<style><![CDATA[ rect {{ fill: u\\72 l({ELSEWHERE}) }} ]]></style>"),
    an_svg(f'<script href="{ELSEWHERE}"/>'),
    an_svg(f'<foreignObject><img src="{ELSEWHERE}"/></foreignObject>'),
    an_svg("", before=f'<?xml-stylesheet href="{ELSEWHERE}"?>'),
    an_svg(f'<?xml-stylesheet href="{ELSEWHERE}"?>'),
    an_svg('<image href="secret.png"/>', attributes='xml:base="file:///etc/"'),
    an_svg(f'<a><set attributeName="href" to="{ELSEWHERE}"/></a>'),
]


@pytest.mark.parametrize("name", [PICTURE, "ppt/media/image1.svg", "docProps/thumbnail.jpeg"])
@pytest.mark.parametrize("drawing", LINKING)
def test_what_a_drawing_fetches_is_cut_whatever_its_name(drawing: bytes, name: str) -> None:
    checked = check(with_members(a_deck("One"), {name: drawing}))

    found = member(checked.content, name)
    assert checked.flags == ("external_links",)
    assert b"secret" not in found.replace(f'to="{ELSEWHERE}"'.encode(), b"")
    assert b"kept" in found


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le"])
@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_drawings_in_other_encodings_and_packed_ones_are_seen(encoding: str, pack: type) -> None:
    drawing = LINKING[0].decode()
    declared = drawing if encoding == "utf-8-sig" else drawing.replace("\n", " ")
    checked = check(with_members(a_deck("One"), {PICTURE: pack(declared.encode(encoding))}))

    assert b"secret" not in member(checked.content, PICTURE)


def test_drawings_of_opendocument_are_seen_under_any_name() -> None:
    parts = {"mimetype": ODP.encode(), "content.xml": b"<a/>"}
    names = ("Pictures/a.xml", "Pictures/a.png", "Object 1/a")

    checked = check(a_zip({**parts, **dict.fromkeys(names, LINKING[7])}), ODP)

    assert checked.flags == ("external_links",)
    for name in names:
        assert b"secret" not in member(checked.content, name)


def test_a_drawing_without_links_draws_the_same() -> None:
    inside = (
        '<defs><linearGradient id="a"/></defs><rect fill="url(#a)" style="mask: url(#a)"/>'
        '<use xlink:href="#a"/><image href="data:image/png;base64,iVBORw0KGgo="/>'
        "<style>rect { fill: url(#a) }</style>"
    )

    checked = check(with_members(a_deck("One"), {PICTURE: an_svg(inside)}))

    assert checked.flags == ()
    for kept in (b'"#a"', b"url(#a)", b"data:image/png", b"<style>", b"kept"):
        assert kept in member(checked.content, PICTURE)


def test_a_doctype_of_a_drawing_is_cut_and_its_entities_are_refused() -> None:
    named = an_svg("", before='<!DOCTYPE svg SYSTEM "file:///etc/secret.dtd">')
    defining = an_svg("&a;", before=f'<!DOCTYPE svg [<!ENTITY a SYSTEM "{ELSEWHERE}">]>')

    assert b"DOCTYPE" not in member(
        check(with_members(a_deck("One"), {PICTURE: named})).content, PICTURE
    )
    with pytest.raises(DecodeError, match="DOCTYPE"):
        check(with_members(a_deck("One"), {PICTURE: defining}))


@pytest.mark.parametrize("name", ["ppt/slides/slide1.xml", "ppt/slides/slide1.bin"])
@pytest.mark.parametrize(
    "part", [b"<!DOCTYPE a><a><!-- <svg > --></a>", b"<!DOCTYPE a><a><svg xmlns='x'/></a>"]
)
def test_a_part_that_only_mentions_svg_may_have_no_doctype(part: bytes, name: str) -> None:
    with pytest.raises(DecodeError, match="DOCTYPE"):
        check(with_members(a_deck("One"), {name: part}))


@pytest.mark.parametrize(
    "program",
    [
        b"%!PS-Adobe-3.0 EPSF-3.0\n(/etc/secret) run\n",
        b"\xc5\xd0\xd3\xc6" + bytes(28) + b"%!PS (/etc/secret) run",
        b"\xd7\xcd\xc6\x9a" + bytes(60) + b"%!PS-Adobe-3.0 (/etc/secret) run",
    ],
)
def test_pictures_that_are_programs_are_taken_out(program: bytes) -> None:
    checked = check(with_members(a_deck("One"), {"ppt/media/image1.wmf": program}))

    assert checked.flags == ("eps_left_out",)
    assert member(checked.content, "ppt/media/image1.wmf").startswith(b"\x89PNG")


def test_other_pictures_pass_byte_for_byte() -> None:
    pictures = {
        "ppt/media/a.png": saved(an_image()),
        "ppt/media/a.jpeg": saved(an_image(), "JPEG"),
        "ppt/media/a.emf": b"\x01\0\0\0" + bytes(36) + b" EMF" + bytes(40),
        "ppt/media/a.emz": gzip.compress(b"\x01\0\0\0" + bytes(36) + b" EMF" + bytes(40)),
        "ppt/media/a.bin": b"\x1f\x8bnot gzip",
    }

    checked = check(with_members(a_deck("One"), pictures))

    assert checked.flags == ()
    assert {name: member(checked.content, name) for name in pictures} == pictures


def test_packages_in_the_package_are_looked_into_and_stay_readable() -> None:
    rels = "xl/_rels/workbook.xml.rels"
    link = (
        '<Relationships xmlns="http://schemas.openxmlformats.org/package/2006/relationships">'
        f'<Relationship Id="a" Type="x/image" Target="{ELSEWHERE}" TargetMode="External"/>'
        "</Relationships>"
    )
    book = a_zip({"xl/workbook.xml": b"<workbook/>", rels: link.encode()})

    checked = check(with_members(a_deck("One"), {"ppt/embeddings/a.xlsx": book}))

    inside = member(checked.content, "ppt/embeddings/a.xlsx")
    assert checked.flags == ("external_links",)
    assert member(inside, "xl/workbook.xml") == b"<workbook/>"
    assert b"secret" not in member(inside, rels)


def test_a_package_in_it_that_cannot_be_checked_is_left_out() -> None:
    broken = b"PK\x03\x04" + bytes(100)

    checked = check(with_members(a_deck("One"), {"ppt/embeddings/a.xlsx": broken}))

    assert checked.flags == ("embedded_left_out",)
    assert member(checked.content, "ppt/embeddings/a.xlsx") == b""


def test_what_is_handed_on_is_what_was_checked() -> None:
    both = a_zip_of_two_directories(
        {"mimetype": ODP.encode(), "content.xml": b"<seen/>"},
        {"mimetype": ODP.encode(), "content.xml": b"<hidden/>"},
    )

    for content in (both, b"prefix" + both, both + b"suffix"):
        try:
            checked = check(content, ODP)
        except SegmentError:
            continue
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            checkers_own = archive.read("content.xml")
        assert checked.content.count(b"PK\x05\x06") == 1
        assert b"PK\x06\x06" not in checked.content
        assert member(checked.content, "content.xml") == checkers_own
        other = b"<hidden/>" if checkers_own == b"<seen/>" else b"<seen/>"
        assert other not in checked.content


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_of_a_name_that_is_there_twice_one_is_left() -> None:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        archive.writestr("mimetype", ODP)
        archive.writestr("content.xml", "<first/>")
        archive.writestr("content.xml", "<second/>")

    checked = check(target.getvalue(), ODP)

    with zipfile.ZipFile(io.BytesIO(checked.content)) as archive:
        assert archive.namelist() == ["mimetype", "content.xml"]
        assert archive.infolist()[0].compress_type == zipfile.ZIP_STORED
    assert member(checked.content, "content.xml") == b"<second/>"


@pytest.mark.parametrize("packing", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_packings_that_unpack_without_bound_are_refused(packing: int) -> None:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", packing) as archive:
        archive.writestr("ppt/presentation.xml", "<a/>")

    with pytest.raises(DecodeError, match="packed by method"):
        check(target.getvalue())


@pytest.mark.parametrize(
    "blanks", [b" " * 70_000, b"\n" * 1_100, b"\xef\xbb\xbf" + b"\t" * 2_000_000]
)
def test_a_doctype_behind_blanks_is_refused(blanks: bytes) -> None:
    slide = blanks + b'<!DOCTYPE a [<!ENTITY b "c">]><a/>'

    with pytest.raises(DecodeError, match="DOCTYPE"):
        office_zip.check(
            with_members(a_deck("One"), {"ppt/slides/slide1.xml": slide}),
            PPTX,
            DeckConfig(max_zip_ratio=10_000),
        )


@pytest.mark.parametrize("encoding", ["utf-32", "utf-32-be", "utf-32-le", "cp037"])
def test_markup_in_encodings_that_hide_it_is_refused(encoding: str) -> None:
    slide = '<?xml version="1.0"?><!DOCTYPE a><a/>'.encode(encoding)

    with pytest.raises(DecodeError, match="UTF-32 or EBCDIC"):
        check(with_members(a_deck("One"), {"ppt/slides/slide1.xml": slide}))


def test_a_bomb_of_blanks_is_refused_by_its_ratio() -> None:
    with pytest.raises(LimitExceeded, match=r"decks\.max_zip_ratio"):
        check(with_members(a_deck("One"), {"ppt/slides/slide1.xml": b" " * 5_000_000}))


def test_a_packed_drawing_that_is_a_bomb_draws_nothing() -> None:
    bomb = gzip.compress(b"<svg>" + b" " * 2_000_000 + b"</svg>")

    found, flag = embedded.harmless(bomb, max_bytes=1_000_000)

    assert (flag, b"width" in found) == ("external_links", True)
