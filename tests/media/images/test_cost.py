"""Which images are decoded in this process, and that the others can be ended."""

import struct
import zlib

import pytest

from phicorpus.config import DecodeConfig, ImageConfig
from phicorpus.errors import LimitExceeded, SandboxTimeout
from phicorpus.media import sniff
from phicorpus.media.images import cost
from phicorpus.media.segment import Segment
from tests.media.builders import an_image, outcomes, saved
from tests.media.images.tiffs import ATiff, written


def is_bounded(content: bytes) -> bool:
    return cost.is_bounded(content, str(sniff.sniff(content)))


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "WEBP", "TIFF", "BMP", "PPM"])
def test_usual_images_are_decoded_in_this_process(kind: str) -> None:
    frames = [an_image(mode="L", color=n) for n in range(50)]
    animated = {"save_all": True, "append_images": frames} if kind in {"GIF", "TIFF"} else {}

    assert is_bounded(saved(an_image(), kind, **animated))
    assert is_bounded(saved(an_image(size=(3000, 2000)), kind))


def test_streams_that_may_hold_other_pictures_than_they_announce_are_not() -> None:
    assert not is_bounded(saved(an_image(), "AVIF"))
    assert not is_bounded(saved(an_image(), "JPEG2000"))


def test_very_many_small_parts_are_not() -> None:
    png = saved(an_image())
    chunk = struct.pack(">I", 0) + b"tEXt" + struct.pack(">I", zlib.crc32(b"tEXt"))
    gif = saved(an_image(), "GIF")
    comment = b"\x21\xfe" + b"\x01a" * 60_000 + b"\x00"
    table = 13 + 3 * 2 ** ((gif[10] & 7) + 1)
    strips = [entry for entry in ATiff().page() if entry[0] != 273]

    assert not is_bounded(png[:33] + chunk * 60_000 + png[33:])
    assert not is_bounded(gif[:table] + comment + gif[table:])
    jpeg = saved(an_image(), "JPEG")
    assert not is_bounded(jpeg[:2] + b"\xff\xfe\x00\x02" * 60_000 + jpeg[2:])
    assert not is_bounded(written([[*strips, (273, "I", [8] * 60_000)]]))
    assert not is_bounded(b"P3 9 9 255 " + b"1 " * 200_000)


def config(**limits: float) -> DecodeConfig:
    return DecodeConfig(images=ImageConfig(**limits))  # type: ignore[arg-type]


def test_an_image_that_takes_too_long_is_ended_and_its_neighbours_are_decoded() -> None:
    slow = saved(an_image(size=(300, 200)), "JPEG2000")

    found = outcomes(slow, saved(an_image()), slow, config=config(timeout_s=0.001))

    assert [type(first) for (first,) in found] == [SandboxTimeout, Segment, SandboxTimeout]
    assert "images.timeout_s: no result within 0.001 s" in str(found[0][0])


def test_an_image_decoded_in_the_sandbox_has_the_same_limits_and_pixels() -> None:
    content = saved(an_image(color=(200, 30, 30)), "AVIF")

    ((refused,),) = outcomes(content, config=config(max_pixels=100))
    ((segment,),) = outcomes(content)

    assert isinstance(refused, LimitExceeded)
    assert "images.max_pixels" in str(refused)
    assert isinstance(segment, Segment)
    assert segment.image is not None
    assert (segment.image.mode, segment.image.size) == ("RGB", (64, 48))
