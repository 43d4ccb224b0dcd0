"""Logits that break routers, by name, and the tokens and router weights that produce them exactly.

All values are multiples of 1/8: float32 then computes logits without rounding, and equal logits are equal.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import torch
from torch import Generator, Tensor

HUGE = 80.0
"""exp(80) still fits float32 and exp(-80) is still normal; their quotient is neither."""


def draw_grid(shape: tuple[int, ...], *, limit: float, generator: Generator) -> Tensor:
    """Multiples of 1/8 in [-limit, limit], float64."""
    steps = int(8 * limit)
    return torch.randint(-steps, steps + 1, shape, generator=generator).double() / 8.0


def _spread(num_tokens: int, num_experts: int, generator: Generator) -> Tensor:
    """Distinct within each token, by 1/4."""
    orders = [torch.randperm(num_experts, generator=generator) for _ in range(num_tokens)]
    centred = [order.double() / 4.0 - num_experts / 8.0 for order in orders]
    return torch.stack(centred) if centred else torch.zeros(0, num_experts, dtype=torch.float64)


def _mixed(num_tokens: int, num_experts: int, generator: Generator) -> Tensor:
    """Anything, with a tie here and there."""
    return draw_grid((num_tokens, num_experts), limit=3.0, generator=generator)


def _tied(num_tokens: int, num_experts: int, generator: Generator) -> Tensor:
    """Only two values, so nearly every decision is a tie."""
    return torch.randint(0, 2, (num_tokens, num_experts), generator=generator).double()


def _all_equal(num_tokens: int, num_experts: int, _: Generator) -> Tensor:
    """No token has a preference."""
    return torch.full((num_tokens, num_experts), 0.5, dtype=torch.float64)


def _all_zero(num_tokens: int, num_experts: int, _: Generator) -> Tensor:
    """A router that has learned nothing: sigmoid 0.5, softmax 1 / E."""
    return torch.zeros(num_tokens, num_experts, dtype=torch.float64)


def _one_hot_expert(num_tokens: int, num_experts: int, generator: Generator) -> Tensor:
    """Every token wants the last expert most."""
    logits = _mixed(num_tokens, num_experts, generator)
    logits[:, -1] = 6.0
    return logits


def _same_token(num_tokens: int, num_experts: int, generator: Generator) -> Tensor:
    """All tokens are one token: all go to the same experts, and all score the same."""
    return _mixed(1, num_experts, generator).expand(num_tokens, num_experts).clone()


def _all_negative(num_tokens: int, num_experts: int, generator: Generator) -> Tensor:
    """No logit above -1."""
    return draw_grid((num_tokens, num_experts), limit=2.0, generator=generator) - 3.0


def _huge(num_tokens: int, num_experts: int, generator: Generator) -> Tensor:
    """+80 or -80: sigmoids are 1 or nearly 0, softmaxes underflow."""
    return HUGE * (2.0 * _tied(num_tokens, num_experts, generator) - 1.0)


PATTERNS: Mapping[str, Callable[[int, int, Generator], Tensor]] = MappingProxyType(
    {
        "spread": _spread,
        "mixed": _mixed,
        "tied": _tied,
        "all_equal": _all_equal,
        "all_zero": _all_zero,
        "one_hot_expert": _one_hot_expert,
        "same_token": _same_token,
        "all_negative": _all_negative,
        "huge": _huge,
    }
)


def make_router_weight(num_experts: int, d_model: int, generator: Generator) -> Tensor:
    """[E, D]: each expert reads one input of its own, with sign +1 or -1; needs D >= E."""
    weight = torch.zeros(num_experts, d_model, dtype=torch.float64)
    inputs = torch.randperm(d_model, generator=generator)[:num_experts]
    signs = 2.0 * torch.randint(0, 2, (num_experts,), generator=generator).double() - 1.0
    weight[torch.arange(num_experts), inputs] = signs
    return weight


def make_tokens(logits: Tensor, router_weight: Tensor, generator: Generator) -> Tensor:
    """[T, D] float64 tokens whose product with a weight of `make_router_weight` is exactly `logits`."""
    unread = draw_grid((logits.shape[0], router_weight.shape[1]), limit=1.0, generator=generator)
    return unread * (router_weight.abs().sum(0) == 0.0) + logits @ router_weight
