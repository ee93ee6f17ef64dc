"""Models: every bundle that a service serves, loaded, warm and findable by name."""

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Generic, TypeVar

import structlog
from prometheus_client import CollectorRegistry

from services.kit.errors import LoadIncomplete, ModelNotFound, SettingsError, StartupError
from services.kit.inference import bundle as bundles
from services.kit.inference.batcher import BatcherSettings
from services.kit.inference.bundle import Bundle, Manifest
from services.kit.inference.loading import Load, ModelsSettings
from services.kit.inference.model import Model
from services.kit.inference.statistics import BatcherMetrics
from services.kit.model_name import ModelName, bundle_name

__all__ = ["Model", "Models"]

P = TypeVar("P")


class Models(Generic[P]):
    """The loaded models of a service.

    `open` loads all bundles, `load` and `unload` change the set by name; `on_change` is called in the event loop after
    each change, also after an engine has failed and its model is out of service.
    """

    def __init__(
        self,
        settings: ModelsSettings,
        load: Load[P],
        registry: CollectorRegistry,
    ) -> None:
        self._settings, self._load_one = settings, load
        self._metrics = BatcherMetrics(registry)
        self._loaded: dict[tuple[str, int], Model[P]] = {}
        self._known: dict[tuple[str, int], Bundle] = {}
        self._labels: dict[str, dict[str, int]] = {}
        self._taken_out: set[str] = set()  # names, by `unload`
        self._lock = asyncio.Lock()
        self._log = structlog.get_logger()
        self.on_change: Callable[[], None] = lambda: None

    @classmethod
    @contextlib.asynccontextmanager
    async def open(
        cls,
        settings: ModelsSettings,
        load: Load[P],
        registry: CollectorRegistry,
    ) -> AsyncIterator["Models[P]"]:
        """All bundles of the service, loaded and warm; unloaded on the way out.

        Args:
            load: loads one bundle.

        Raises:
            StartupError: no bundle, a damaged one, two of the same name and version, or an unknown default.
        """
        models = cls(settings, load, registry)
        found = await asyncio.to_thread(bundles.discover, settings.folders, settings.service)
        if not found:
            raise StartupError(
                f"no bundle of service {settings.service} in {', '.join(map(str, settings.folders))}",
                hint="`make models` trains the default ones; BUNDLES_DIR names folders of your own",
            )
        models._remember(found, await asyncio.to_thread(_labels, found))
        try:
            for bundle in found:
                await models._load(bundle)
            models._check_default()
            yield models
        finally:
            await models._close(models.ready())

    def find(self, text: str, supports: Callable[[Manifest], bool] | None = None) -> Model[P]:
        """The ready model that the caller names; for an empty name the default, or else the first that `supports`.

        Raises:
            InvalidField: the text is no model name.
            ModelNotFound: no ready bundle is called so.
        """
        wanted = ModelName.parse(text)
        if not wanted.name:
            return self._default(supports)
        if wanted.label is None:
            return self.get(wanted.name, wanted.version)
        version = self._labels.get(wanted.name, {}).get(wanted.label)
        if version is None:
            raise ModelNotFound(f"Request for unknown model: '{text}' is not found", model=text)
        return self.get(wanted.name, version)

    def get(self, name: str, version: int | None) -> Model[P]:
        """The ready model of that version, or of the highest one for None.

        Raises:
            ModelNotFound: there is none.
        """
        versions = self.versions(name)
        model = self._loaded.get((name, version or max(versions, default=0)))
        if model is not None:
            return model
        if version is None or not versions:
            hint = "; it is unloaded, and LoadModel brings it back" if self.taken_out(name) else ""
            raise ModelNotFound(f"Request for unknown model: '{name}' is not found{hint}", model=name)
        raise ModelNotFound(
            f"Request for unknown model: '{name}' version {version} is not found; ready versions: {versions}",
            model=name,
            version=str(version),
        )

    def versions(self, name: str) -> list[int]:
        """The ready versions of a model, in order."""
        return sorted(version for known, version in self._loaded if known == name)

    def ready(self) -> list[Model[P]]:
        """The loaded models, by name and version."""
        return [self._loaded[key] for key in sorted(self._loaded)]

    def unloaded(self) -> list[Bundle]:
        """The bundles that are known and not loaded."""
        return [self._known[key] for key in sorted(self._known) if key not in self._loaded]

    def taken_out(self, name: str) -> bool:
        """Whether a model is out of service because somebody has unloaded it, and not because it has failed."""
        return name in self._taken_out

    def labels(self, name: str) -> dict[str, int]:
        """Version labels of a model: {"stable": 3}."""
        return self._labels.get(name, {})

    @property
    def default_model(self) -> str:
        """The name that an empty one stands for."""
        return self._settings.default_model

    @property
    def batcher_settings(self) -> BatcherSettings:
        """Of every model; a bundle's own `max_batch` may be lower."""
        return self._settings.batcher

    def is_default(self, bundle: Bundle) -> bool:
        """Whether an empty model name means this version."""
        return bundle.name == self.default_model and [bundle.version] == self.versions(bundle.name)[-1:]

    def digest(self) -> str:
        """16 hexadecimal digits that change whenever a model is loaded, unloaded or relabelled."""
        parts = [f"{bundles.digest(model.bundle)} {self._labels.get(model.name)}" for model in self.ready()]
        parts += sorted(self._taken_out)
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]

    async def load(self, name: str) -> list[Model[P]]:
        """Loads every version of the bundle `name` that lies in the folders and is not loaded; reads its labels again.

        Returns:
            Every version that is ready then.

        Raises:
            InvalidField: `name` is no name of a bundle.
            ModelNotFound: no such bundle in the folders.
            LoadIncomplete: a version is damaged; the others are loaded.
        """
        async with self._lock:
            found, labels = await asyncio.to_thread(self._look_for, bundle_name(name))
            self._remember(found, labels, forget=name)
            self._taken_out.discard(name)
            missing = [bundle for bundle in found if (name, bundle.version) not in self._loaded]
            failures = [failure for bundle in missing if (failure := await self._failure(bundle))]
            self.on_change()
        if failures:
            raise LoadIncomplete(f"failed to load '{name}': {'; '.join(failures)}", model=name)
        return [model for model in self.ready() if model.name == name]

    async def unload(self, name: str) -> None:
        """Takes every version of `name` out of service; items already queued are still answered.

        Raises:
            InvalidField: `name` is no name of a bundle.
            ModelNotFound: no bundle of that name is known.
        """
        async with self._lock:
            versions = self.versions(bundle_name(name))
            if not any(known == name for known, _ in self._known):
                raise ModelNotFound(f"failed to unload '{name}', no such bundle is known", model=name)
            self._taken_out.add(name)
            leaving = [self._loaded.pop((name, version)) for version in versions]
            self.on_change()
            await self._close(leaving)

    async def _close(self, models: Sequence[Model[P]]) -> None:
        await asyncio.gather(*(model.stack.aclose() for model in models))
        for model in models:
            self._log.info("model_unloaded", model=model.name, version=model.version)

    def _look_for(self, name: str) -> tuple[list[Bundle], dict[str, dict[str, int]]]:
        """The versions of a bundle in the folders, and its labels."""
        try:
            found = [
                bundle
                for bundle in bundles.discover(self._settings.folders, self._settings.service)
                if bundle.name == name
            ]
            if not found:
                raise ModelNotFound(
                    f"failed to load '{name}', no such bundle in the folders of this service", model=name
                )
            return found, _labels(found)
        except StartupError as error:
            raise LoadIncomplete(f"failed to load '{name}': {error}", model=name) from error

    async def _failure(self, bundle: Bundle) -> str | None:
        """Loads a bundle; says why it could not."""
        try:
            await self._load(bundle)
        except StartupError as error:
            self._log.error("load_failed", model=bundle.name, version=bundle.version, error=str(error), hint=error.hint)
            return str(error)
        return None

    def _default(self, supports: Callable[[Manifest], bool] | None) -> Model[P]:
        default = self.get(self._settings.default_model, None)
        if supports is None or supports(default.manifest):
            return default
        return next((model for model in self.ready() if supports(model.manifest)), default)

    def _check_default(self) -> None:
        default = self._settings.default_model
        if not any(name == default for name, _ in self._loaded):
            raise SettingsError(
                f"DEFAULT_MODEL is {default!r}, which is no bundle here",
                hint=f"set it to one of: {', '.join(sorted({name for name, _ in self._loaded}))}",
            )

    def _remember(
        self, found: Sequence[Bundle], labels: Mapping[str, dict[str, int]], forget: str | None = None
    ) -> None:
        self._known = {key: bundle for key, bundle in self._known.items() if key[0] != forget}
        self._known.update({(bundle.name, bundle.version): bundle for bundle in found})
        self._labels.update(labels)

    async def _load(self, bundle: Bundle) -> None:
        key = (bundle.name, bundle.version)
        self._loaded[key] = await self._load_one(bundle, self._settings, self._metrics.of(*key), self._lose)

    def _lose(self, model: Model[P]) -> None:
        """Its engine has failed: out of service until it is loaded again."""
        if self._loaded.get((model.name, model.version)) is model:
            del self._loaded[model.name, model.version]
            self.on_change()


def _labels(found: Sequence[Bundle]) -> dict[str, dict[str, int]]:
    """The version labels of each bundle."""
    return {bundle.name: bundles.labels(bundle.path.parent) for bundle in found}
