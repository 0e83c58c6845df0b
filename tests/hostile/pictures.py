"""Images that attack: bombs, lies about their size, two formats at once."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator

from PIL import Image

from tests.hostile.attack import Attack, attack
from tests.media.builders import a_recording, a_tone, an_image, saved
from tests.media.images.tiffs import GREY, ATiff, written

_BITS = {0: 1, 6: 32}  # of a pixel, by PNG colour type, at the depths used here


def attacks() -> Iterator[Attack]:
    yield attack(
        "a PNG of 900 megapixels in 110 kB",
        a_png(30_000, 30_000, colour_type=0, depth=1),
        "LimitExceeded",
        says=r"images\.max_pixels: .*900000000 pixels",
    )
    yield attack("a PNG just below the limit", a_png(9990, 9990, colour_type=6, depth=8), "ok")
    yield attack(
        "a PNG whose header promises more than its data",
        a_png(9000, 9000, colour_type=6, depth=8, rows=3),
        *("ok", "DecodeError"),  # its data ends as if it were whole
    )
    yield attack(
        "34 bytes of WebP with 100 megapixels",
        saved(an_image(size=(9990, 9990)), "WEBP", lossless=True, method=0),
        "LimitExceeded",
        says=r"images\.max_memory_bytes",
    )
    yield attack(
        "a PNG with a text chunk that unpacks to 64 MB",
        with_chunk(saved(an_image()), b"zTXt", b"x\0\0" + zlib.compress(bytes(64 * 1024**2))),
        "ok",
        "DecodeError",
    )
    yield attack(
        "a PNG with a colour profile that unpacks to 64 MB",
        with_chunk(saved(an_image()), b"iCCP", b"x\0\0" + zlib.compress(bytes(64 * 1024**2))),
        "ok",
        "DecodeError",
    )
    yield attack(
        "a GIF of 2000 frames",
        saved(an_image(mode="L", color=0), "GIF", save_all=True, append_images=_frames(1999)),
        "ok",
    )
    yield attack("a TIFF of 600 pages", a_tiff(600), "LimitExceeded", says=r"images\.max_frames")
    yield from _tiffs()
    yield from _scans()
    yield attack("a TIFF whose directory points at itself", a_looping_tiff(), "ok", "DecodeError")
    yield attack(
        "a TIFF that declares 2^31 samples a pixel",
        a_looping_tiff(tag=277, value=2**31 - 1),
        "ok",
        "DecodeError",
    )
    yield attack(
        "PostScript with a picture's name",
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n(/etc/passwd) run\n",
        "UnsupportedMedia",
        says="found application/postscript",
        media_type="image/png",
    )
    yield attack(
        "a JPEG followed by a ZIP",
        saved(an_image(), "JPEG") + b"PK\x03\x04" + bytes(500),
        "ok",
    )
    yield attack(
        "a GIF that is JavaScript too",
        b"GIF89a/*" + saved(an_image(), "GIF")[8:] + b"*/=1;alert(1)",
        "ok",
        *("DecodeError", "LimitExceeded", "RequestRefused"),
    )
    yield attack(
        "a recording named as a picture",
        a_recording(a_tone(s=0.5)),
        "ok",
        media_type="image/png",
    )


def _tiffs() -> Iterator[Attack]:
    page = ATiff(photometric=GREY).page()
    tile = [entry for entry in ATiff(tiled=True).page() if entry[0] not in {322, 323}]
    yield attack(
        "a TIFF of 53 x 37 pixels in tiles of 2 GB",
        written([[*tile, (322, "I", [32768]), (323, "I", [60000])]]),
        "LimitExceeded",
        says=r"images\.max_memory_bytes",
    )
    yield attack(
        "a TIFF of 3000 thumbnails",
        written([page, *[[*page[:-2], (254, "I", [1])]] * 3000]),
        "LimitExceeded",
        says=r"images\.max_frames",
    )
    yield attack(
        "a TIFF of half a million strips",
        written([[*(entry for entry in page if entry[0] != 273), (273, "I", [8] * 500_000)]]),
        *("ok", "LimitExceeded", "DecodeError"),
    )
    yield attack(
        "a TIFF whose planes of 16 bits say nothing true of their sizes",
        ATiff(kind="u2", planar=True, compression=8).content().replace(b"\x78\x9c", b"\x78\x01"),
        *("ok", "DecodeError"),
    )


def _scans() -> Iterator[Attack]:
    whole = saved(an_image(size=(9000, 9000)), "JPEG", progressive=True)
    last = whole.rindex(b"\xff\xda")
    yield attack(
        "a JPEG of 20,000 empty scans",
        whole[:-2] + (whole[last : last + 10] + b"\0") * 20_000 + b"\xff\xd9",
        "LimitExceeded",
        says=r"images\.max_scans",
    )
    gif = saved(an_image(mode="L", color=0), "GIF")
    table = 13 + 3 * 2 ** ((gif[10] & 7) + 1)
    yield attack(
        "a GIF whose comment has a million blocks",
        gif[:table] + b"\x21\xfe" + b"\x01a" * 1_000_000 + b"\0" + gif[table:],
        "ok",
    )


def linking(link: str) -> Iterator[Attack]:
    """Give pictures that name another place."""
    href = f'<image href="{link}" width="9" height="9"/>'
    yield attack(
        "an SVG that loads a picture",
        f'<svg xmlns="http://www.w3.org/2000/svg">{href}</svg>'.encode(),
        "UnsupportedMedia",
        says=r"found image/svg\+xml",
        media_type="image/png",
    )
    packet = f'<x:xmpmeta xmlns:x="adobe:ns:meta/"><a href="{link}"/></x:xmpmeta>'.encode()
    yield attack("a JPEG whose metadata is a link", saved(an_image(), "JPEG", xmp=packet), "ok")


def a_png(
    width_px: int, height_px: int, *, colour_type: int, depth: int, rows: int | None = None
) -> bytes:
    header = struct.pack(">IIBBBBB", width_px, height_px, depth, colour_type, 0, 0, 0)
    row = bytes(1 + (width_px * _BITS[colour_type] + 7) // 8)
    packer = zlib.compressobj(1)
    data = b"".join(packer.compress(row) for _ in range(height_px if rows is None else rows))
    chunks = _chunk(b"IHDR", header) + _chunk(b"IDAT", data + packer.flush())
    return b"\x89PNG\r\n\x1a\n" + chunks + _chunk(b"IEND", b"")


def with_chunk(png: bytes, name: bytes, data: bytes) -> bytes:
    after_header = 8 + 25
    return png[:after_header] + _chunk(name, data) + png[after_header:]


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def _frames(count: int) -> list[Image.Image]:
    return [an_image(mode="L", color=n % 256) for n in range(1, count + 1)]


def a_tiff(num_pages: int) -> bytes:
    target = io.BytesIO()
    pages = [an_image(size=(8, 8), mode="L", color=n % 256) for n in range(num_pages)]
    pages[0].save(target, "TIFF", save_all=True, append_images=pages[1:])
    return target.getvalue()


def a_looping_tiff(tag: int = 258, value: int = 8) -> bytes:
    """One page of grey whose next directory is the same one again."""
    tags = {256: 8, 257: 8, 258: 8, 259: 1, 262: 1, 273: 8, 277: 1, 278: 8, 279: 64} | {tag: value}
    entries = b"".join(struct.pack("<HHII", name, 4, 1, number) for name, number in tags.items())
    start = 8 + 64
    directory = struct.pack("<H", len(tags)) + entries + struct.pack("<I", start)
    return b"II*\x00" + struct.pack("<I", start) + bytes(64) + directory
