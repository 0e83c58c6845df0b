import pickle

import numpy as np
import pytest
from PIL import Image

from phicorpus.errors import CheckpointError, RequestRefused
from phicorpus.models.phi4_multimodal.image import ImagePreparation


def an_image(width: int, height: int, mode: str = "RGB", seed: int = 0) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    return Image.fromarray(pixels).convert(mode)


@pytest.mark.parametrize(
    ("size", "max_crops", "num_rows"),
    # Sizes of common images and pages, and the tokens that the original's processor counts.
    [
        ((448, 448), 36, 545),
        ((640, 480), 36, 1065),
        ((1024, 768), 36, 1681),
        ((1920, 1080), 36, 3918),
        ((1920, 1080), 12, 2129),
        ((1240, 1754), 36, 3281),
        ((1654, 2339), 36, 6188),
        ((2480, 3508), 36, 9345),
        ((2480, 3508), 16, 1791),
        ((9000, 600), 36, 4129),
        ((60, 50), 36, 511),
    ],
)
def test_an_image_costs_what_the_original_counts(
    size: tuple[int, int], max_crops: int, num_rows: int
) -> None:
    assert ImagePreparation(max_crops=max_crops).num_rows_of_size(*size) == num_rows


@pytest.mark.parametrize("crop_size_px", [224, 448])
def test_a_canvas_costs_what_its_image_was_counted_for(crop_size_px: int) -> None:
    preparation = ImagePreparation(crop_size_px=crop_size_px, max_crops=6)
    for size in ((30, 30), (500, 100), (100, 900), (448, 448), (1500, 1400)):
        assert preparation.num_rows(preparation.canvas(an_image(*size))) == (
            preparation.num_rows_of_size(*size)
        )


def test_a_canvas_is_padded_white_on_the_right_and_below() -> None:
    canvas = ImagePreparation().canvas(Image.new("RGB", (500, 300), "black"))

    assert canvas.pixels.shape == (448, 896, 3)
    assert canvas.pixels.dtype == np.uint8
    assert (canvas.valid_width_px, canvas.valid_height_px) == (746, 448)
    assert canvas.pixels[:, :746].max() == 0
    assert canvas.pixels[:, 746:].min() == 255


def test_keys_are_equal_for_equal_content_only() -> None:
    preparation = ImagePreparation(crop_size_px=224)

    key = preparation.canvas(an_image(100, 80)).key

    assert key == preparation.canvas(an_image(100, 80)).key
    assert key != preparation.canvas(an_image(100, 80, seed=1)).key
    assert key != preparation.canvas(an_image(80, 100)).key


@pytest.mark.parametrize("mode", ["L", "P", "CMYK", "1", "RGBA", "LA"])
def test_any_mode_becomes_rgb(mode: str) -> None:
    assert ImagePreparation(224).canvas(an_image(40, 40, mode)).pixels.shape == (224, 224, 3)


def test_a_line_of_an_image_is_refused() -> None:
    with pytest.raises(RequestRefused, match="too elongated"):
        ImagePreparation(max_crops=1).canvas(an_image(900, 14))


def test_a_canvas_of_another_model_is_refused() -> None:
    canvas = ImagePreparation(crop_size_px=224).canvas(an_image(100, 100))

    with pytest.raises(RequestRefused, match="448 px crops"):
        ImagePreparation().num_rows(canvas)


def test_a_preparation_travels() -> None:
    preparation = ImagePreparation(224, 14, 9)

    assert pickle.loads(pickle.dumps(preparation)) == preparation  # noqa: S301 - our own bytes


def test_a_preparation_that_cannot_be_is_named() -> None:
    with pytest.raises(CheckpointError, match="not an even number"):
        ImagePreparation.from_json({"embd_layer": {"image_embd_layer": {"crop_size": 336 + 7}}}, {})
