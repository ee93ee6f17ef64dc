"""Client: typed calls to a Trivium gateway, or to one service directly."""

import itertools
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType

from grpc_health.v1 import health_pb2

from trivium.client import results
from trivium.client.channel import Channel, Metadata
from trivium.client.errors import TriviumCallError
from trivium.client.results import Classification, Embedding, Model, Served
from trivium.models.v1 import models_pb2
from trivium.vision.v1 import vision_pb2

DEFAULT_ADDRESS = "localhost:8001"
VISION = "/trivium.vision.v1.VisionService"
MODELS = "/trivium.models.v1.ModelService"
HEALTH = "/grpc.health.v1.Health"
LOAD_TIMEOUT_S = 150.0  # the gateway gives each instance 120 s, and its answer is worth waiting for

# The bytes of a JPEG, PNG, WebP or BMP file, or the path of one.
Image = bytes | bytearray | memoryview | Path | str


class Client:
    """A connection to a server, and its methods as typed calls. Safe to share between threads.

    No call is repeated: the gateway retries what may be retried. Every call raises TriviumCallError where it does not
    succeed: its `code` and `reason` say why, its `unreachable` that no server answered.

    Args:
        address: "host:port"; the environment's TRIVIUM_ADDRESS if not given, else localhost:8001.
        timeout_s: seconds that a call may take in all, unless the call says otherwise. It bounds neither streams nor
            `load` and `unload`, which have 150 s.
        max_message_bytes: largest message to send and to receive.
        metadata: sent with every call; keys in lower case.

    Raises:
        ValueError: the address is a URL and not "host:port".
    """

    def __init__(
        self,
        address: str | None = None,
        *,
        timeout_s: float = 10.0,
        max_message_bytes: int = 64 * 1024 * 1024,
        metadata: Metadata = (),
    ) -> None:
        self.address = address or os.environ.get("TRIVIUM_ADDRESS") or DEFAULT_ADDRESS
        if "://" in self.address:
            raise ValueError(f"the address is host:port, such as {DEFAULT_ADDRESS}, not {self.address!r}")
        self.timeout_s = timeout_s
        self._channel = Channel(self.address, max_message_bytes, metadata)

    def __enter__(self) -> "Client":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends the connection and the calls on it."""
        self._channel.close()

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
        return results.classification(message, Served.of(trailers))

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
        source = _Requests(images, model, top_k)
        for message in self._channel.stream(
            f"{VISION}/ClassifyStream", source, vision_pb2.ClassifyStreamResponse, timeout_s
        ):
            if message.HasField("error"):
                yield message.id, TriviumCallError(message.error)
            else:
                yield message.id, results.classification(message.result, Served())
        if source.error is not None:
            raise source.error

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
        return results.embedding(message, Served.of(trailers))

    def models(self, model: str = "", *, timeout_s: float | None = None) -> list[Model]:
        """Every version of every model, sorted by name and version; without cards.

        Args:
            model: only the versions of the bundle of this name; empty for all bundles.
            timeout_s: seconds for this call; the client's if not given.

        Returns:
            One Model a version, however many instances serve it; none where no bundle has that name.

        Raises:
            TriviumCallError: UNAVAILABLE where no server answers.
        """
        request = models_pb2.ListModelsRequest(model=model)
        message, _ = self._channel.unary(
            f"{MODELS}/ListModels", request, models_pb2.ListModelsResponse, self._limit(timeout_s)
        )
        return [Model.of(info) for info in message.models]

    def model(self, name: str = "", *, timeout_s: float | None = None) -> Model:
        """One version of a model, with its card.

        Args:
            name: "name" (its highest ready version), "name:version" or "name@label"; empty for the default model.
            timeout_s: seconds for this call; the client's if not given.

        Raises:
            TriviumCallError: NOT_FOUND (MODEL_NOT_FOUND) or, for a malformed name, INVALID_ARGUMENT (INVALID_FIELD).
        """
        request = models_pb2.GetModelRequest(model=name)
        message, _ = self._channel.unary(
            f"{MODELS}/GetModel", request, models_pb2.GetModelResponse, self._limit(timeout_s)
        )
        return Model.of(message.model)

    def load(self, name: str, *, timeout_s: float = LOAD_TIMEOUT_S) -> list[Model]:
        """Loads every version of a bundle on every instance of its service, and warms it up.

        Args:
            name: the name of a bundle in the service's folders, without a version.
            timeout_s: seconds for all of it. The client's own limit, meant for quick calls, does not hold here.

        Returns:
            The versions that are ready now.

        Raises:
            TriviumCallError: NOT_FOUND (MODEL_NOT_FOUND); FAILED_PRECONDITION (LOAD_INCOMPLETE), which names the
                instances that could not load it.
        """
        request = models_pb2.LoadModelRequest(model=name)
        message, _ = self._channel.unary(f"{MODELS}/LoadModel", request, models_pb2.LoadModelResponse, timeout_s)
        return [Model.of(info) for info in message.models]

    def unload(self, name: str, *, timeout_s: float = LOAD_TIMEOUT_S) -> None:
        """Takes every version of a bundle out of service on every instance, after the calls that it has accepted.

        Args:
            name: the name of the bundle, without a version.
            timeout_s: seconds for all of it, as for `load`.

        Raises:
            TriviumCallError: as `load`.
        """
        request = models_pb2.UnloadModelRequest(model=name)
        self._channel.unary(f"{MODELS}/UnloadModel", request, models_pb2.UnloadModelResponse, timeout_s)

    def health(self, name: str = "", *, timeout_s: float | None = None) -> bool:
        """Whether `name` is SERVING.

        Args:
            name: empty for the whole server, "model/NAME", "model/NAME/VERSION", "readiness", "liveness", "startup" or
                the full name of a gRPC service.
            timeout_s: seconds for this call; the client's if not given.

        Returns:
            False also for a server that is starting or leaving.

        Raises:
            TriviumCallError: NOT_FOUND where the server knows no such name, UNAVAILABLE where no server answers.
        """
        request = health_pb2.HealthCheckRequest(service=name)
        message, _ = self._channel.unary(
            f"{HEALTH}/Check", request, health_pb2.HealthCheckResponse, self._limit(timeout_s)
        )
        return bool(message.status == health_pb2.HealthCheckResponse.SERVING)

    def _limit(self, timeout_s: float | None) -> float:
        return self.timeout_s if timeout_s is None else timeout_s


class _Requests(Iterator[vision_pb2.ClassifyStreamRequest]):
    """The requests of one stream. An image that cannot be read ends them; `error` then says why.

    gRPC iterates in a thread of its own, where an exception would be lost.
    """

    def __init__(self, images: Iterable[Image | tuple[str, Image]], model: str, top_k: int | None) -> None:
        self.error: Exception | None = None
        self._images, self._numbers = iter(images), itertools.count()
        self._model, self._top_k = model, top_k

    def __next__(self) -> vision_pb2.ClassifyStreamRequest:
        try:
            return self._request(next(self._images), next(self._numbers))
        except StopIteration:
            raise
        except Exception as error:
            self.error = error
            raise StopIteration from None

    def _request(self, item: Image | tuple[str, Image], number: int) -> vision_pb2.ClassifyStreamRequest:
        name, image = item if isinstance(item, tuple) else (_name(item, number), item)
        return vision_pb2.ClassifyStreamRequest(
            model="" if number else self._model, id=name, image=read(image), top_k=self._top_k
        )


def read(image: Image) -> bytes:
    """The bytes of an image file that is given as bytes or as a path.

    Raises:
        OSError: the file cannot be read.
    """
    return Path(image).read_bytes() if isinstance(image, str | Path) else bytes(memoryview(image))


def _name(image: Image, number: int) -> str:
    return str(image) if isinstance(image, str | Path) else str(number)
