"""Verification: whether a bundle is what it says it is, on this machine."""

import hashlib
from collections.abc import Mapping, Sequence

from services.kit.errors import StartupError
from services.kit.inference import bundle as bundles
from services.kit.inference.bundle import Array, Bundle, TensorSpec
from services.kit.inference.engine import Engine, EngineSettings

# Largest difference between a known answer and the same run here, absolute and relative; CUDA sums in another order.
TOLERANCE = {"cpu": 1e-3, "cuda": 2e-2}


def verified_engine(bundle: Bundle, settings: EngineSettings) -> tuple[Engine, str]:
    """The bundle's engine, after its checksums, its interface and its known answers have been checked.

    Returns:
        The engine, and what the known answers are on this machine to the bit, as 16 hexadecimal digits.

    Raises:
        StartupError: says which of them is off.
    """
    bundles.verify_files(bundle)
    engine = Engine(bundle.path / "model.onnx", settings)
    features = bundle.manifest.features
    inputs = (TensorSpec(features.input, "INT64", (-1, -1)),) if features else bundle.manifest.inputs
    check_interface(bundle, engine, inputs, bundle.manifest.outputs)
    return engine, check_answers(bundle, *bundles.known_answers(bundle), engine)


def check_interface(
    bundle: Bundle, engine: Engine, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]
) -> None:
    """Whether the graph has these inputs and outputs, among others.

    Raises:
        StartupError: it has not.
    """
    for kind, public, graph in (("input", inputs, engine.inputs), ("output", outputs, engine.outputs)):
        by_name = {spec.name: spec for spec in graph}
        for spec in public:
            if by_name.get(spec.name) != spec:
                there = ", ".join(map(_text, graph))
                raise StartupError(
                    f"{bundle.path}: the manifest says {kind} {_text(spec)}, the graph has {there}",
                    hint="export the model again, so that manifest and graph agree",
                )


def _text(spec: TensorSpec) -> str:
    return f"{spec.name} {spec.datatype} {list(spec.shape)}"


def check_answers(
    bundle: Bundle,
    inputs: Mapping[str, Array],
    expected: Mapping[str, Array],
    engine: Engine,
    least_tolerance: float = 0.0,
) -> str:
    """What the graph gives for `inputs` here to the bit, as 16 hexadecimal digits.

    Args:
        least_tolerance: what is within it is well, also where the device is more exact.

    Raises:
        StartupError: it is something else than `expected`.
    """
    tolerance = max(TOLERANCE[engine.device], least_tolerance)
    names: Sequence[str] = sorted(expected)
    actual = dict(zip(names, engine.run(inputs, names), strict=True))
    difference = bundles.compare_known_answers(expected, actual, rtol=tolerance, atol=tolerance)
    if difference:
        raise StartupError(
            f"{bundle.path}: {difference}",
            hint="this machine computes something else than the bundle's maker",
        )
    digest = hashlib.sha256()
    for name in names:
        array = actual[name]
        digest.update(repr(array.tolist()).encode() if array.dtype.kind == "O" else array.tobytes())
    return digest.hexdigest()[:16]
