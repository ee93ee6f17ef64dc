"""Loader: how this service's bundles become models: a scheduler for those that write, a batcher for the others."""

import asyncio
from collections.abc import Callable
from functools import partial

import numpy as np

from services.kit.errors import StartupError
from services.kit.inference import bundle as bundles
from services.kit.inference.bundle import Bundle, Manifest
from services.kit.inference.engine import Engine, EngineSettings, chosen_device
from services.kit.inference.loading import Load, ModelsSettings, batched
from services.kit.inference.manifest import ENCODER, Generation
from services.kit.inference.model import Model
from services.kit.inference.statistics import ModelMetrics
from services.kit.inference.verification import check_answers, check_interface
from services.language import graph
from services.language.batch import Batch
from services.language.classifier import Classifier
from services.language.engine.cache import Blank
from services.language.engine.cuda import Cuda, CudaError
from services.language.engine.cuda_storage import CudaStorage
from services.language.engine.memory import caches
from services.language.engine.prefixes import Prefixes
from services.language.engine.runs import Runs
from services.language.engine.storage import HostStorage
from services.language.metrics import GenerationMetrics
from services.language.scheduler import Scheduler
from services.language.settings import GenerationSettings
from services.language.tokenizer import Tokenizer
from services.language.warm_up import warm_up
from services.language.writer import Writer

Pipeline = Classifier | Writer | None  # None: a model of plain tensors
LanguageModel = Model[Pipeline]
SCORED_BYTES, FEWEST_SCORED = 16 << 20, 16  # of one array of logits in a run that scores; tokens whatever they take
TOLERANCE = {"FP32": 0.0, "FP16": 0.1, "BF16": 0.3}  # of known answers at least: how exact the numbers themselves are


def classifier_of(manifest: Manifest) -> Pipeline:
    """What is around the engine of a bundle that writes nothing."""
    if manifest.features is None or manifest.postprocessing is None:
        return None
    return Classifier(manifest, manifest.features, manifest.postprocessing)


def loader(settings: GenerationSettings, metrics: GenerationMetrics) -> Load[Pipeline]:
    """Loads all kinds of bundles of this service."""
    classifiers = batched(classifier_of)

    async def load(
        bundle: Bundle, models: ModelsSettings, batcher_metrics: ModelMetrics, lose: Callable[[LanguageModel], None]
    ) -> LanguageModel:
        generation = bundle.manifest.generation
        if generation is None:
            return await classifiers(bundle, models, batcher_metrics, lose)
        engine, runs, answers = await asyncio.to_thread(opened, bundle, generation, models.engine, settings)
        tokenizer = await asyncio.to_thread(Tokenizer, bundle.path / generation.tokenizer, generation.vocab)
        prefixes = Prefixes(runs.cache, runs.kept) if runs.kept is not None else None
        most_scored = max(FEWEST_SCORED, SCORED_BYTES // (4 * generation.vocab))
        exact = engine.device == "cpu" and generation.precision == "FP32"  # whatever a run takes at once
        speculative = settings.speculative_tokens if exact else 0
        batch = Batch(runs, graph.candidates(generation), prefixes, most_scored, speculative)
        scheduler = Scheduler(
            batch,
            settings,
            metrics.of(bundle.name, bundle.version),
            warm_up=lambda: warm_up(bundle, generation, runs, settings, speculative),
            on_run_failed=batcher_metrics.run_failed,
            on_broken=lambda: lose(model),
        )
        writer = Writer(generation, tokenizer, scheduler, settings.default_new_tokens)
        model: LanguageModel = Model(bundle, writer, engine, answers, scheduler.statistics, max_batch=0)
        model.stack.push_async_callback(asyncio.to_thread, runs.close)
        try:
            await model.stack.enter_async_context(scheduler)
        except BaseException:
            await model.stack.aclose()
            raise
        return model

    return load


def opened(
    bundle: Bundle, generation: Generation, engine: EngineSettings, settings: GenerationSettings
) -> tuple[Engine, Runs, str]:
    """A bundle that writes, on its device and with its caches there, after it has been verified.

    Returns:
        The decoder's engine, the runs, and what the known answers are on this machine to the bit.

    Raises:
        StartupError: says what is off, or that there is no memory for the caches.
    """
    cuda = Cuda.open(engine.cuda_device) if chosen_device(engine.device) == "cuda" else None
    if generation.precision == "BF16" and (cuda is None or generation.max_source):
        raise StartupError(
            f"{bundle.path}: bf16 needs a GPU, and no encoder",
            hint="set ENGINE__DEVICE=cuda where there is a GPU, or export it with fp16 or fp32",
        )
    recorded = settings.cuda_graphs and generation.precision != "FP32" and not generation.max_source
    stream = cuda.stream if cuda is not None and recorded else None
    decoder, encoder, answers = _verified(bundle, generation, engine, stream)
    mib, texts = settings.cache_mib, settings.max_texts
    blank: Blank = HostStorage if cuda is None else partial(CudaStorage, cuda)
    try:
        given = generation, mib, texts, str(bundle.path), settings.prefix_mib, blank
        memory = caches(*given, recorded=stream is not None)
    except CudaError as error:
        raise StartupError(
            f"{bundle.path}: no {mib} + {settings.prefix_mib} MiB on the GPU for keys and values: {error}",
            hint="set GENERATION__CACHE_MIB or PREFIX_MIB to less, or ENGINE__CUDA_DEVICE to another GPU",
        ) from error
    runs = Runs(generation, decoder, memory.texts, encoder, memory.sources, memory.stage, memory.kept, cuda)
    return decoder, runs, answers


def _verified(
    bundle: Bundle, generation: Generation, settings: EngineSettings, stream: int | None
) -> tuple[Engine, Engine | None, str]:
    """Decoder and encoder, and what their known answers are here to the bit.

    Raises:
        StartupError: says what of the bundle is off.
    """
    bundles.verify_files(bundle)
    decoder = Engine(bundle.path / bundles.MODEL, settings, stream=stream)
    check_interface(bundle, decoder, graph.decoder_inputs(generation), graph.decoder_outputs())
    inputs, expected = bundles.known_answers(bundle)
    if graph.QUERIES in inputs:
        inputs[graph.QUERIES] = np.array(graph.queries(generation, decoder.device))
    encoder = None
    if generation.max_source:
        encoder = Engine(bundle.path / ENCODER, settings)
        names = graph.cross(generation.layers)
        try:
            sources = {name: inputs.pop(name) for name in (graph.SOURCE,)}
            sources[graph.SOURCE_LENGTH] = inputs[graph.SOURCE_LENGTH]
        except KeyError as error:
            raise StartupError(
                f"{bundle.path / bundles.KNOWN_ANSWERS}: has no input {error}", hint="export the model again"
            ) from error
        inputs |= dict(zip(names, encoder.run(sources, names), strict=True))
    return decoder, encoder, check_answers(bundle, inputs, expected, decoder, TOLERANCE[generation.precision])
