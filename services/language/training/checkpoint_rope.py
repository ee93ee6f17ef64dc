"""How far a checkpoint's queries and keys turn at each position: the scalings of rotary positions that are known.

Source: transformers, modeling_rope_utils.py; "yarn" is B. Peng et al., YaRN, 2023 (arXiv 2309.00071).
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from services.kit.errors import StartupError

Scaling = Mapping[str, Any]


def frequencies(config: Mapping[str, Any], head_dim: int) -> tuple[tuple[float, ...], float]:
    """Radians a token, one for each pair of a head, and the factor of what is turned.

    Raises:
        StartupError: names the key and the value that nobody here knows.
    """
    scaling = {**(config.get("rope_scaling") or {}), **(config.get("rope_parameters") or {})}
    if nested := [key for key, value in scaling.items() if isinstance(value, Mapping)]:
        raise StartupError(
            f"config.json: rope_parameters.{nested[0]} is of some layers only", hint="all layers must turn alike"
        )
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    if kind not in SCALINGS:
        raise StartupError(
            f"config.json: rope_type is {kind!r}, which is none of {', '.join(SCALINGS)}",
            hint="positions that turn otherwise in long texts than in short ones cannot go into a graph",
        )
    if (part := scaling.get("partial_rotary_factor", config.get("partial_rotary_factor", 1.0))) not in (None, 1.0):
        raise StartupError(
            f"config.json: partial_rotary_factor is {part}, not 1", hint="only whole heads can be turned"
        )
    theta = float(scaling.get("rope_theta") or config.get("rope_theta") or 10_000.0)
    plain = 1.0 / theta ** (torch.arange(0, head_dim, 2, dtype=torch.int64).float() / head_dim)
    try:
        turned, factor = SCALINGS[kind](plain, {**scaling, "rope_theta": theta}, config)
    except KeyError as error:
        raise StartupError(
            f"config.json: rope_type {kind!r} needs {error}", hint="copy the file of the checkpoint again"
        ) from error
    return tuple(turned.tolist()), factor


def _default(plain: Tensor, scaling: Scaling, config: Mapping[str, Any]) -> tuple[Tensor, float]:
    return plain, 1.0


def _linear(plain: Tensor, scaling: Scaling, config: Mapping[str, Any]) -> tuple[Tensor, float]:
    return plain / scaling["factor"], 1.0


def _llama3(plain: Tensor, scaling: Scaling, config: Mapping[str, Any]) -> tuple[Tensor, float]:
    """Slow pairs turn slower by `factor`, fast ones do not, and those between are in between."""
    low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
    turns = (
        scaling["original_max_position_embeddings"] * plain / (2 * math.pi)
    )  # in the texts it was first trained with
    fast = torch.clamp((turns - low) / (high - low), 0, 1)
    return (1 - fast) * plain / scaling["factor"] + fast * plain, 1.0


def _yarn(plain: Tensor, scaling: Scaling, config: Mapping[str, Any]) -> tuple[Tensor, float]:
    """The same by the number of a pair; attention is sharper by a factor that grows with the logarithm of `factor`."""
    trained, theta, size = scaling["original_max_position_embeddings"], scaling["rope_theta"], 2 * len(plain)
    factor = scaling["factor"] or config["max_position_embeddings"] / trained

    def pair(turns: float) -> float:
        return size * math.log(trained / (turns * 2 * math.pi)) / (2 * math.log(theta))

    low, high = pair(scaling.get("beta_fast") or 32), pair(scaling.get("beta_slow") or 1)
    if scaling.get("truncate", True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, size - 1)
    slow = torch.clamp((torch.arange(len(plain)) - low) / (high - low if high > low else 0.001), 0, 1)
    return plain / factor * slow + plain * (1 - slow), _sharpness(scaling, factor)


def _sharpness(scaling: Scaling, factor: float) -> float:
    def grown(scale: float) -> float:
        return 0.1 * scale * math.log(factor) + 1 if factor > 1 else 1.0

    if scaling.get("attention_factor") is not None:
        return float(scaling["attention_factor"])
    if scaling.get("mscale") and scaling.get("mscale_all_dim"):
        return grown(scaling["mscale"]) / grown(scaling["mscale_all_dim"])
    return grown(1)


SCALINGS: dict[str, Callable[[Tensor, Scaling, Mapping[str, Any]], tuple[Tensor, float]]] = {
    "default": _default,
    "linear": _linear,
    "llama3": _llama3,
    "yarn": _yarn,
}
