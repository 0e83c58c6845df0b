import io
import tracemalloc
import zipfile

import numpy as np
import pytest
from PIL import Image

from phicorpus.media import sniff
from phicorpus.media.media_types import ENCRYPTED_OFFICE, ODP, PDF, PPT, PPTX, asset_kind
from tests.media.builders import (
    a_deck,
    a_pdf,
    a_recording,
    a_tone,
    an_image,
    saved,
    with_members,
)
from tests.media.zips import a_bomb_of_a_type, a_directory_of


@pytest.mark.parametrize(
    ("kind", "media_type"),
    [
        ("JPEG", "image/jpeg"),
        ("PNG", "image/png"),
        ("GIF", "image/gif"),
        ("WEBP", "image/webp"),
        ("TIFF", "image/tiff"),
        ("BMP", "image/bmp"),
        ("JPEG2000", "image/jp2"),
        ("AVIF", "image/avif"),
        ("PPM", "image/x-portable-anymap"),
    ],
)
def test_images_are_told_by_content(kind: str, media_type: str) -> None:
    assert sniff.sniff(saved(an_image(), kind)) == media_type
    assert asset_kind(media_type) == "image"


@pytest.mark.parametrize(
    ("kind", "media_type"),
    [
        ("WAV", "audio/wav"),
        ("RF64", "audio/wav"),
        ("W64", "audio/x-w64"),
        ("FLAC", "audio/flac"),
        ("OGG", "audio/ogg"),
        ("MP3", "audio/mpeg"),
        ("AIFF", "audio/aiff"),
        ("AU", "audio/basic"),
        ("CAF", "audio/x-caf"),
    ],
)
def test_recordings_are_told_by_content(kind: str, media_type: str) -> None:
    content = a_recording(a_tone(), kind=kind)

    assert sniff.sniff(content) == media_type
    assert asset_kind(media_type) == "audio"


def test_an_mp3_is_told_with_and_without_its_tag() -> None:
    content = a_recording(a_tone(), kind="MP3")
    tag = b"ID3\x04\x00\x00\x00\x00\x02\x01" + bytes(257)

    assert sniff.sniff(tag + content) == "audio/mpeg"
    assert sniff.sniff(tag + a_recording(a_tone(), kind="FLAC")) == "audio/flac"
    assert sniff.sniff(b"\xff\xfe" + "not sound".encode("utf-16-le")) != "audio/mpeg"


def test_decks_are_told_from_other_office_documents() -> None:
    deck = a_deck("Title")

    assert sniff.sniff(a_pdf("page")) == PDF
    assert sniff.sniff(b"\n" * 100 + a_pdf("page")) == PDF
    assert sniff.sniff(deck) == PPTX
    assert sniff.sniff(deck[: len(deck) // 2]) == PPTX
    assert sniff.sniff(with_members(deck, {})) == PPTX
    ole = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(500)
    assert sniff.sniff(ole + "PowerPoint Document".encode("utf-16-le")) == PPT
    assert sniff.sniff(ole + "EncryptedPackage".encode("utf-16-le")) == ENCRYPTED_OFFICE
    assert asset_kind(sniff.sniff(ole + "WordDocument".encode("utf-16-le"))) is None


def test_gsm_is_told_by_ten_of_its_frames() -> None:
    frame = b"\xd2" + b"\x55" * 32

    assert sniff.sniff(memoryview(frame * 10)) == sniff.guess("a.gsm") == "audio/x-gsm"


@pytest.mark.parametrize("packing", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("suffix", ["", "-template"])
def test_opendocument_is_told_however_it_is_packed(packing: int, suffix: str) -> None:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", packing) as archive:
        archive.writestr("content.xml", "<a/>")
        archive.writestr("mimetype", ODP + suffix)

    assert sniff.sniff(target.getvalue()) == ODP


@pytest.mark.parametrize(
    ("content", "media_type"),
    [
        (b"", None),
        (b"\x00" * 100, None),
        (b"hello, world", "text/plain"),
        (b"P7\nWIDTH 1\n", "image/x-portable-arbitrarymap"),
        ((b"\xd2" + b"\x55" * 32) * 9, None),
        ((b"\xd2" + b"\x55" * 32) * 9 + b"\xc2" + b"\x55" * 32, None),
        ("größer".encode() * 2000, "text/plain"),
        (b"<!DOCTYPE html><html>", "text/html"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "image/svg+xml"),
        (b"PK\x05\x06" + bytes(18), "application/zip"),
        (np.random.default_rng(0).bytes(4000), None),
    ],
)
def test_what_is_not_read_is_named_where_it_can_be(content: bytes, media_type: str | None) -> None:
    assert sniff.sniff(content) == sniff.sniff(memoryview(content)) == media_type
    assert asset_kind(media_type) in {None, "text"}


def test_names_are_guessed_from_their_extension() -> None:
    assert sniff.guess("s3://bucket/a/b.JPEG") == "image/jpeg"
    assert sniff.guess("/data/talk.m4a") == "audio/mp4"
    assert sniff.guess("gs://bucket/deck.pptm") == PPTX
    assert sniff.guess("gs://bucket.pdf/readme") is None


def test_sniffing_any_prefix_never_raises() -> None:
    target = io.BytesIO()
    Image.new("RGB", (9, 9)).save(target, "WEBP")
    for content in (target.getvalue(), a_pdf("x"), a_deck("x"), a_recording(a_tone(), kind="MP3")):
        for length in range(0, min(len(content), 600), 7):
            sniff.sniff(content[:length])


@pytest.mark.parametrize(
    ("content", "media_type"),
    [
        (b"\xff\x0a\xfa\x7f\x01", "image/jxl"),
        (b"\x00\x00\x00\x0cJXL \r\n\x87\n", "image/jxl"),
        (b"II\xbc\x01\x20\0\0\0", "image/jxr"),
        (saved(an_image(), "ICO"), "image/vnd.microsoft.icon"),
        (saved(an_image(), "ICNS"), "image/icns"),
        (saved(an_image(), "TGA"), "image/x-tga"),
        (saved(an_image(), "PCX"), "image/vnd.zbrush.pcx"),
        (saved(an_image(), "EPS"), "application/postscript"),
        (b"8BPS\0\1" + bytes(20), "image/vnd.adobe.photoshop"),
        (bytes(128) + b"DICM" + bytes(40), "application/dicom"),
        (b"\0\0\0\x18ftypcrx " + bytes(12), "image/x-canon-cr3"),
        (b"FUJIFILMCCD-RAW 0201", "image/x-fuji-raf"),
        (b"\x01\0\0\0" + bytes(36) + b" EMF" + bytes(40), "image/emf"),
    ],
)
def test_images_that_are_not_read_have_names(content: bytes, media_type: str) -> None:
    assert sniff.sniff(content) == media_type
    assert asset_kind(media_type) is None


@pytest.mark.parametrize("packing", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA, zipfile.ZIP_DEFLATED])
def test_a_type_that_unpacks_to_much_is_not_unpacked(packing: int) -> None:
    content = a_bomb_of_a_type(64 * 1024**2, packing)
    tracemalloc.start()
    try:
        found = sniff.sniff(content)
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    assert found in {PPTX, "application/zip", "\0" * 200}
    assert peak_bytes < 8 * 1024**2


def test_a_zip_that_is_all_directory_is_not_read_whole() -> None:
    content = a_directory_of(150_000)
    tracemalloc.start()
    try:
        assert sniff.sniff(content) == "application/zip"
        assert tracemalloc.get_traced_memory()[1] < 40 * 1024**2
    finally:
        tracemalloc.stop()


def test_a_deck_whose_parts_are_in_capitals_is_a_deck() -> None:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name in ("[CONTENT_TYPES].XML", "PPT/PRESENTATION.XML"):
            archive.writestr(name, "<x/>")

    assert sniff.sniff(file.getvalue()) == PPTX
