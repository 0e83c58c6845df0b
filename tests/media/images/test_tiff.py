"""TIFFs of every layout, whose pixels are known: right, or refused by name, and never else."""

import struct
import tracemalloc
from dataclasses import replace
from typing import Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from phicorpus.config import ImageConfig
from phicorpus.errors import DecodeError, LimitExceeded, SegmentError, UnsupportedMedia
from phicorpus.media.images import image, tiff
from phicorpus.media.segment import Segment
from tests.media.builders import an_image, saved
from tests.media.images.tiffs import (
    CMYK,
    DEFLATE,
    GREY,
    GREY_INVERTED,
    HEIGHT,
    LZW,
    NONE,
    PACKBITS,
    RGB,
    WIDTH,
    ATiff,
    grid,
    truth,
    written,
)

CUT = 2  # of 255: colour of 16 bits is cut, and what is laid on white is rounded
DIVIDED = 6  # multiplied by alpha in 8 bits, divided, and multiplied again


def decode(content: bytes, **limits: int) -> list[Segment]:
    return list(image.segments(content, ImageConfig(**limits)))


def error_from(layout: ATiff) -> float:
    (segment,) = decode(layout.content())
    assert segment.image is not None
    return float(np.abs(np.asarray(segment.image, float) - truth(layout)).max())


def test_every_layout_of_the_grid_has_its_own_pixels() -> None:
    layouts = list(grid())

    wrong = [
        layout
        for layout in layouts
        if error_from(layout) > (DIVIDED if layout.extra == (1,) else CUT)
    ]

    assert len(layouts) >= 640
    assert wrong == []


@given(
    layout=st.builds(
        ATiff,
        photometric=st.sampled_from([GREY, GREY_INVERTED, RGB, CMYK]),
        kind=st.sampled_from(["u1", "u2", "u4", "i1", "i2", "i4", "f2", "f4", "f8"]),
        extra=st.sampled_from([(), (0,), (1,), (2,), (0, 0), (2, 0)]),
        planar=st.booleans(),
        compression=st.sampled_from([NONE, LZW, DEFLATE, PACKBITS]),
        order=st.sampled_from("<>"),
        tiled=st.booleans(),
        predictor=st.sampled_from([1, 2]),
        big=st.booleans(),
    )
)
def test_a_layout_is_decoded_or_refused_with_its_name(layout: ATiff) -> None:
    if layout.compression in {NONE, PACKBITS}:
        layout = replace(layout, predictor=1)
    elif layout.kind[0] == "f" and layout.predictor == 2:
        layout = replace(layout, predictor=3)
    found = next(iter(tiff.directories(layout.content(), 1)))
    assert not isinstance(found, SegmentError)
    if found.layout.reader is not None:
        (segment,) = decode(layout.content())
        assert segment.image is not None
        assert segment.image.size == (WIDTH, HEIGHT)
        return
    words = ("photometric", "samples of", "extra samples", "compression")
    with pytest.raises(UnsupportedMedia, match=".*".join(words)):
        decode(layout.content())


@pytest.mark.parametrize("kind", ["f2", "f4", "f8"])
@pytest.mark.parametrize("planar", [False, True])
@pytest.mark.parametrize("tiled", [False, True])
@pytest.mark.parametrize("order", ["<", ">"])
def test_floats_between_0_and_1_keep_their_tones(
    kind: str, planar: bool, tiled: bool, order: Literal["<", ">"]
) -> None:
    for compression, predictor in ((NONE, 1), (DEFLATE, 3), (LZW, 3)):
        for photometric in (GREY, GREY_INVERTED, RGB):
            layout = ATiff(
                photometric=photometric,
                kind=kind,
                planar=planar,
                tiled=tiled,
                order=order,
                compression=compression,
                predictor=predictor,
            )
            assert error_from(layout) <= CUT


@pytest.mark.parametrize("photometric", [GREY, GREY_INVERTED, RGB, CMYK])
@pytest.mark.parametrize("planar", [False, True])
def test_whole_numbers_of_32_bits_keep_their_tones(photometric: int, planar: bool) -> None:
    written_as: list[tuple[Literal["<", ">"], int]] = [("<", NONE), (">", NONE), ("<", DEFLATE)]
    for order, compression in [*written_as, (">", LZW)]:
        layout = ATiff(
            photometric=photometric,
            kind="u4",
            planar=planar,
            order=order,
            compression=compression,
            predictor=1 if compression == NONE else 2,
        )
        assert error_from(layout) <= CUT


@pytest.mark.parametrize("big", [False, True])
def test_pages_of_other_layouts_stand_beside_each_other(big: bool) -> None:
    odd = [entry for entry in ATiff(photometric=GREY).page() if entry[0] != 262]
    pages = [
        ATiff(photometric=GREY_INVERTED, kind="u2").page(),
        [*odd, (262, "H", [34892])],
        ATiff(planar=True, compression=LZW).page(),
        ATiff().page(),
    ]

    segments = decode(written(pages, big=big))

    assert [(segment.index, segment.count, segment.page_number) for segment in segments] == [
        (n, 4, n + 1) for n in range(4)
    ]
    assert [type(segment.error) for segment in segments] == [
        type(None),
        UnsupportedMedia,
        type(None),
        type(None),
    ]
    for segment in segments[2:]:
        assert segment.image is not None
        assert np.abs(np.asarray(segment.image, float) - truth(ATiff())).max() <= CUT


def test_one_sample_called_planar_is_no_negative() -> None:
    inverted = ATiff(photometric=GREY_INVERTED, planar=True)

    assert error_from(inverted) == 0


def test_a_profile_and_an_orientation_hold_for_every_layout() -> None:
    page = [*ATiff(kind="u2", planar=True).page(), (274, "H", [6])]

    (segment,) = decode(written([page]))

    assert segment.image is not None
    assert segment.image.size == (HEIGHT, WIDTH)
    turned = np.rot90(truth(ATiff()), -1)
    assert np.abs(np.asarray(segment.image, float) - turned).max() <= CUT


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ((262, "H", [9]), "photometric 9 .ICCLAB."),
        ((258, "H", [4, 4, 4]), "samples of 4,4,4 bits"),
        ((259, "H", [34887]), "compression 34887 .LERC."),
        ((259, "H", [50002]), "compression 50002 .JPEG XL."),
        ((339, "H", [5, 5, 5]), "complex"),
    ],
)
def test_what_is_valid_and_not_read_is_unsupported(changed: tuple, says: str) -> None:
    page = [entry for entry in ATiff().page() if entry[0] != changed[0]]

    with pytest.raises(UnsupportedMedia, match=says):
        decode(written([[*page, changed]]))


def test_a_raw_photo_is_not_its_thumbnail() -> None:
    thumbnail = [*ATiff().page(), (254, "I", [1])]
    negative = [*thumbnail, (50706, "B", [1, 4, 0, 0])]

    with pytest.raises(UnsupportedMedia, match="camera raw"):
        decode(written([negative]))
    assert decode(written([thumbnail]))[0].image is not None


def test_a_sensor_in_a_directory_below_makes_it_raw() -> None:
    sensor = written([[(256, "I", [8]), (257, "I", [8]), (262, "H", [32803])]])
    (its_directory,) = struct.unpack("<I", sensor[4:8])
    size = len(written([[*ATiff().page(), (330, "I", [0])]]))
    preview = written([[*ATiff().page(), (330, "I", [size + its_directory])]])

    with pytest.raises(UnsupportedMedia, match="camera raw"):
        decode(preview + sensor)


@pytest.mark.parametrize("tiled", [True, False])
def test_a_tile_larger_than_the_picture_is_counted_before_it_is_allocated(tiled: bool) -> None:
    page = [entry for entry in ATiff(tiled=tiled).page() if entry[0] not in {278, 322, 323}]
    size = [(322, "I", [32768]), (323, "I", [60000])] if tiled else [(278, "I", [2**31])]
    tracemalloc.start()

    try:
        with pytest.raises(LimitExceeded, match=r"images\.max_memory_bytes"):
            decode(written([[*page, *size]]), max_memory_bytes=4000)
        assert tracemalloc.get_traced_memory()[1] < 50_000_000
    finally:
        tracemalloc.stop()


def test_directories_of_any_kind_are_counted() -> None:
    thumbnail = [*ATiff(photometric=GREY).page(), (254, "I", [1])]
    content = written([ATiff().page(), *[thumbnail] * 9])

    assert len(decode(content, max_frames=10)) == 1
    with pytest.raises(LimitExceeded, match=r"images\.max_frames: more than 9 pages"):
        decode(content, max_frames=9)


def test_many_strips_are_counted_in_memory() -> None:
    content = written([[entry for entry in ATiff().page() if entry[0] != 273]])
    layout = next(iter(tiff.directories(content, 1)))
    assert not isinstance(layout, SegmentError)
    many = replace(layout.layout, num_parts=10_000_000)

    assert many.needed_bytes > 1_000_000_000


def test_a_chain_that_breaks_off_keeps_its_first_pages() -> None:
    content = written([ATiff().page(), ATiff().page()])
    second = content.rindex(struct.pack("<HHI", 256, 4, 1)) - 2
    broken = content[:second] + b"\xff\xff" + content[second + 2 :]

    first, last = decode(broken)

    assert first.image is not None
    assert isinstance(last.error, DecodeError)


def test_a_tag_that_is_there_twice_is_broken() -> None:
    page = [*ATiff().page(), (256, "I", [WIDTH + 1])]

    with pytest.raises(DecodeError, match="twice"):
        decode(written([page]))


@given(st.data())
def test_damage_ends_as_segments_or_a_named_error(data: st.DataObject) -> None:
    content = bytearray(ATiff(kind="u2", planar=True, tiled=True, compression=LZW).content())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(content) - 1))
        content[at] = data.draw(st.integers(0, 255))
    try:
        segments = decode(bytes(content), max_memory_bytes=100_000_000)
    except SegmentError:
        return
    assert segments


def test_bilevel_and_palette_pages_are_read_in_both_senses() -> None:
    ramp = Image.fromarray(np.linspace(0, 255, 64 * 48).astype(np.uint8).reshape(48, 64))
    for compression in (None, "group4", "tiff_lzw", "packbits"):
        for photometric in (0, 1):
            two = ramp.convert("1")
            content = saved(two, "TIFF", compression=compression, tiffinfo={262: photometric})
            (segment,) = decode(content)
            assert segment.image is not None
            assert segment.image.tobytes() == two.convert("RGB").tobytes()
    palette = an_image().quantize(4)
    (segment,) = decode(saved(palette, "TIFF"))
    assert segment.image is not None
    assert segment.image.tobytes() == palette.convert("RGB").tobytes()
