"""ModelCalls: calls that ask about models and servers."""

from grpc_health.v1 import health_pb2

from trivium.client.calls import Calls
from trivium.client.results import Model
from trivium.models.v1 import models_pb2

MODELS = "/trivium.models.v1.ModelService"
HEALTH = "/grpc.health.v1.Health"
LOAD_TIMEOUT_S = 150.0  # the gateway gives each instance 120 s, and its answer is worth waiting for


class ModelCalls(Calls):
    """The model service's methods, and the server's health."""

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
