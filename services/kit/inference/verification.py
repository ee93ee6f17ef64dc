"""Verification: whether a bundle is what it says it is, on this machine."""

from collections.abc import Sequence

from services.kit.errors import StartupError
from services.kit.inference import bundle as bundles
from services.kit.inference.bundle import Bundle, TensorSpec
from services.kit.inference.engine import Engine, EngineSettings

# Largest difference between a known answer and the same run here, absolute and relative; CUDA sums in another order.
TOLERANCE = {"cpu": 1e-3, "cuda": 2e-2}


def verified_engine(bundle: Bundle, settings: EngineSettings) -> Engine:
    """The bundle's engine, after its checksums, its interface and its known answers have been checked.

    Raises:
        StartupError: says which of them is off.
    """
    bundles.verify_files(bundle)
    engine = Engine(bundle.path / "model.onnx", settings)
    for kind, public, graph in (
        ("input", bundle.manifest.inputs, engine.inputs),
        ("output", bundle.manifest.outputs, engine.outputs),
    ):
        by_name = {spec.name: spec for spec in graph}
        for spec in public:
            if by_name.get(spec.name) != spec:
                there = ", ".join(map(_text, graph))
                raise StartupError(
                    f"{bundle.path}: the manifest says {kind} {_text(spec)}, the graph has {there}",
                    hint="export the model again, so that manifest and graph agree",
                )
    _check_known_answers(bundle, engine)
    return engine


def _text(spec: TensorSpec) -> str:
    return f"{spec.name} {spec.datatype} {list(spec.shape)}"


def _check_known_answers(bundle: Bundle, engine: Engine) -> None:
    inputs, expected = bundles.known_answers(bundle)
    tolerance = TOLERANCE[engine.device]
    names: Sequence[str] = sorted(expected)
    actual = dict(zip(names, engine.run(inputs, names), strict=True))
    difference = bundles.compare_known_answers(expected, actual, rtol=tolerance, atol=tolerance)
    if difference:
        raise StartupError(
            f"{bundle.path}: {difference}",
            hint="this machine computes something else than the bundle's maker",
        )
