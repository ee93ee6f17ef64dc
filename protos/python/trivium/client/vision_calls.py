"""VisionCalls: calls that ask about images."""

from collections.abc import Iterable, Iterator
from pathlib import Path

from trivium.client import results
from trivium.client.calls import Calls
from trivium.client.errors import TriviumCallError
from trivium.client.results import Classification, Embedding, Served
from trivium.vision.v1 import vision_pb2

VISION = "/trivium.vision.v1.VisionService"

# The bytes of a JPEG, PNG, WebP or BMP file, or the path of one.
Image = bytes | bytearray | memoryview | Path | str


class VisionCalls(Calls):
    """The image service's methods."""

    def classify(
        self, image: Image, model: str = "", top_k: int | None = None, *, timeout_s: float | None = None
    ) -> Classification:
        """The most probable classes of one image, best first.

        Args:
            image: the bytes of a JPEG, PNG, WebP or BMP file, or its path.
            model: "name", "name:version" or "name@label"; empty is the service's default.
            top_k: how many classes, in [1, 100]; the service's choice (5) if not given.
            timeout_s: seconds for this call; the client's if not given.

        Returns:
            At most `top_k` classes with their probabilities, and who answered.

        Raises:
            TriviumCallError: INVALID_ARGUMENT (IMAGE_UNREADABLE, INPUT_TOO_LARGE, INVALID_FIELD), NOT_FOUND
                (MODEL_NOT_FOUND), UNIMPLEMENTED (UNSUPPORTED_BY_MODEL), RESOURCE_EXHAUSTED (QUEUE_FULL,
                DEADLINE_UNREACHABLE), DEADLINE_EXCEEDED or UNAVAILABLE.
            OSError: the file cannot be read.
        """
        request = vision_pb2.ClassifyRequest(model=model, image=read(image), top_k=top_k)
        message, trailers = self._channel.unary(
            f"{VISION}/Classify", request, vision_pb2.ClassifyResponse, self._limit(timeout_s)
        )
        return results.classification(message.classes, Served.of(trailers))

    def classify_many(
        self,
        images: Iterable[Image | tuple[str, Image]],
        model: str = "",
        top_k: int | None = None,
        *,
        timeout_s: float | None = None,
    ) -> Iterator[tuple[str, Classification | TriviumCallError]]:
        """The answers to many images on one call, each as soon as it is there, in any order.

        Args:
            images: images as `classify` takes them, or pairs of id and image. Without an id, a path's id is its text
                and that of bytes is their place, "0", "1", ... They are read while answers come back.
            timeout_s: seconds for the whole stream; no limit if not given.

        Yields:
            The image's id and its classes, or the error that this image alone met.

        Raises:
            TriviumCallError: the call as a whole failed; images without an answer have none.
            OSError: a file cannot be read; images before it have been answered.
        """
        for message in self._channel.stream(
            f"{VISION}/ClassifyStream", _requests(images, model, top_k), vision_pb2.ClassifyStreamResponse, timeout_s
        ):
            if message.HasField("error"):
                yield message.id, TriviumCallError(message.error)
            else:
                yield message.id, results.classification(message.result.classes, Served())

    def embed(self, image: Image, model: str = "", *, timeout_s: float | None = None) -> Embedding:
        """The vector that the network computes of one image before its last layer.

        Args:
            image, model, timeout_s: as for `classify`.

        Returns:
            As many numbers as the bundle's embedding output has, and who answered.

        Raises:
            TriviumCallError: as `classify`; UNIMPLEMENTED (UNSUPPORTED_BY_MODEL) where the bundle has no embedding.
            OSError: the file cannot be read.
        """
        request = vision_pb2.EmbedRequest(model=model, image=read(image))
        message, trailers = self._channel.unary(
            f"{VISION}/Embed", request, vision_pb2.EmbedResponse, self._limit(timeout_s)
        )
        return results.embedding(message.values, Served.of(trailers))


def _requests(
    images: Iterable[Image | tuple[str, Image]], model: str, top_k: int | None
) -> Iterator[vision_pb2.ClassifyStreamRequest]:
    for number, item in enumerate(images):
        name, image = item if isinstance(item, tuple) else (_name(item, number), item)
        yield vision_pb2.ClassifyStreamRequest(model="" if number else model, id=name, image=read(image), top_k=top_k)


def read(image: Image) -> bytes:
    """The bytes of an image file that is given as bytes or as a path.

    Raises:
        OSError: the file cannot be read.
    """
    return Path(image).read_bytes() if isinstance(image, str | Path) else bytes(memoryview(image))


def _name(image: Image, number: int) -> str:
    return str(image) if isinstance(image, str | Path) else str(number)
