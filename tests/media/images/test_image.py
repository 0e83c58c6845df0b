import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms

from phicorpus.config import ImageConfig
from phicorpus.errors import DecodeError, LimitExceeded, SegmentError, UnsupportedMedia
from phicorpus.media.images import image
from phicorpus.media.segment import Segment
from tests.media.builders import an_image, saved


def decode(content: bytes, *, max_pixels: int = 100_000_000) -> list[Segment]:
    return list(image.segments(content, ImageConfig(max_pixels=max_pixels)))


def outcome(content: bytes) -> SegmentError | None:
    try:
        return decode(content)[0].error
    except SegmentError as error:
        return error


def the_picture(content: bytes) -> Image.Image:
    (segment,) = decode(content)
    assert segment.image is not None
    assert segment.image.mode == "RGB"
    return segment.image


def mean(picture: Image.Image) -> list[int]:
    return np.asarray(picture).reshape(-1, 3).mean(axis=0).round().astype(int).tolist()


@pytest.mark.parametrize("kind", ["PNG", "GIF", "WEBP", "TIFF", "BMP", "JPEG2000", "AVIF", "PPM"])
def test_each_format_becomes_one_rgb_segment(kind: str) -> None:
    content = saved(an_image(color=(200, 30, 30)), kind)

    (segment,) = decode(content)

    assert segment.image is not None
    assert (segment.kind, segment.index, segment.count) == ("image", 0, 1)
    assert np.allclose(mean(segment.image), [200, 30, 30], atol=3)


def test_a_photo_is_set_upright() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate 90 degrees clockwise to display

    picture = the_picture(saved(an_image(size=(80, 40)), "JPEG", exif=exif))

    assert picture.size == (40, 80)


def test_what_is_transparent_is_white() -> None:
    layered = an_image(mode="RGBA", color=(0, 0, 0, 0))
    assert mean(the_picture(saved(layered))) == [255, 255, 255]
    assert mean(the_picture(saved(an_image(mode="LA", color=(0, 0))))) == [255, 255, 255]

    palette = an_image(mode="P", color=0)
    palette.info["transparency"] = 0
    assert mean(the_picture(saved(palette, transparency=0))) == [255, 255, 255]


def test_sixteen_bit_grey_keeps_its_tones() -> None:
    ramp = np.linspace(0, 65535, 64 * 48).astype(np.uint16).reshape(48, 64)

    picture = the_picture(saved(Image.fromarray(ramp)))

    assert abs(mean(picture)[0] - 127) <= 1


@pytest.mark.parametrize("scale", [1.0, 4000.0])
def test_float_grey_keeps_its_tones(scale: float) -> None:
    ramp = np.linspace(0, scale, 64 * 48).astype(np.float32).reshape(48, 64)

    picture = the_picture(saved(Image.fromarray(ramp), "TIFF"))

    assert abs(mean(picture)[0] - 127) <= 1


def test_cmyk_and_lab_become_their_colours() -> None:
    assert mean(the_picture(saved(an_image(mode="CMYK", color=(0, 255, 255, 0)), "TIFF"))) == [
        255,
        0,
        0,
    ]
    grey = an_image(mode="LAB", color=(137, 128, 128))
    assert np.allclose(mean(the_picture(saved(grey, "TIFF"))), [128, 128, 128], atol=3)


def test_a_colour_profile_is_applied_and_a_broken_one_is_flagged() -> None:
    swapped = ImageCms.ImageCmsProfile(ImageCms.createProfile("XYZ")).tobytes()
    (ignored,) = decode(saved(an_image(), icc_profile=b"no profile"))
    (wrong_kind,) = decode(saved(an_image(), icc_profile=swapped))

    assert ignored.flags == ("icc_ignored",)
    assert wrong_kind.image is not None


def test_a_tiff_gives_its_pages_and_no_thumbnails() -> None:
    pages = [an_image(color=color) for color in ("red", "green", "blue")]
    thumbnail = an_image(size=(8, 6))
    thumbnail.encoderinfo = {"tiffinfo": {254: 1}}

    segments = decode(saved(pages[0], "TIFF", save_all=True, append_images=[*pages[1:], thumbnail]))

    assert [(segment.index, segment.count, segment.page_number) for segment in segments] == [
        (0, 3, 1),
        (1, 3, 2),
        (2, 3, 3),
    ]
    assert [mean(segment.image)[2] for segment in segments if segment.image] == [0, 0, 255]


def test_a_tiff_page_is_set_upright() -> None:
    content = saved(an_image(size=(80, 40)), "TIFF", tiffinfo={274: 6})

    assert the_picture(content).size == (40, 80)


def test_twelve_bit_grey_keeps_its_tones() -> None:
    assert mean(the_picture(a_twelve_bit_tiff(0xFFF))) == [255, 255, 255]
    assert mean(the_picture(a_twelve_bit_tiff(0x800))) == [128, 128, 128]


def a_twelve_bit_tiff(value: int) -> bytes:
    """Make 2 x 2 pixels of grey, two to three bytes."""
    tags = (
        (256, 2),
        (257, 2),
        (258, 12),
        (259, 1),
        (262, 1),
        (273, 8),
        (277, 1),
        (278, 2),
        (279, 6),
    )
    pixels = (value << 12 | value).to_bytes(3, "big") * 2
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, number) for tag, number in tags)
    directory = struct.pack("<H", len(tags)) + entries + bytes(4)
    return b"II*\x00" + struct.pack("<I", 14) + pixels + directory


def test_a_broken_tiff_page_does_not_lose_the_others() -> None:
    noise = np.random.default_rng(0).integers(0, 255, (48, 64, 3), np.uint8)
    pages = [Image.fromarray(noise) for _ in range(3)]
    content = bytearray(
        saved(pages[0], "TIFF", save_all=True, append_images=pages[1:], compression="tiff_deflate")
    )
    data = [at for at in range(len(content)) if content[at : at + 2] == b"\x78\x9c"]
    content[data[1] : data[1] + 200] = bytes(200)

    segments = decode(bytes(content))

    assert [type(segment.error) for segment in segments] == [type(None), DecodeError, type(None)]


def test_too_many_tiff_pages_are_refused() -> None:
    content = saved(an_image(), "TIFF", save_all=True, append_images=[an_image()] * 3)

    with pytest.raises(LimitExceeded, match=r"images\.max_frames"):
        list(image.segments(content, ImageConfig(max_frames=3)))


def test_an_animation_gives_its_first_frame_and_says_so() -> None:
    frames = [an_image(color="red"), an_image(color="blue")]

    (segment,) = decode(saved(frames[0], "GIF", save_all=True, append_images=frames[1:]))

    assert segment.flags == ("animation", "first_of_2_frames")
    assert segment.image is not None
    assert mean(segment.image)[0] > 250


def test_a_large_photo_is_decoded_whole() -> None:
    (segment,) = decode(saved(an_image(size=(4000, 1000)), "JPEG"))

    assert segment.image is not None
    assert segment.image.size == (4000, 1000)


@pytest.mark.parametrize("side_px", [12_000, 60_000])
def test_a_bomb_is_refused_before_it_is_unpacked(side_px: int) -> None:
    header = struct.pack(">IIBBBBB", side_px, side_px, 8, 2, 0, 0, 0)
    rows = zlib.compress(bytes(side_px * 3 + 1) * 20)
    bomb = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in ((b"IHDR", header), (b"IDAT", rows), (b"IEND", b""))
    )

    with pytest.raises(LimitExceeded, match=r"images\.max_pixels"):
        decode(bomb)


@pytest.mark.parametrize("mode", ["RGB", "CMYK"])
@pytest.mark.parametrize("left", [b"", b"\xff"])
def test_a_jpeg_that_lacks_its_end_marker_alone_is_whole(mode: str, left: bytes) -> None:
    whole = saved(a_gradient(mode), "JPEG")
    assert whole.endswith(b"\xff\xd9")

    (expected,) = decode(whole)
    (found,) = decode(whole[:-2] + left)

    assert found.image is not None
    assert expected.image is not None
    assert found.image.tobytes() == expected.image.tobytes()
    assert (expected.flags, found.flags) == ((), ("end_marker_missing",))


@pytest.mark.parametrize(("cut", "progressive"), [(5, False), (40, False), (2, True)])
def test_a_jpeg_that_may_lack_pixels_is_an_error(cut: int, progressive: bool) -> None:
    whole = saved(a_gradient("RGB"), "JPEG", progressive=progressive)

    with pytest.raises(DecodeError, match="truncated"):
        list(decode(whole[:-cut]))


def a_gradient(mode: str) -> Image.Image:
    noise = np.random.default_rng(0).integers(0, 256, (75, 100, 3), np.uint8)
    return Image.fromarray(noise).resize((403, 301)).convert(mode)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP", "JPEG2000", "AVIF"])
def test_a_truncated_image_is_an_error(kind: str) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (200, 200, 3), np.uint8)
    content = saved(Image.fromarray(noise), kind)

    assert isinstance(outcome(content[: len(content) // 2]), DecodeError)


@pytest.mark.parametrize("content", [b"", b"hello", b"%!PS-Adobe-3.0 EPSF-3.0\n", b"\x89PNG\r\n"])
def test_what_is_no_image_is_an_error(content: bytes) -> None:
    with pytest.raises(DecodeError):
        decode(content)


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_other_animations_tell_their_frames_too(kind: str) -> None:
    frames = [an_image(color=color) for color in ("red", "blue", "lime")]

    (segment,) = decode(saved(frames[0], kind, save_all=True, append_images=frames[1:]))

    assert segment.flags == ("animation", "first_of_3_frames")


def a_heic(picture: Image.Image) -> bytes:
    heif = pytest.importorskip("pillow_heif")
    target = io.BytesIO()
    heif.from_pillow(picture).save(target, quality=95)
    return target.getvalue()


def test_heic_is_decoded_upright_where_its_extra_is_installed() -> None:
    picture = an_image(size=(64, 48), color="red")
    picture.paste("blue", (0, 0, 32, 48))

    found = the_picture(a_heic(picture))

    assert (found.mode, found.size) == ("RGB", (64, 48))
    pixels = np.asarray(found)
    assert np.allclose(pixels[24, 8], (0, 0, 255), atol=12)
    assert np.allclose(pixels[24, 56], (255, 0, 0), atol=12)


def test_heic_has_the_same_limits_and_is_never_decoded_in_part() -> None:
    content = a_heic(an_image(size=(64, 48)))

    with pytest.raises(LimitExceeded, match=r"images\.max_pixels: 64 x 48"):
        list(image.segments(content, ImageConfig(max_pixels=100)))
    with pytest.raises(DecodeError):
        decode(content[: len(content) * 2 // 3])


def test_heic_without_its_extra_names_it() -> None:
    try:
        import pillow_heif  # type: ignore[import-not-found]  # noqa: F401, PLC0415
    except ImportError:
        with pytest.raises(UnsupportedMedia, match="heif"):
            decode(b"\x00\x00\x00\x18ftypheic" + bytes(100))
    else:
        with pytest.raises(DecodeError):
            decode(b"\x00\x00\x00\x18ftypheic" + bytes(100))


def test_decoding_does_not_need_the_file_to_stay_open() -> None:
    content = io.BytesIO(saved(an_image())).getvalue()
    picture = the_picture(content)
    assert picture.getpixel((1, 1)) == (255, 0, 0)


def test_a_format_that_takes_much_memory_is_refused_before_it_is_decoded() -> None:
    content = saved(an_image(size=(400, 400)), "WEBP")

    with pytest.raises(LimitExceeded, match=r"images\.max_memory_bytes: 400 x 400 pixels of WEBP"):
        list(image.segments(content, ImageConfig(max_memory_bytes=2_000_000)))


def with_chunks(png: bytes, *chunks: tuple[bytes, bytes, int]) -> bytes:
    """Put chunks behind a PNG's header; the last number is added to their checksums."""
    made = b"".join(
        struct.pack(">I", len(data))
        + name
        + data
        + struct.pack(">I", zlib.crc32(name + data) ^ off)
        for name, data, off in chunks
    )
    return png[:33] + made + png[33:]


LARGE_TEXT = b"prompt\0\0" + zlib.compress(b"a" * 3_000_000)


@pytest.mark.parametrize(
    "chunk",
    [
        (b"tEXt", b"Comment\0hello", 1),
        (b"zTXt", LARGE_TEXT, 0),
        (b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(b"a" * 3_000_000), 0),
        (b"gAMA", b"\0", 1),
        (b"pHYs", b"", 1),
        (b"eXIf", b"MM\0*", 1),
        (b"iCCP", b"large\0\0" + zlib.compress(bytes(3_000_000)), 0),
        (b"tRNS", b"\0", 0),
    ],
)
def test_damage_in_what_describes_a_png_does_not_cost_its_pixels(
    chunk: tuple[bytes, bytes, int],
) -> None:
    content = with_chunks(saved(a_gradient("RGB")), chunk)

    (segment,) = decode(content)

    assert segment.image is not None
    assert segment.image.tobytes() == a_gradient("RGB").tobytes()
    assert segment.flags == ("metadata_ignored",)


def test_large_text_behind_the_pixels_does_not_cost_them_either() -> None:
    whole = saved(a_gradient("RGB"))
    content = whole[:-12] + with_chunks(bytes(33), (b"zTXt", LARGE_TEXT, 0))[33:] + whole[-12:]

    assert the_picture(content).tobytes() == a_gradient("RGB").tobytes()


def test_damage_in_the_pixels_of_a_png_is_an_error_whatever_else_is_damaged() -> None:
    content = bytearray(with_chunks(saved(a_gradient("RGB")), (b"tEXt", b"a\0b", 1)))
    at = content.index(b"IDAT") + 100
    content[at : at + 50] = bytes(50)

    with pytest.raises(DecodeError):
        decode(bytes(content))


def test_an_animated_png_with_damaged_frames_gives_its_still_picture() -> None:
    still = a_gradient("RGB")
    frames = struct.pack(">IIIIIHHBB", 0, 9999, 9999, 9999, 9999, 1, 1, 0, 0)
    content = with_chunks(
        saved(still), (b"acTL", struct.pack(">II", 2, 0), 0), (b"fcTL", frames, 0)
    )

    (segment,) = decode(content)

    assert segment.image is not None
    assert segment.image.tobytes() == still.tobytes()
    assert "animation" in segment.flags


def test_a_png_s_one_transparent_value_is_white() -> None:
    grey = Image.fromarray(np.full((8, 8), 0x1234, np.uint16))
    unseen = with_chunks(saved(grey), (b"tRNS", struct.pack(">H", 0x1234), 0))
    seen = with_chunks(saved(grey), (b"tRNS", struct.pack(">H", 0x1235), 0))
    rows = zlib.compress((b"\0" + struct.pack(">3H", 0x1234, 0x5678, 0x9ABC) * 4) * 4)
    header = struct.pack(">IIBBBBB", 4, 4, 16, 2, 0, 0, 0)
    colour = with_chunks(
        b"\x89PNG\r\n\x1a\n" + with_chunks(bytes(33), (b"IHDR", header, 0))[33:],
        (b"tRNS", struct.pack(">3H", 0x1234, 0x5678, 0x9ABC), 0),
        (b"IDAT", rows, 0),
        (b"IEND", b"", 0),
    )

    assert mean(the_picture(unseen)) == [255, 255, 255]
    assert mean(the_picture(seen)) == [18, 18, 18]
    assert mean(the_picture(colour)) == [255, 255, 255]


def a_profile(gamma: float, name: str) -> bytes:
    """Make sRGB's primaries with another curve, under any name."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    count = struct.unpack_from(">I", profile, 128)[0]
    for entry in range(count):
        tag, offset, size = struct.unpack_from(">4sII", profile, 132 + 12 * entry)
        if tag in {b"rTRC", b"gTRC", b"bTRC"}:
            curve = b"curv" + struct.pack(">IIH", 0, 1, round(gamma * 256))
            profile[offset : offset + size] = curve.ljust(size, b"\0")
        if tag == b"desc":
            text = name.encode("utf-16-be")
            head = (
                b"mluc"
                + struct.pack(">III", 0, 1, 12)
                + b"enUS"
                + struct.pack(">II", len(text), 28)
            )
            profile[offset : offset + size] = (head + text).ljust(size, b"\0")[:size]
    return bytes(profile)


@pytest.mark.parametrize("mode", ["RGB", "P"])
def test_a_profile_counts_for_what_it_does_and_not_for_its_name(mode: str) -> None:
    picture = an_image(color=(147, 3, 3))
    picture = picture.quantize(4) if mode == "P" else picture

    (same,) = decode(saved(picture, icc_profile=a_profile(2.2, "Camera")))
    linear = the_picture(saved(picture, icc_profile=a_profile(1.0, "sRGB lin")))

    assert same.image is not None
    assert np.allclose(mean(same.image), [147, 3, 3], atol=3)
    assert np.allclose(mean(linear), [200, 28, 28], atol=3)


def test_the_pixel_limit_is_the_configs_own() -> None:
    side_px = 15_000  # 225 megapixels: beyond twice of Pillow's limit

    with pytest.raises(LimitExceeded, match=r"images\.max_pixels: .* limit 100000000"):
        decode(a_blank_png(side_px))
    (segment,) = image.segments(
        a_blank_png(side_px), ImageConfig(max_pixels=400_000_000, max_memory_bytes=8 * 1024**3)
    )
    assert segment.image is not None
    assert segment.image.size == (side_px, side_px)


def a_blank_png(side_px: int) -> bytes:
    header = struct.pack(">IIBBBBB", side_px, side_px, 1, 0, 0, 0, 0)
    packer = zlib.compressobj(1)
    rows = packer.compress(bytes((side_px // 8 + 1) * side_px)) + packer.flush()
    return with_chunks(
        b"\x89PNG\r\n\x1a\n" + with_chunks(bytes(33), (b"IHDR", header, 0))[33:],
        (b"IDAT", rows, 0),
        (b"IEND", b"", 0),
    )


def test_scans_of_a_jpeg_are_counted() -> None:
    whole = saved(a_gradient("RGB"), "JPEG", progressive=True)
    scan = whole.rindex(b"\xff\xda")
    empty = whole[scan : scan + 10] + b"\x00"
    many = whole[:-2] + empty * 200 + b"\xff\xd9"

    with pytest.raises(LimitExceeded, match=r"images\.max_scans: more than 100 scans"):
        decode(many)
    assert decode(whole + many)[0].image is not None  # what stands behind its end is not read


@pytest.mark.parametrize(
    ("precision", "frame", "says"),
    [(12, 0xC1, "3 samples of 12 bits"), (8, 0xC3, "lossless"), (8, 0xF7, "JPEG-LS")],
)
def test_a_jpeg_kind_that_is_not_read_is_unsupported(precision: int, frame: int, says: str) -> None:
    content = bytearray(saved(a_gradient("RGB"), "JPEG"))
    at = content.index(b"\xff\xc0")
    content[at + 1], content[at + 4] = frame, precision

    with pytest.raises(UnsupportedMedia, match=says):
        decode(bytes(content))


def test_a_bmp_kind_that_is_not_read_is_unsupported() -> None:
    header = struct.pack("<IiiHHIIiiII", 40, 2, 2, 1, 16, 3, 16, 0, 0, 0, 0)
    masks = struct.pack("<3I", 0xF00, 0xF0, 0xF)
    start = 14 + len(header) + len(masks)
    content = b"BM" + struct.pack("<IHHI", start + 16, 0, 0, start) + header + masks + bytes(16)

    with pytest.raises(UnsupportedMedia, match=r"16 bits, compression bit fields, masks 0xf00"):
        decode(content)


@pytest.mark.parametrize(
    "content", [b"\xff\x0a\xfa\x1f", b"8BPS\0\1" + bytes(20), b"qoif" + bytes(9)]
)
def test_other_formats_are_unsupported_and_not_damaged(content: bytes) -> None:
    with pytest.raises(UnsupportedMedia, match="is not read: convert it"):
        decode(content)
