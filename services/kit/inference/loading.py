"""Loading: how a bundle becomes a model that answers; a service may have ways of its own."""

import asyncio
import dataclasses
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from services.kit.inference.batcher import Batcher, BatcherSettings, Runner
from services.kit.inference.bundle import Bundle, Manifest
from services.kit.inference.engine import Engine, EngineSettings
from services.kit.inference.model import Model
from services.kit.inference.statistics import ModelMetrics
from services.kit.inference.verification import verified_engine

P = TypeVar("P")
RunnerOf = Callable[[Manifest, Engine], tuple[Runner, Sequence[str]]]  # and the names of its outputs


@dataclass(frozen=True, slots=True)
class ModelsSettings:
    """Which bundles are served and how."""

    service: str  # "vision": bundles of other services are passed over
    folders: tuple[Path, ...]
    default_model: str
    engine: EngineSettings
    batcher: BatcherSettings


# Loads and warms up a bundle; the last argument is told, in the event loop, of a model whose engine has failed for
# good. Raises StartupError where the bundle is off.
Load = Callable[[Bundle, ModelsSettings, ModelMetrics, Callable[[Model[P]], None]], Awaitable[Model[P]]]


def plain(manifest: Manifest, engine: Engine) -> tuple[Runner, Sequence[str]]:
    """The engine as it is, and the public outputs."""
    return engine, [spec.name for spec in manifest.outputs]


def batched(pipeline_of: Callable[[Manifest], P], runner_of: RunnerOf = plain) -> Load[P]:
    """Loads bundles whose items a batcher computes together.

    Args:
        pipeline_of: makes what is around a bundle's engine.
        runner_of: makes what the batcher runs of the engine; where a bundle's graph has more than its public interface.
    """

    async def load(
        bundle: Bundle, settings: ModelsSettings, metrics: ModelMetrics, lose: Callable[[Model[P]], None]
    ) -> Model[P]:
        engine, answers = await asyncio.to_thread(verified_engine, bundle, settings.engine)
        manifest = bundle.manifest
        max_batch = min(settings.batcher.max_batch, manifest.max_batch)
        runner, outputs = runner_of(manifest, engine)
        batcher = Batcher(
            runner,
            outputs,
            dataclasses.replace(settings.batcher, max_batch=max_batch or 1),
            metrics,
            batched=manifest.max_batch > 0,
            on_broken=lambda: lose(model),
        )
        model = Model(bundle, pipeline_of(manifest), engine, answers, batcher.statistics, max_batch, batcher)
        model.stack.push_async_callback(asyncio.to_thread, engine.close)
        await model.stack.enter_async_context(batcher)
        return model

    return load
