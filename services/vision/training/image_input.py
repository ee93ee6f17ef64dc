"""How the service brings a picture to the size of a default bundle's network."""

from typing import Literal

from services.kit.inference.manifest import ImagePreprocessing


def preprocessing(size: int, channels: Literal["grey", "rgb"]) -> ImagePreprocessing:
    """The whole picture scaled to fit into `size` x `size`, the rest filled with the colour of its own border."""
    return ImagePreprocessing(
        input="image",
        width=size,
        height=size,
        channels=channels,
        layout="NHWC",
        datatype="UINT8",
        resize="bilinear",
        fit="contain",
        pad=-1,
    )
