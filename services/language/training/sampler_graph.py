"""The sampler behind a decoder: all of it, or what the most probable token takes where nobody wants a draw."""

from collections.abc import Sequence

import onnx
import torch
from torch import Tensor, nn

from services.language.training import sampler
from services.language.training.branches import joined, with_branches
from services.language.training.traced import exported, integers

LOGITS, PLAIN = "logits", "plain"
_INTEGERS = {"top_k": torch.int64, "forced": torch.int64}


class Sampler(nn.Module):
    """Any draws."""

    def forward(self, logits: Tensor, sampling: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """As `sampled`."""
        return sampler.sampled(logits, *sampling)


class MostProbable(nn.Module):
    """Draws that are none."""

    def forward(self, logits: Tensor, forced: Tensor, ranks: Tensor) -> tuple[Tensor, ...]:
        """As `most_probable`."""
        return sampler.most_probable(logits, forced, ranks)


def with_sampler(model: onnx.ModelProto, vocab: int, *, branches: bool) -> onnx.ModelProto:
    """The graph with tokens in the place of its logits, which are its first output, float32 [N, vocab].

    Args:
        branches: whether runs without a draw take a branch of their own, which a CPU is quicker with; a GPU records
            runs as CUDA graphs, which have none.
    """
    draws, adjusted = 5, 4  # each size is another one
    logits, forced, ranks = torch.ones(draws, vocab), integers(draws, 1), torch.arange(8)
    of_draws = [torch.ones(draws, 1, dtype=_INTEGERS.get(name, torch.float32)) for name in sampler.OF_DRAWS]
    changes = [integers(adjusted, 2), torch.ones(adjusted), torch.ones(adjusted)]
    whole = exported(
        Sampler(), (logits, [*of_draws, torch.arange(8), *changes]), [LOGITS, *sampler.INPUTS], sampler.OUTPUTS
    )
    if not branches:
        return joined(model, LOGITS, whole)
    plain = exported(MostProbable(), (logits, forced, ranks), [LOGITS, *sampler.OF_MOST_PROBABLE], sampler.OUTPUTS)
    return with_branches(model, LOGITS, PLAIN, plain, whole)
