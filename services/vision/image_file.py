"""Image files to Pillow images, and no further: the bytes come from anybody, so everything is bounded and may fail."""

import io
import re
import warnings

import numpy as np
from PIL import Image, UnidentifiedImageError, WebPImagePlugin

from services.kit.errors import ImageUnreadable, InputTooLarge

# Pillow looks at these plugins and at no other; WebP's, which Pillow would load late, is imported above.
FORMATS = ("JPEG", "PNG", WebPImagePlugin.WebPImageFile.format, "BMP")

# A progressive JPEG may hold any number of scans, each of which costs a pass over the whole image; encoders write ten.
MAX_SCANS = 100
START_OF_SCAN = b"\xff\xda"

# Pillow reads a file part by part, a few reads each, and a file may have millions of parts. 16 MiB of PNG in chunks of
# 8 KiB take about 6000 reads.
MAX_READS = 30_000

ORIENTATION_TAG = 0x0112
# EXIF orientation -> what turns the stored pixels upright; 1, and any number that means nothing, is upright already.
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class _BoundedFile(io.BytesIO):
    """A file in memory that ends the decoding of one with too many parts."""

    reads = 0

    def read(self, size: int | None = -1, /) -> bytes:
        self.reads += 1
        if self.reads > MAX_READS:
            raise ImageUnreadable("the image consists of too many parts", field="image", limit=str(MAX_READS))
        return super().read(size)


def configure_pillow(max_pixels: int) -> None:
    """Sets what Pillow keeps for the whole process.

    Its own limit, which refuses what has more than twice the number it is given, holds before WebP allocates a canvas;
    `read` is exact. What Pillow warns of (odd metadata, images that are big and within the limit) concerns nobody here.
    """
    Image.MAX_IMAGE_PIXELS = (max_pixels + 1) // 2
    warnings.filterwarnings("ignore", module=r"PIL\b")


def read(data: bytes, mode: str, max_pixels: int, enough: int) -> Image.Image:
    """The upright picture; of an animation the first frame. Transparent parts show white, 16 bits become 8.

    Args:
        data: a JPEG, PNG, WebP or BMP file.
        mode: "L" for grey or "RGB".
        max_pixels: width times height, compared before any pixel is decoded.
        enough: pixels; a JPEG with both sides several times as long is decoded at 1/2, 1/4 or 1/8 of its size.

    Raises:
        ImageUnreadable: the bytes are no such file, or a damaged one.
        InputTooLarge: more than `max_pixels`.
    """
    try:
        with Image.open(_BoundedFile(data), formats=FORMATS) as image:
            _check_size(image, max_pixels)
            if image.format == "JPEG":
                _check_scans(data)
                image.draft(mode, (enough, enough))
            image.load()
            return _upright(image, _flat(image, mode))
    except (InputTooLarge, ImageUnreadable):
        raise
    except Image.DecompressionBombError as error:
        raise _too_many(_first_number(str(error)), max_pixels) from error  # "Image size (48000000 pixels) exceeds ..."
    except UnidentifiedImageError as error:
        raise ImageUnreadable(
            f"the {len(data)} bytes are no JPEG, PNG, WebP or BMP file", field="image", bytes=str(len(data))
        ) from error
    except Exception as error:  # whatever damaged bytes make Pillow stumble over, and that is many classes
        text = str(error) or type(error).__name__
        raise ImageUnreadable(f"the image is damaged: {text}", field="image", bytes=str(len(data))) from error


def _check_size(image: Image.Image, max_pixels: int) -> None:
    pixels = image.width * image.height
    if pixels == 0:
        raise ImageUnreadable(f"the image has {image.width}x{image.height} pixels", field="image", value="0")
    if pixels > max_pixels:
        raise _too_many(str(pixels), max_pixels)


def _too_many(pixels: str, max_pixels: int) -> InputTooLarge:
    return InputTooLarge(
        f"the image has {pixels} pixels and the limit is {max_pixels}",
        field="image",
        limit=str(max_pixels),
        value=pixels,
    )


def _first_number(text: str) -> str:
    found = re.search(r"\d+", text)
    return found[0] if found else "too many"


def _check_scans(data: bytes) -> None:
    scans = data.count(START_OF_SCAN)  # within coded pixels 0xff is always followed by 0 or a restart marker
    if scans > MAX_SCANS:
        raise ImageUnreadable(
            f"the image has {scans} scans and the limit is {MAX_SCANS}",
            field="image",
            limit=str(MAX_SCANS),
            value=str(scans),
        )


def _flat(image: Image.Image, mode: str) -> Image.Image:
    """The loaded image in `mode`, laid on white where it is transparent."""
    if image.mode.startswith("I"):
        image = _eight_bits(image)
    if image.has_transparency_data:
        image = image if image.mode == "RGBA" else image.convert("RGBA")
        canvas = Image.new("RGB", image.size, "white")
        canvas.paste(image, mask=image)
        image = canvas
    return image if image.mode == mode else image.convert(mode)


def _eight_bits(image: Image.Image) -> Image.Image:
    """16-bit grey scaled to 8 bits; Pillow's own conversion would cut everything above 255 off."""
    values = np.clip(np.asarray(image), 0, 65535).astype(np.uint32)
    scaled = ((values * 255 + 32767) // 65535).astype(np.uint8)
    if (transparent := image.info.get("transparency")) is not None:
        scaled[values == transparent] = 255
    return Image.fromarray(scaled)


def _upright(image: Image.Image, pixels: Image.Image) -> Image.Image:
    """`pixels`, turned as the EXIF data of `image` want it; damaged EXIF data want nothing."""
    try:
        turn = UPRIGHT.get(image.getexif().get(ORIENTATION_TAG, 1))
    except Exception:  # as above
        turn = None
    return pixels if turn is None else pixels.transpose(turn)
