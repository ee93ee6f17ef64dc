"""The part of a graph that draws a token from logits, and says how probable it and the best others were.

Where all of a run's tokens are the most probable ones, and no logit changes, `MostProbable` gives what `Sampler` would.
"""

import torch
from torch import Tensor

from services.language.training import nodes

CANDIDATES = 64  # a token is drawn among so many at most
OF_DRAWS = ("temperature", "top_k", "top_p", "min_p", "uniform", "forced")  # inputs [N, 1]
INPUTS = (*OF_DRAWS, "ranks", "adjust_index", "adjust_scale", "adjust_bias")  # of `sampled`, after the logits
OF_MOST_PROBABLE = ("forced", "ranks")  # of `most_probable`
OUTPUTS = ("token", "logprob", "top_token", "top_logprob")


def sampled(
    logits: Tensor,
    temperature: Tensor,
    top_k: Tensor,
    top_p: Tensor,
    min_p: Tensor,
    uniform: Tensor,
    forced: Tensor,
    ranks: Tensor,
    adjust_index: Tensor,
    adjust_scale: Tensor,
    adjust_bias: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Token int64 [N, 1], its log-probability float32 [N, 1], the best tokens int64 [N, K] and theirs, float32 [N, K].

    Log-probabilities are those of the logits as they come in; the best tokens are best by the adjusted ones. Each cut
    looks at what the one before it left: the `top_k` most probable, of these the fewest whose part of the probability
    reaches `top_p`, of these those of at least `min_p` times the first one's. What a draw gives is the same for every
    K that is not smaller than its `top_k`.

    Args:
        logits: float32 [N, vocab].
        temperature: float32 [N, 1], more than 0.
        top_k: int64 [N, 1], 1 to K; 1: the most probable one, of equals the lowest.
        top_p, min_p: float32 [N, 1], in (0, 1] and [0, 1].
        uniform: float32 [N, 1], in [0, 1): where in the probability that is left the token is looked for.
        forced: int64 [N, 1]: this token; -1: the one that is drawn.
        ranks: int64 [K]: 0, 1, ...; as many tokens are looked for, at most as many as there are.
        adjust_index: int64 [A, 2]: rows and tokens whose logit changes, each pair once.
        adjust_scale, adjust_bias: float32 [A]: a positive logit is divided and any other multiplied by the one, then
            the other is added.
    """
    every = torch.log_softmax(logits, -1)
    best, tokens = torch.topk(_adjusted(logits, adjust_index, adjust_scale, adjust_bias), ranks.shape[0])
    # Parts of the first one's, so that no number depends on K.
    probabilities = torch.exp((best - best[:, :1]) / temperature)
    drawn = torch.gather(tokens, 1, _drawn(torch.where(ranks < top_k, probabilities, 0.0), top_p, min_p, uniform))
    token = torch.where(forced >= 0, forced, drawn)
    return token, torch.gather(every, 1, token), tokens, torch.gather(every, 1, tokens)


def most_probable(logits: Tensor, forced: Tensor, ranks: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What `sampled` gives, to the bit, where every top_k is 1 and no logit changes."""
    every = torch.log_softmax(logits, -1)
    tokens = torch.topk(logits, ranks.shape[0]).indices
    token = torch.where(forced >= 0, forced, tokens[:, :1])
    return token, torch.gather(every, 1, token), tokens, torch.gather(every, 1, tokens)


def _adjusted(logits: Tensor, index: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    old = nodes.picked(logits, index)
    return nodes.replaced(logits, index, torch.where(old > 0, old / scale, old * scale) + bias)


def _drawn(probabilities: Tensor, top_p: Tensor, min_p: Tensor, uniform: Tensor) -> Tensor:
    """int64 [N, 1]: which candidate; `probabilities`, float32 [N, K], fall from 1. The cuts leave the first ones."""
    sums = torch.cumsum(probabilities, 1)
    before = torch.nn.functional.pad(sums[:, :-1], (1, 0))
    kept = (before < top_p * sums[:, -1:]) & (probabilities >= min_p)
    last = kept.sum(1, keepdim=True) - 1
    passed = (sums <= uniform * torch.gather(sums, 1, last)).sum(1, keepdim=True)
    return torch.minimum(passed, last)
