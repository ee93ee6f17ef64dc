"""The part of a graph that draws a token from logits, and says how probable it and the best others were."""

import torch
from torch import Tensor

from services.language.training import nodes

CANDIDATES = 64  # a token is drawn among so many at most
ALTERNATIVES = 20  # and so many are told
INPUTS = (  # in the order of `sampled`, after the logits
    "temperature",
    "top_k",
    "top_p",
    "min_p",
    "uniform",
    "forced",
    "adjust_index",
    "adjust_scale",
    "adjust_bias",
)
OUTPUTS = ("token", "logprob", "top_token", "top_logprob")


def sampled(
    logits: Tensor,
    temperature: Tensor,
    top_k: Tensor,
    top_p: Tensor,
    min_p: Tensor,
    uniform: Tensor,
    forced: Tensor,
    adjust_index: Tensor,
    adjust_scale: Tensor,
    adjust_bias: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Token int64 [N], its log-probability float32 [N], the best tokens int64 [N, K] and theirs, float32 [N, K].

    Log-probabilities are those of the logits as they come in; the best tokens are best by the adjusted ones. Each cut
    looks at what the one before it left: the `top_k` most probable, of these the fewest whose part of the probability
    reaches `top_p`, of these those of at least `min_p` times the first one's.

    Args:
        logits: float32 [N, vocab].
        temperature: float32 [N], more than 0.
        top_k: int64 [N], 1 to CANDIDATES; 1: the most probable one, of equals the lowest.
        top_p, min_p: float32 [N], in (0, 1] and [0, 1].
        uniform: float32 [N], in [0, 1): where in the probability that is left the token is looked for.
        forced: int64 [N]: this token; -1: the one that is drawn.
        adjust_index: int64 [A, 2]: rows and tokens whose logit changes, each pair once.
        adjust_scale, adjust_bias: float32 [A]: a positive logit is divided and any other multiplied by the one, then
            the other is added.
    """
    every = torch.log_softmax(logits, -1)
    adjusted = _adjusted(logits, adjust_index, adjust_scale, adjust_bias)
    best, tokens = torch.topk(adjusted, min(CANDIDATES, logits.shape[-1]))
    chosen = _drawn(torch.softmax(best / temperature[:, None], -1), top_k, top_p, min_p, uniform)
    drawn = torch.gather(tokens, 1, chosen[:, None])
    token = torch.where(forced[:, None] >= 0, forced[:, None], drawn)
    told = tokens[:, : min(ALTERNATIVES, tokens.shape[1])]
    return token[:, 0], torch.gather(every, 1, token)[:, 0], told, torch.gather(every, 1, told)


def _adjusted(logits: Tensor, index: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    old = nodes.picked(logits, index)
    return nodes.replaced(logits, index, torch.where(old > 0, old / scale, old * scale) + bias)


def _drawn(probabilities: Tensor, top_k: Tensor, top_p: Tensor, min_p: Tensor, uniform: Tensor) -> Tensor:
    """int64 [N]: which candidate; `probabilities`, float32 [N, candidates], fall."""
    kept = torch.arange(probabilities.shape[1]) < top_k[:, None]
    sums = torch.cumsum(probabilities * kept, 1)
    before = torch.nn.functional.pad(sums[:, :-1], (1, 0))
    kept = kept & (before < top_p[:, None] * sums[:, -1:])
    kept = kept & (probabilities >= min_p[:, None] * probabilities[:, :1])
    sums = torch.cumsum(probabilities * kept, 1)
    passed = (sums <= uniform[:, None] * sums[:, -1:]).sum(1)
    return torch.minimum(passed, kept.sum(1) - 1)
