"""A picture of any size becomes exactly the model's size, by the fit that the manifest asks for."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from services.kit.inference.manifest import ImagePreprocessing
from services.vision.fitting import contained_size, cover_box, fit, mode
from tests.unit.vision.images import gradient


def steps(**changes: object) -> ImagePreprocessing:
    defaults = {"input": "image", "width": 8, "height": 4, "channels": "rgb", "layout": "NHWC", "datatype": "UINT8"}
    return ImagePreprocessing(**{**defaults, **changes})  # type: ignore[arg-type]


def stripes() -> Image.Image:
    """Grey, 12x4: four columns each of 0, 100 and 255."""
    return Image.fromarray(np.repeat(np.array([[0, 100, 255]], np.uint8), 4, 0).repeat(4, 1))


@pytest.mark.parametrize("fit_", ["stretch", "contain", "cover"])
@pytest.mark.parametrize("size", [(8, 4), (1, 1), (1, 999), (999, 1), (3, 5), (64, 32)])
@pytest.mark.parametrize(("channels", "depth"), [("grey", 1), ("rgb", 3)])
def test_every_picture_gets_the_models_size(fit_: str, size: tuple[int, int], channels: str, depth: int) -> None:
    wanted = steps(fit=fit_, channels=channels, pad=-1)
    pixels = fit(gradient(*size).convert(mode(wanted)), wanted)
    assert pixels.shape == (4, 8, depth)
    assert pixels.dtype == np.uint8


def test_a_picture_of_the_models_size_stays_as_it_is() -> None:
    for fit_ in ("stretch", "contain", "cover"):
        assert (fit(gradient(8, 4), steps(fit=fit_)) == np.asarray(gradient(8, 4))).all()


@pytest.mark.parametrize("name", ["nearest", "box", "bilinear", "hamming", "bicubic", "lanczos"])
def test_stretch_is_pillows_resize_with_the_filter_of_the_manifest(name: str) -> None:
    image = gradient(37, 23)
    expected = np.asarray(image.resize((8, 4), Image.Resampling[name.upper()]))
    assert (fit(image, steps(resize=name)) == expected).all()


def test_contain_keeps_the_aspect_ratio_and_pads_both_sides() -> None:
    pixels = fit(stripes(), steps(width=12, height=12, fit="contain", pad=77, channels="grey"))[..., 0]
    assert (pixels[:4] == 77).all()
    assert (pixels[4:8] == np.asarray(stripes())).all()
    assert (pixels[8:] == 77).all()


def test_a_pad_of_minus_one_is_the_median_of_the_outermost_pixels_of_each_channel() -> None:
    image = Image.new("RGB", (9, 3), (10, 20, 30))
    image.paste((255, 255, 255), (2, 1, 7, 2))
    image.putpixel((0, 0), (255, 0, 255))
    pixels = fit(image, steps(width=9, height=9, fit="contain", pad=-1))
    assert pixels[0, 0].tolist() == [10, 20, 30]
    assert pixels[8, 8].tolist() == [10, 20, 30]


def test_cover_keeps_the_middle() -> None:
    pixels = fit(stripes(), steps(width=4, height=4, fit="cover", channels="grey", resize="nearest"))[..., 0]
    assert (pixels == 100).all()


sizes = st.tuples(st.integers(1, 5000), st.integers(1, 5000))


@given(sizes, sizes)
def test_a_covered_box_touches_two_sides_of_the_picture(source: tuple[int, int], target: tuple[int, int]) -> None:
    left, top, right, bottom = cover_box(source, target)
    assert 0 <= left < right <= source[0]
    assert 0 <= top < bottom <= source[1]
    assert right - left == pytest.approx(source[0]) or bottom - top == pytest.approx(source[1])
    assert (right - left) * target[1] == pytest.approx((bottom - top) * target[0])


@given(sizes, sizes)
def test_a_contained_size_touches_two_sides_of_the_target(source: tuple[int, int], target: tuple[int, int]) -> None:
    width, height = contained_size(source, target)
    assert 1 <= width <= target[0]
    assert 1 <= height <= target[1]
    assert width == target[0] or height == target[1]
