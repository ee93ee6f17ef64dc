"""Random inputs for any bundle, made after the pattern of its known answers."""

from collections.abc import Mapping

import numpy as np

from services.kit.inference.bundle import Array, TensorSpec


def random_inputs(
    examples: Mapping[str, Array], specs: Mapping[str, TensorSpec], rows: int, random: np.random.Generator
) -> dict[str, Array]:
    """Inputs of the examples' names, dtypes and shapes, with other values.

    Floats get the examples' mean and deviation; UINT8 are pixels, 0 to 255; other dtypes draw from the examples'
    own values, since any other token id, length or text might be none.

    Args:
        specs: of the graph's inputs; those whose first dimension is free get `rows` there.
    """
    return {name: _like(example, _shape(example, specs[name], rows), random) for name, example in examples.items()}


def _shape(example: Array, spec: TensorSpec, rows: int) -> tuple[int, ...]:
    return (rows, *example.shape[1:]) if spec.shape[:1] == (-1,) else example.shape


def _like(example: Array, shape: tuple[int, ...], random: np.random.Generator) -> Array:
    if example.dtype.kind == "f":
        return random.normal(example.mean(), example.std() or 1.0, shape).astype(example.dtype)
    if example.dtype == np.uint8:
        return random.integers(0, 256, shape, dtype=np.uint8)
    drawn: Array = random.choice(example.reshape(-1), shape)
    return drawn
