"""When two routers chose the same experts: exactly, but for the freedom that exact ties leave."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """Which tokens have the same experts [T], and which could choose between equal values [T]."""

    is_same: Tensor
    is_tied: Tensor


def compare_choices(chosen: Tensor, expected: Tensor, ranked: Tensor | None) -> Agreement:
    """Require the same experts, or experts whose ranked values are equal to the last bit.

    Where sets differ, ours are the best K with ties to the lowest ids, and theirs have the same values: so they differ
    only in experts that tie with the K-th.

    Args:
        chosen: [T, E] bool, ours.
        expected: [T, E] bool, theirs.
        ranked: [T, E], what both ranked; None = ties are not allowed.

    Raises:
        AssertionError: the first token that breaks this.
    """
    is_same = (chosen == expected).all(dim=1)
    if ranked is None:
        assert is_same.all(), f"other experts for tokens {(~is_same).nonzero().flatten().tolist()}"
        return Agreement(is_same=is_same, is_tied=torch.zeros_like(is_same))
    assert torch.equal(chosen.sum(1), expected.sum(1)), "other numbers of experts"
    in_order = ranked.sort(dim=1, descending=True, stable=True)
    top_k = int(chosen.sum(1)[0])
    last = in_order.values[:, top_k - 1]
    first_out = in_order.values[:, top_k] if top_k < ranked.shape[1] else torch.full_like(last, float("-inf"))
    for t in (~is_same).nonzero().flatten().tolist():
        ours, theirs = ranked[t][chosen[t]].sort().values, ranked[t][expected[t]].sort().values
        assert torch.equal(ours, theirs), f"token {t} chose values {ours.tolist()}, expected {theirs.tolist()}"
        lowest = in_order.indices[t, :top_k].sort().values
        assert torch.equal(chosen[t].nonzero().flatten(), lowest), f"token {t}: a tie did not go to the lowest ids"
    return Agreement(is_same=is_same, is_tied=last == first_out)
