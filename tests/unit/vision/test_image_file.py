"""Every mode and format ends as 8-bit grey or RGB; hostile bytes end as the caller's error and as nothing else."""

import contextlib
import itertools
import struct
import zlib
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin

from services.kit.errors import ImageUnreadable, InputTooLarge
from services.vision import image_file
from tests.unit.vision.images import FORMATS, exif, file_of, gradient, png

MAX_PIXELS = 1_000_000
WHITE, RED = (255, 255, 255), (200, 10, 10)
# Where the corner at the top left ends up when pixels stored with this orientation are shown upright, and the size.
TURNED = {
    1: (0, 0),
    2: (-1, 0),
    3: (-1, -1),
    4: (0, -1),
    5: (0, 0),
    6: (-1, 0),
    7: (-1, -1),
    8: (0, -1),
}


@pytest.fixture(autouse=True)
def _pillow() -> None:
    image_file.configure_pillow(MAX_PIXELS)


def read(data: bytes, mode: str = "RGB", max_pixels: int = MAX_PIXELS, enough: int = 1000) -> np.ndarray:
    image = image_file.read(data, mode, max_pixels, enough)
    assert image.mode == mode
    return np.asarray(image)


@pytest.mark.parametrize("format_", FORMATS)
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_each_format_is_read_in_the_mode_that_the_model_takes(format_: str, mode: str) -> None:
    lossy = {"quality": 95} if format_ in ("JPEG", "WEBP") else {}
    pixels = read(file_of(gradient(40, 30), format_, **lossy), mode)
    expected = np.asarray(gradient(40, 30).convert(mode))
    assert pixels.shape == expected.shape
    assert np.abs(pixels.astype(int) - expected).max() <= 24
    assert np.abs(pixels.astype(int) - expected).mean() <= 4


@pytest.mark.parametrize("format_", ["GIF", "TIFF", "PPM", "ICO", "TGA"])
def test_other_formats_are_refused(format_: str) -> None:
    with pytest.raises(ImageUnreadable, match="no JPEG, PNG, WebP or BMP file"):
        read(file_of(gradient(8, 8), format_))


@pytest.mark.parametrize(
    ("format_", "mode"),
    [*itertools.product(["PNG", "BMP"], ["1", "L", "P", "RGB", "RGBA"]), ("PNG", "LA")],
)
def test_each_mode_keeps_its_colours(format_: str, mode: str) -> None:
    image = Image.new("RGB", (6, 4), "white")
    image.paste((0, 0, 0), (0, 0, 3, 4))
    pixels = read(file_of(image.convert(mode), format_))
    assert (pixels[:, :3] == 0).all()
    assert (pixels[:, 3:] == 255).all()


@pytest.mark.parametrize("depth", [1, 2, 4, 8])
def test_grey_png_of_few_bits_uses_the_whole_range(depth: int) -> None:
    rows = bytes([0, 0xFF]) + bytes([0, 0x00])  # one white row and one black row, each of 8/depth pixels
    pixels = read(png(8 // depth, 2, depth, 0, rows), "L")
    assert (pixels[0] == 255).all()
    assert (pixels[1] == 0).all()


def test_sixteen_bit_grey_is_scaled_and_not_clipped() -> None:
    values = [0, 128, 255, 257, 32768, 65535]
    pixels = read(png(6, 1, 16, 0, b"\0" + struct.pack(">6H", *values)), "L")
    assert pixels[0].tolist() == [round(value * 255 / 65535) for value in values]


def test_the_transparent_value_of_sixteen_bit_grey_shows_white() -> None:
    rows = b"\0" + struct.pack(">3H", 0, 1000, 30000)
    pixels = read(png(3, 1, 16, 0, rows, {b"tRNS": struct.pack(">H", 1000)}), "L")
    assert pixels[0].tolist() == [0, 255, 117]


@pytest.mark.parametrize(
    ("colour", "values"), [(2, [0x8000] * 3), (4, [0x8000, 0xFFFF]), (6, [0x8000, 0x8000, 0x8000, 0xFFFF])]
)
def test_sixteen_bits_a_channel_keep_the_high_ones(colour: int, values: list[int]) -> None:
    pixels = read(png(1, 1, 16, colour, b"\0" + struct.pack(f">{len(values)}H", *values)))
    assert pixels[0, 0].tolist() == [0x80] * 3


@pytest.mark.parametrize("format_", ["PNG", "WEBP"])
def test_transparent_parts_show_white(format_: str) -> None:
    image = Image.new("RGBA", (3, 1), (*RED, 255))
    image.putpixel((1, 0), (*RED, 0))
    image.putpixel((2, 0), (0, 0, 0, 128))
    lossless = {"lossless": True, "exact": True} if format_ == "WEBP" else {}
    pixels = read(file_of(image, format_, **lossless))
    assert pixels[0, 0].tolist() == list(RED)
    assert pixels[0, 1].tolist() == list(WHITE)
    assert pixels[0, 2].tolist() == [127, 127, 127]


def test_a_dark_drawing_on_a_transparent_canvas_reads_as_dark_on_white() -> None:
    image = Image.new("LA", (5, 5), (0, 0))
    image.putpixel((2, 2), (0, 255))
    pixels = read(file_of(image), "L")
    assert pixels[2, 2] == 0
    assert pixels[0, 0] == 255


@pytest.mark.parametrize("transparency", [1, bytes([255, 0])])
def test_a_transparent_palette_entry_shows_white(transparency: int | bytes) -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([*RED, 0, 0, 255])
    image.putpixel((1, 0), 1)
    pixels = read(file_of(image, transparency=transparency))
    assert pixels[0].tolist() == [list(RED), list(WHITE)]


@pytest.mark.parametrize(("mode", "colour", "key"), [("L", 7, 7), ("RGB", RED, RED), ("1", 0, 0)])
def test_a_colour_key_shows_white(mode: str, colour: int, key: int) -> None:
    assert (read(file_of(Image.new(mode, (2, 2), colour), transparency=key)) == 255).all()


def test_cmyk_jpeg_is_read_as_photographs_are_printed() -> None:
    red = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    assert np.abs(read(file_of(red, "JPEG", quality=95)).astype(int) - (255, 0, 0)).max() < 12
    assert np.abs(read(file_of(red, "JPEG", quality=95), "L").astype(int) - 76).max() < 12


def test_ycck_jpeg_is_read() -> None:
    """Adobe's marker with transform 2 makes a decoder take the four channels for YCCK."""
    data = file_of(Image.new("CMYK", (16, 16), (128, 128, 128, 0)), "JPEG")
    at = data.index(b"Adobe") + 11
    assert read(data[:at] + b"\x02" + data[at + 1 :]).shape == (16, 16, 3)


@pytest.mark.parametrize("format_", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_turns_the_picture_upright(format_: str, orientation: int) -> None:
    image = Image.new("L", (32, 16), 0)
    image.paste(255, (0, 0, 8, 8))
    lossless = {"lossless": True} if format_ == "WEBP" else {}
    pixels = read(file_of(image.convert("RGB"), format_, exif=exif(orientation), **lossless), "L")
    assert pixels.shape == ((16, 32) if orientation < 5 else (32, 16))
    x, y = TURNED[orientation]
    assert pixels[y, x] > 240
    assert pixels[-1 - y, -1 - x] < 15


@pytest.mark.parametrize("orientation", [0, 9, 255, 65535])
def test_an_orientation_that_means_nothing_is_upright(orientation: int) -> None:
    assert read(file_of(gradient(32, 16), "JPEG", exif=exif(orientation))).shape == (16, 32, 3)


@pytest.mark.parametrize("format_", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize(
    "damaged",
    [
        b"Exif\0\0",
        b"Exif\0\0II*\0\xff\xff\xff\xff",
        b"Exif\0\0II*\0\x08\0\0\0\xff\xff" + b"\xff" * 40,
        exif(6, kind=2, count=4),
        exif(6, kind=5, count=2**31),
        exif(6, kind=12, count=1),
        exif(2**32 - 1, kind=4),
        exif(1)[:-9],
        b"Exif\0\0" + b"rubbish" * 1000,
    ],
)
def test_damaged_exif_data_do_not_spoil_a_readable_picture(format_: str, damaged: bytes) -> None:
    assert read(file_of(gradient(32, 16), format_, exif=damaged)).shape == (16, 32, 3)


@pytest.mark.parametrize("format_", ["PNG", "WEBP"])
def test_the_first_frame_of_an_animation_counts(format_: str) -> None:
    frames = [Image.new("RGB", (20, 20), colour) for colour in ("red", "lime", "blue")]
    data = file_of(frames[0], format_, save_all=True, append_images=frames[1:], duration=50)
    assert np.abs(read(data).astype(int) - (255, 0, 0)).max() < 12


def test_a_picture_with_several_jpegs_in_it_is_read_as_its_first() -> None:
    frames = [Image.new("RGB", (20, 20), colour) for colour in ("red", "blue")]
    data = file_of(frames[0], "MPO", save_all=True, append_images=frames[1:])
    assert np.abs(read(data).astype(int) - (255, 0, 0)).max() < 12


def test_a_big_jpeg_is_decoded_at_a_fraction_of_its_size() -> None:
    data = file_of(gradient(800, 640), "JPEG")
    assert read(data, enough=56).shape == (80, 100, 3)
    assert read(data, enough=300).shape == (320, 400, 3)
    assert read(data, enough=500).shape == (640, 800, 3)


@pytest.mark.parametrize("format_", FORMATS)
def test_the_limit_of_pixels_is_exact(format_: str) -> None:
    data = file_of(gradient(50, 20), format_)
    assert read(data, max_pixels=1000).shape == (20, 50, 3)
    with pytest.raises(InputTooLarge, match="1000 pixels and the limit is 999") as caught:
        read(data, max_pixels=999)
    assert caught.value.metadata == {"field": "image", "limit": "999", "value": "1000"}


def huge_bmp() -> bytes:
    data = bytearray(file_of(gradient(2, 2), "BMP"))
    data[18:26] = struct.pack("<ii", 10_000, 10_000)
    return bytes(data)


def huge_webp() -> bytes:
    frames = [gradient(16, 16), gradient(16, 16).transpose(Image.Transpose.ROTATE_180)]
    data = bytearray(file_of(frames[0], "WEBP", save_all=True, append_images=frames[1:]))
    at = data.index(b"VP8X") + 12
    data[at : at + 6] = (16_382).to_bytes(3, "little") * 2
    return bytes(data)


def huge_jpeg() -> bytes:
    data = bytearray(file_of(gradient(16, 16), "JPEG"))
    at = data.index(b"\xff\xc0") + 5
    data[at : at + 4] = struct.pack(">HH", 65_500, 65_500)
    return bytes(data)


def huge_png() -> bytes:
    return png(10_000, 10_000, 8, 2, b"")


def largest_png() -> bytes:
    return png(2**31 - 1, 2**31 - 1, 1, 0, b"")


@pytest.mark.parametrize("bomb", [huge_png, largest_png, huge_bmp, huge_jpeg, huge_webp])
def test_a_small_file_that_claims_many_pixels_is_refused_by_its_header(bomb: Callable[[], bytes]) -> None:
    data = bomb()
    assert len(data) < 2000
    with pytest.raises(InputTooLarge) as caught:
        read(data)
    assert int(caught.value.metadata["value"]) >= 10**8


@pytest.mark.parametrize(("width", "height"), [(0, 0), (0, 5), (5, 0)])
def test_an_image_without_pixels_is_refused(width: int, height: int) -> None:
    with pytest.raises(ImageUnreadable):
        read(png(width, height, 8, 2, b""))


def test_a_text_that_unpacks_to_megabytes_is_refused() -> None:
    text = b"comment\0\0" + zlib.compress(bytes(50_000_000), 9)
    assert len(text) < 100_000
    with pytest.raises(ImageUnreadable):
        read(png(1, 1, 8, 2, b"\0\1\2\3", {b"zTXt": text}))


def test_a_colour_profile_that_unpacks_to_megabytes_is_refused() -> None:
    profile = b"profile\0\0" + zlib.compress(bytes(50_000_000), 9)
    with pytest.raises(ImageUnreadable):
        read(png(1, 1, 8, 2, b"\0\1\2\3", {b"iCCP": profile}))


def test_pixels_that_unpack_to_more_than_the_header_says_are_cut_off() -> None:
    rows = b"\0\1\2\3" + bytes(20_000_000)
    assert read(png(1, 1, 8, 2, rows))[0, 0].tolist() == [1, 2, 3]


@pytest.mark.parametrize("part", [b"\xff\xe1\0\x0aExif\0\0ab", b"\xff\xec\0\2", b"\xff\xdb\0\2"])
def test_a_jpeg_of_endless_segments_is_refused(part: bytes) -> None:
    data = file_of(gradient(16, 16), "JPEG")
    assert read(data[:2] + part * 100 + data[2:]).shape == (16, 16, 3)
    with pytest.raises(ImageUnreadable, match="too many parts"):
        read(data[:2] + part * 1_000_000 + data[2:])


@pytest.mark.parametrize("where", [-12, 33])
def test_a_png_of_endless_chunks_is_refused(where: int) -> None:
    data = png(1, 1, 8, 2, b"\0\1\2\3")
    part = bytes(4) + b"prVt" + struct.pack(">I", zlib.crc32(b"prVt"))
    assert read(data[:where] + part * 100 + data[where:]).shape == (1, 1, 3)
    with pytest.raises(ImageUnreadable, match="too many parts"):
        read(data[:where] + part * 1_000_000 + data[where:])


def test_a_jpeg_of_endless_scans_is_refused() -> None:
    data = file_of(gradient(64, 64), "JPEG", progressive=True)
    last = data.rindex(image_file.START_OF_SCAN)
    scan = data[last:-2]
    assert read(data[:last] + scan * 10 + data[-2:]).shape == (64, 64, 3)
    with pytest.raises(ImageUnreadable, match="scans and the limit is 100"):
        read(data[:last] + scan * 1000 + data[-2:])


MAGIC = [b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"BM", b"RIFF\x80\0\0\0WEBPVP8X", b"RIFF\0\0\0\0WEBPVP8 "]


@pytest.mark.parametrize("data", [b"\0", b"no image", *MAGIC])
def test_bytes_that_are_no_image_are_refused(data: bytes) -> None:
    with pytest.raises(ImageUnreadable):
        read(data)


def variants() -> dict[str, bytes]:
    image = gradient(24, 18)
    info = PngImagePlugin.PngInfo()
    info.add_text("comment", "x" * 200, zip=True)
    return {
        "jpeg": file_of(image, "JPEG", exif=exif(6)),
        "progressive": file_of(image, "JPEG", progressive=True),
        "cmyk": file_of(image.convert("CMYK"), "JPEG"),
        "png": file_of(image, "PNG", pnginfo=info, exif=exif(3)),
        "palette": file_of(image.convert("P"), "PNG", transparency=3),
        "grey16": png(12, 3, 16, 0, (b"\0" + bytes(range(24))) * 3),
        "webp": file_of(image, "WEBP", exif=exif(8)),
        "lossless": file_of(image.convert("RGBA"), "WEBP", lossless=True),
        "bmp": file_of(image, "BMP"),
        "bmp1": file_of(image.convert("1"), "BMP"),
    }


VARIANTS = variants()


def survives(data: bytes) -> None:
    """Reads hostile bytes; anything but a picture or the caller's error fails the test."""
    with contextlib.suppress(ImageUnreadable, InputTooLarge):
        assert image_file.read(data, "RGB", MAX_PIXELS, 8).mode == "RGB"


@pytest.mark.parametrize("name", VARIANTS)
def test_a_file_cut_anywhere_is_a_picture_or_the_callers_error(name: str) -> None:
    data = VARIANTS[name]
    for end in range(0, len(data), 5):
        survives(data[:end])
    with pytest.raises(ImageUnreadable):
        read(data[: len(data) // 2])


@given(st.binary(max_size=200), st.sampled_from(MAGIC))
@settings(deadline=None, max_examples=300)
def test_random_bytes_are_a_picture_or_the_callers_error(data: bytes, magic: bytes) -> None:
    survives(magic + data)


@given(
    st.sampled_from(sorted(VARIANTS)),
    st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=12),
    st.binary(max_size=12),
)
@settings(deadline=None, max_examples=600)
def test_changed_bytes_are_a_picture_or_the_callers_error(
    name: str, changes: list[tuple[float, int]], inserted: bytes
) -> None:
    data = bytearray(VARIANTS[name])
    for place, value in changes:
        data[int(place * len(data))] = value
    at = int(changes[0][0] * len(data))
    survives(bytes(data[:at]) + inserted + bytes(data[at:]))
