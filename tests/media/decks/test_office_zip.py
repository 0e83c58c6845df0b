import io
import zipfile

import pytest

from phicorpus.config import DeckConfig
from phicorpus.errors import DecodeError, LimitExceeded, PasswordRequired
from phicorpus.media import sniff
from phicorpus.media.decks import pptx
from phicorpus.media.media_types import ODP, PPTX
from phicorpus.media.office import office_zip
from tests.media.builders import a_deck, member, with_members

RELS = "ppt/slides/_rels/slide1.xml.rels"
SLIDE = "ppt/slides/slide1.xml"
RELATIONSHIP = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"


def check(content: bytes, config: DeckConfig | None = None) -> office_zip.Package:
    return office_zip.check(content, PPTX, config or DeckConfig())


def linked(kind: str, target: str) -> bytes:
    content = a_deck("One")
    link = f'<Relationship Id="rId9" Type="{RELATIONSHIP}/{kind}" Target="{target}" '
    rels = member(content, RELS).replace(
        b"</Relationships>", f'{link}TargetMode="External"/></Relationships>'.encode()
    )
    return with_members(content, {RELS: rels})


def members(content: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def test_the_parts_of_a_plain_deck_pass_unchanged() -> None:
    content = a_deck("One", chart=True)

    checked = check(content)

    assert checked.flags == ()
    assert members(checked.content).keys() == members(content).keys()
    changed = {
        name for name, part in members(checked.content).items() if part != members(content)[name]
    }
    assert {name for name in changed if not name.endswith(".xlsx")} == set()
    for name in changed:
        assert members(members(checked.content)[name]) == members(members(content)[name])


@pytest.mark.parametrize(
    "spelt",
    ["ppt/slides/Slide1.xml", "PPT/Slides/slide1.xml", "ppt\\slides\\slide1.xml"],
)
def test_parts_are_named_as_the_links_to_them_spell_them(spelt: str) -> None:
    parts = members(a_deck("One"))
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        for name, part in parts.items():
            archive.writestr(spelt if name == SLIDE else name, part)

    checked = check(target.getvalue())

    assert members(checked.content).keys() == parts.keys()


def test_pictures_from_elsewhere_are_cut_off_and_flagged() -> None:
    checked = check(linked("image", "http://127.0.0.1/secret.png"))

    assert checked.flags == ("external_links",)
    assert b"127.0.0.1" not in member(checked.content, RELS)
    assert b"slideLayout" in member(checked.content, RELS)
    assert len(pptx.slides(checked.content)) == 1


def test_a_link_that_hides_its_nature_is_cut_off_too() -> None:
    content = a_deck("One")
    link = f'<Relationship Id="rId9" Type="{RELATIONSHIP}/image" Target="file:///etc/motd" '
    for disguise in ('TargetMode="&#69;xternal"/>', "/>"):
        rels = member(content, RELS).replace(
            b"</Relationships>", f"{link}{disguise}</Relationships>".encode()
        )
        checked = check(with_members(content, {RELS: rels}))

        assert checked.flags == ("external_links",)
        assert b"file:" not in member(checked.content, RELS)


def test_hyperlinks_stay_but_lead_nowhere() -> None:
    checked = check(linked("hyperlink", "http://169.254.169.254/latest"))

    assert checked.flags == ()
    assert b"169.254" not in member(checked.content, RELS)
    assert b"hyperlink" in member(checked.content, RELS)


@pytest.mark.parametrize(
    "target",
    ["http://127.0.0.1/a.png", "file:///etc/a.png", "/etc/a.png", "../../a.png", "x/%2E%2e/a.png"],
)
def test_pictures_from_elsewhere_are_cut_off_opendocument_too(target: str) -> None:
    xlink = 'xmlns:x="http://www.w3.org/1999/xlink"'
    draw = 'xmlns:draw="urn:oasis:names:tc:opendocument:xmlns:drawing:1.0"'
    outside = an_odp(f'<draw:page {draw} {xlink}><draw:image x:href="{target}"/></draw:page>')
    inside = an_odp(
        f'<draw:page {draw} {xlink}><draw:image x:href="Pictures/a.png"/>'
        f'<draw:a x:href="http://example.com"/></draw:page>'
    )

    cut = office_zip.check(outside, ODP, DeckConfig())

    assert (cut.num_pages, cut.flags) == (1, ("external_links",))
    assert target.encode() not in member(cut.content, "content.xml")
    assert sniff.sniff(cut.content) == ODP
    kept = office_zip.check(inside, ODP, DeckConfig())
    assert (kept.num_pages, kept.flags) == (1, ())
    assert members(kept.content) == members(inside)


def an_odp(content: str) -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        archive.writestr("mimetype", ODP)
        archive.writestr("content.xml", content)
        archive.writestr("Configurations2/accelerator/current.xml", "")
    return target.getvalue()


@pytest.mark.parametrize("kind", ["slideshow", "template"])
def test_slide_shows_and_templates_are_read_like_presentations(kind: str) -> None:
    content = a_deck("One")
    types = member(content, "[Content_Types].xml").replace(
        b"presentation.main+xml", f"{kind}.main+xml".encode()
    )
    show = with_members(content, {"[Content_Types].xml": types})

    checked = check(show)

    assert b"presentation.main+xml" in member(checked.content, "[Content_Types].xml")
    (slide,) = pptx.slides(checked.content)

    assert slide.native is not None
    assert slide.native.title == "One"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_a_doctype_is_refused(encoding: str) -> None:
    slide = f'<?xml version="1.0" encoding="{encoding}"?><!DOCTYPE a [<!ENTITY b "c">]><a/>'

    with pytest.raises(DecodeError, match="DOCTYPE"):
        check(with_members(a_deck("One"), {SLIDE: slide.encode(encoding)}))


def test_a_doctype_in_a_part_of_any_name_is_refused() -> None:
    entities = b'<!DOCTYPE a [<!ENTITY b "c">]><a/>'
    drawing = b'<!DOCTYPE svg PUBLIC "-//W3C//DTD SVG 1.1//EN" "x"><svg/>'

    for name in ("ppt/slides/slide1.bin", "ppt/media/a.svg"):
        with pytest.raises(DecodeError, match="DOCTYPE"):
            check(with_members(a_deck("One"), {name: entities}))
    check(with_members(a_deck("One"), {"ppt/media/a.svg": drawing}))


def test_a_doctype_far_into_a_part_is_refused() -> None:
    for size in (1024**2 - 5, 3 * 1024**2):
        noise = bytes(range(97, 123)) * (size // 26 + 1)
        slide = b"<?xml version='1.0'?><!--" + noise[: size - 28] + b"--><!DOCTYPE a><a/>"
        with pytest.raises(DecodeError, match="DOCTYPE"):
            check(with_members(a_deck("One"), {SLIDE: slide}), DeckConfig(max_zip_ratio=10_000))


def test_an_odd_encoding_that_could_hide_one_is_refused() -> None:
    slide = b'<?xml version="1.0" encoding="utf-7"?><a/>'

    with pytest.raises(DecodeError, match="encoding"):
        check(with_members(a_deck("One"), {SLIDE: slide}))


def test_bombs_are_refused_by_what_they_announce() -> None:
    many = with_members(a_deck("One"), {f"ppt/media/{number}.png": b"" for number in range(99)})
    large = with_members(a_deck("One"), {"ppt/media/a.bin": bytes(5_000_000)})
    markup = with_members(a_deck("One"), {SLIDE: b"<a>" + b" " * 5_000_000 + b"</a>"})

    with pytest.raises(LimitExceeded, match=r"decks\.max_members"):
        check(many, DeckConfig(max_members=100))
    with pytest.raises(LimitExceeded, match=r"decks\.max_member_bytes"):
        check(large, DeckConfig(max_member_bytes=4_000_000))
    with pytest.raises(LimitExceeded, match=r"decks\.max_unzipped_bytes"):
        check(large, DeckConfig(max_unzipped_bytes=4_000_000))
    with pytest.raises(LimitExceeded, match=r"decks\.max_zip_ratio"):
        check(markup)
    assert members(check(large).content) == members(
        large
    )  # a blank picture packs as well, and is harmless


@pytest.mark.parametrize("name", ["../evil.xml", "/etc/evil", "a/../../b", "..\\evil"])
def test_names_that_leave_the_folder_are_refused(name: str) -> None:
    with pytest.raises(DecodeError, match="unsafe member name"):
        check(with_members(a_deck("One"), {name: b"x"}))


def test_encrypted_documents_ask_for_their_password() -> None:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        archive.writestr("mimetype", ODP)
        archive.writestr("META-INF/manifest.xml", "<m><encryption-data/></m>")
        archive.writestr("content.xml", "noise")
    zipped = bytearray(a_deck("One"))
    zipped[zipped.index(b"PK\x01\x02") + 8] |= 1

    with pytest.raises(PasswordRequired):
        office_zip.check(target.getvalue(), ODP, DeckConfig())
    with pytest.raises(PasswordRequired):
        check(bytes(zipped))
    current_user = b"\x00\x00\xf6\x0f\x20\x00\x00\x00\x14\x00\x00\x00\xdf\xc4\xd1\xf3"
    with pytest.raises(PasswordRequired):
        office_zip.check_ppt(b"\xd0\xcf\x11\xe0" + current_user)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", a_deck("x")[:-100], a_deck("x")[:2000]])
def test_a_broken_archive_is_an_error(content: bytes) -> None:
    with pytest.raises(DecodeError):
        check(content)


def test_damage_inside_a_member_is_an_error() -> None:
    content = bytearray(a_deck("x"))
    at = content.index(b"ppt/presentation.xml") + 60
    content[at : at + 40] = bytes(40)

    with pytest.raises(DecodeError):
        check(bytes(content))
