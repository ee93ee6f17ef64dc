"""ONNX's own nodes as torch functions; only an exporter can run them.

ONNX Runtime's CPU kernel rounds a product of two matrices that are both computed otherwise where the first one has a
single row, and a text would depend on how it was cut into runs. So on the CPU each query of a text over itself is a
product of its own, which is also the quickest one: it reads keys and values where they lie. What reads sources, and
what is exported for a GPU, never has a single row: where every head has keys of its own, the first query comes twice
and its first answer is dropped; where several share them, their queries are the rows of one product.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

OPSET = 24
FUSED = "com.microsoft"  # the domain of ONNX Runtime's own nodes

Attributes = dict[str, int | float | str | bool | Sequence[int] | Sequence[float] | Sequence[str] | Sequence[bool]]


def by_head(x: Tensor, head_dim: int) -> Tensor:
    """[B, heads, T, head_dim] from [B, T, heads * head_dim]."""
    heads = x.shape[2] // head_dim
    return _reshaped(x, (0, 0, heads, head_dim), (*x.shape[:2], heads, head_dim)).transpose(1, 2)


def gathered(x: Tensor, index: Tensor) -> Tensor:
    """[N, M]: the rows of x [B, T, M], one after the other, at `index` [N]."""
    rows = x.reshape(-1, x.shape[2])
    return _node("Gather", [rows, index], x, {"axis": 0}, shape=(*index.shape, x.shape[2]))


def scattered(cache: Tensor, new: Tensor, start: Tensor) -> Tensor:
    """The cache [B, heads, M, head_dim] with `new` [B, heads, T, head_dim] written from `start` [B] on."""
    return _node("TensorScatter", [cache, new, start], cache, {"axis": 2, "mode": "linear"})


def attention_by_query(q: Tensor, keys: Tensor, values: Tensor, mask: Tensor, form: Tensor) -> Tensor:
    """[B, T, heads * head_dim] from queries [B, heads, T, head_dim], whose products with keys are not scaled.

    Args:
        mask: added to the products, as `formed` gives it.
        form: what queries are the rows of one product, as for `formed`.
    """
    batch, heads, steps, width = q.shape
    y = _node("Attention", [formed(q, form), keys, values, mask], q, {"scale": 1.0}, (batch, heads * steps, 1, width))
    return _side_by_side(_reshaped(y, (0, heads, -1, width), q.shape))


def formed(x: Tensor, form: Tensor) -> Tensor:
    """[B, heads, T, N] in another shape, [B, heads * T, 1, N] where `form`, int64 [4], is (0, -1, 1, 0)."""
    batch, heads, steps, width = x.shape
    return _node("Reshape", [x, form], x, None, (batch, heads * steps, 1, width))


def causal_attention(q: Tensor, keys: Tensor, values: Tensor, mask: Tensor) -> Tensor:
    """[B, T, heads * head_dim] from queries [B, heads, T, head_dim]; heads that share keys are rows of one product.

    Args:
        mask: [B, 1, heads / kv_heads * T, M], added to the products.
    """
    shared = q.shape[1] // keys.shape[1]
    if shared == 1:
        twice, mask = (torch.cat((x[:, :, :1], x), 2) for x in (q, mask))
        y = _node("Attention", [twice, keys, values, mask], twice, None)
        return _side_by_side(y[:, :, 1:])
    batch, heads, steps, width = q.shape
    folded = _reshaped(q, (0, keys.shape[1], -1, width), (batch, keys.shape[1], shared * steps, width))
    y = _node("Attention", [folded, keys, values, mask], folded, None)
    return _side_by_side(_reshaped(y, (0, heads, -1, width), q.shape))


def attention(q: Tensor, keys: Tensor, values: Tensor, lengths: Tensor) -> Tensor:
    """[B, T, heads * head_dim] from queries [B, heads, T, head_dim] and as many of the keys as `lengths` [B] says."""
    twice = torch.cat((q[:, :, :1], q), 2)
    y = _node("Attention", [twice, keys, values, None, None, None, lengths], twice, {"is_causal": 0})
    return _side_by_side(y[:, :, 1:])


def rms_norm(x: Tensor, norm: nn.RMSNorm) -> Tensor:
    """The norm over the last dimension."""
    return _node("RMSNormalization", [x, norm.weight], x, _over_last(norm))


def rotated(x: Tensor, cosines: Tensor, sines: Tensor, positions: Tensor) -> Tensor:
    """[B, heads, T, head_dim] from the same.

    Args:
        cosines, sines: [positions, head_dim / 2].
        positions: int64 [B, T].
    """
    return _node("RotaryEmbedding", [x, cosines, sines, positions], x, None)


def picked(x: Tensor, index: Tensor) -> Tensor:
    """[A]: the numbers of x [N, M] at `index`, int64 [A, 2]."""
    return _node("GatherND", [x, index], x, None, shape=index.shape[:1])


def replaced(x: Tensor, index: Tensor, new: Tensor) -> Tensor:
    """x [N, M] with the numbers at `index`, int64 [A, 2], exchanged for `new` [A]."""
    return _node("ScatterND", [x, index, new], x, None)


def first_norm(x: Tensor, norm: nn.RMSNorm | nn.LayerNorm) -> Tensor:
    """The norm of what no layer has added to yet."""
    if isinstance(norm, nn.RMSNorm):
        return rms_norm(x, norm)
    return _node("LayerNormalization", [x, norm.weight, norm.bias], x, _over_last(norm))


def added_norm(x: Tensor, more: Tensor, norm: nn.RMSNorm | nn.LayerNorm) -> tuple[Tensor, Tensor]:
    """The norm of x + more, and x + more."""
    inputs = [x, more, norm.weight] if isinstance(norm, nn.RMSNorm) else [x, more, norm.weight, norm.bias]
    name = "SkipSimplifiedLayerNormalization" if isinstance(norm, nn.RMSNorm) else "SkipLayerNormalization"
    normalised, _, _, total = torch.onnx.ops.symbolic_multi_out(
        f"{FUSED}::{name}",
        inputs,
        {"epsilon": _epsilon(norm)},
        dtypes=[x.dtype, torch.float32, torch.float32, x.dtype],
        shapes=[x.shape, (*x.shape[:-1], 1), (*x.shape[:-1], 1), x.shape],
        version=1,
    )
    return normalised, total


def _side_by_side(y: Tensor) -> Tensor:
    """[B, T, heads * head_dim] from [B, heads, T, head_dim]."""
    batch, heads, steps, width = y.shape
    return _reshaped(y.transpose(1, 2), (0, 0, heads * width), (batch, steps, heads * width))


def _reshaped(x: Tensor, sizes: Sequence[int], shape: Sequence[int | torch.SymInt]) -> Tensor:
    """x in another shape; with sizes that are known, 0 for one that stays and -1 for what is left, it is one node."""
    return _node("Reshape", [x, torch.tensor(sizes)], x, None, shape=shape)


def _over_last(norm: nn.RMSNorm | nn.LayerNorm) -> Attributes:
    return {"axis": -1, "epsilon": _epsilon(norm)}


def _epsilon(norm: nn.RMSNorm | nn.LayerNorm) -> float:
    return float(norm.eps if norm.eps is not None else torch.finfo(torch.float32).eps)


def _node(
    name: str,
    inputs: Sequence[Tensor | None],
    like: Tensor,
    attributes: Attributes | None,
    shape: Sequence[int | torch.SymInt] | None = None,
) -> Tensor:
    """A node that gives one tensor like `like`, or of another shape."""
    return torch.onnx.ops.symbolic(
        f"::{name}", inputs, attributes, dtype=like.dtype, shape=like.shape if shape is None else shape, version=OPSET
    )
