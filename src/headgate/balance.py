"""Keeping experts evenly used: losses on a router's own scores, and the loss-free selection bias.

Every loss is a pure function of one layer's values, never of several layers pooled (opposite imbalances would
cancel), counts all K choices, and leaves padding out. "At balance" is perfectly even routing with even scores; "at
collapse", all tokens choose the same K experts with scores 1/K each.

Every loss reads its tokens through sums alone. Where the tokens of several ranks are one batch, `add_ranks` adds such
sums over these ranks, and the loss is that of the whole batch on each of them; None = this rank's tokens are the batch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

import torch
import torch.distributed as dist
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from headgate.errors import SpecError

BalanceName = Literal["switch", "z", "importance", "sequence", "global_batch", "bias"]
AddRanks = Callable[[Tensor], Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class Balance:
    """How strongly each means of balance acts; 0 = not at all.

    Attributes:
        switch: coefficient of `switch_loss`.
        z: coefficient of `z_loss`.
        importance: coefficient of `importance_loss`.
        sequence: coefficient of `sequence_loss`.
        global_batch: coefficient of `switch_loss` with counts of the whole data-parallel group.
        bias_rate: step of the selection bias, taken by `attach_balance` once per optimizer step.
    """

    switch: float = 0.0
    z: float = 0.0
    importance: float = 0.0
    sequence: float = 0.0
    global_batch: float = 0.0
    bias_rate: float = 0.0

    def __post_init__(self) -> None:
        for field in fields(self):
            if getattr(self, field.name) < 0:
                raise SpecError(f"balance {field.name} (={getattr(self, field.name)}) must be at least 0; 0 is off")

    @property
    def has_losses(self) -> bool:
        """Whether any loss acts; the bias step is none."""
        return (self.switch, self.z, self.importance, self.sequence, self.global_batch) != (0.0,) * 5

    @classmethod
    def named(cls, name: str) -> Balance:
        """One means of balance at the strength of the paper that introduced it.

        Raises:
            SpecError: no such name.
        """
        if name not in _USUAL:
            raise SpecError(f"balance (={name!r}) is not known; use one of {', '.join(get_args(BalanceName))}")
        return cls(**_USUAL[name])


# Switch section 2.2; ST-MoE (arXiv:2202.08906) section 3.1; Shazeer et al. appendix C; DeepSeek-V3 section 4.2;
# Qiu et al. (arXiv:2501.11873) section 4; Wang et al. (arXiv:2408.15664) section 4.
_USUAL: dict[str, dict[str, float]] = {
    "switch": {"switch": 0.01},
    "z": {"z": 0.001},
    "importance": {"importance": 0.1},
    "sequence": {"sequence": 0.0001},
    "global_batch": {"global_batch": 0.01},
    "bias": {"bias_rate": 0.001},
}


def count_choices(
    expert_ids: Int[Tensor, "T K"], *, num_experts: int, is_padding: Bool[Tensor, " T"] | None = None
) -> Int[Tensor, " E"]:
    """How often each expert was chosen, dropped choices included: [E] int64. Empty slots and padding don't count.

    Example:
        >>> import torch
        >>> count_choices(torch.tensor([[0, 2], [2, -1]]), num_experts=3).tolist()
        [1, 0, 2]
    """
    ids = expert_ids if is_padding is None else expert_ids.masked_fill(is_padding[:, None], -1)
    flat = ids.flatten()
    # The extra last entry takes the -1 of empty slots.
    counts = torch.zeros(num_experts + 1, dtype=torch.int64, device=flat.device)
    return counts.scatter_add(0, flat.where(flat >= 0, num_experts), torch.ones_like(flat))[:num_experts]


def switch_loss(
    scores: Float[Tensor, "T E"],
    expert_counts: Int[Tensor, " E"],
    *,
    is_padding: Bool[Tensor, " T"] | None = None,
    add_ranks: AddRanks | None = None,
) -> Float[Tensor, ""]:
    """E * sum_i f_i P_i, where f_i is expert i's fraction of the choices and P_i its mean share of the scores.

    1 at balance, E / K at collapse. Scores that don't sum to 1 per token (sigmoid) are divided by their sum.

    Args:
        scores: [T, E], not negative.
        expert_counts: [E], choices per expert, of this batch or, for the global-batch loss, of the whole
            data-parallel group (`reduce_counts`).
        is_padding: [T].
        add_ranks: see the module.

    References:
        Fedus et al., "Switch Transformers", 2021, https://arxiv.org/abs/2101.03961, equations 4-6 (here divided by
        K); Qiu et al., "Demons in the Detail", 2025, https://arxiv.org/abs/2501.11873 (global batch).

    Example:
        >>> import torch
        >>> switch_loss(torch.full((6, 4), 0.25), torch.tensor([3, 3, 3, 3])).item()
        1.0
    """
    share = _mean_over_tokens(_shares(scores), is_padding, add_ranks)
    choices = expert_counts.to(share.dtype)
    fraction = choices / choices.sum().clamp(min=1)
    return scores.shape[1] * (fraction * share).sum()


def sequence_loss(
    scores: Float[Tensor, "T E"],
    expert_ids: Int[Tensor, "T K"],
    *,
    sequence_length: int,
    is_padding: Bool[Tensor, " T"] | None = None,
    add_ranks: AddRanks | None = None,
) -> Float[Tensor, ""]:
    """The mean over sequences of each sequence's own `switch_loss`.

    1 at balance within every sequence, E / K at collapse.

    References:
        DeepSeek-AI, "DeepSeek-V3", 2024, https://arxiv.org/abs/2412.19437, equations 17-20.

    Example:
        >>> import torch
        >>> sequence_loss(torch.eye(2), torch.tensor([[0], [1]]), sequence_length=1).item()
        2.0
    """
    num_tokens, num_experts = scores.shape
    padding = torch.zeros(num_tokens, dtype=torch.bool, device=scores.device) if is_padding is None else is_padding
    by_sequence = (num_tokens // max(sequence_length, 1), sequence_length)
    is_real = (~padding).reshape(by_sequence).to(scores.dtype)
    ids = expert_ids.masked_fill(padding[:, None], -1).reshape(by_sequence[0], sequence_length * expert_ids.shape[1])
    counts = scores.new_zeros(by_sequence[0], num_experts + 1)
    counts = counts.scatter_add(1, ids.where(ids >= 0, num_experts), torch.ones_like(ids, dtype=scores.dtype))
    fraction = counts[:, :num_experts] / counts[:, :num_experts].sum(dim=1, keepdim=True).clamp(min=1)
    shares = _shares(scores).masked_fill(padding[:, None], 0.0).reshape(*by_sequence, num_experts)
    share = shares.sum(dim=1) / is_real.sum(dim=1, keepdim=True).clamp(min=1)
    is_used = is_real.any(dim=1).to(scores.dtype)
    losses = num_experts * (fraction * share).sum(dim=1) * is_used
    return _divide(losses.sum(dim=0, keepdim=True), is_used.sum(), add_ranks).sum()


def z_loss(
    logits: Float[Tensor, "T E"],
    *,
    is_padding: Bool[Tensor, " T"] | None = None,
    add_ranks: AddRanks | None = None,
) -> Float[Tensor, ""]:
    """The mean over tokens of logsumexp(logits) squared: keeps logits small, whatever the balance.

    log(E)^2 when all logits are 0, balanced or not; grows without bound with the logits.

    References:
        Zoph et al., "ST-MoE", 2022, https://arxiv.org/abs/2202.08906, equation 5.

    Example:
        >>> import torch
        >>> round(z_loss(torch.zeros(5, 8)).item(), 4)  # log(8)^2
        4.3241
    """
    return _mean_over_tokens(logits.logsumexp(dim=1, keepdim=True).square(), is_padding, add_ranks).sum()


def importance_loss(
    scores: Float[Tensor, "T E"],
    *,
    is_padding: Bool[Tensor, " T"] | None = None,
    add_ranks: AddRanks | None = None,
) -> Float[Tensor, ""]:
    """The squared coefficient of variation of the experts' total scores.

    0 at balance, E / K - 1 at collapse.

    References:
        Shazeer et al., "Outrageously Large Neural Networks", 2017, https://arxiv.org/abs/1701.06538, equation 7.

    Example:
        >>> import torch
        >>> importance_loss(torch.tensor([[1.0, 0.0], [1.0, 0.0]])).item()
        1.0
    """
    importance = _mean_over_tokens(scores, is_padding, add_ranks)
    mean = importance.mean()
    return (importance - mean).square().mean() / mean.square().clamp(min=torch.finfo(mean.dtype).tiny)


def quantile_loss(
    scores: Float[Tensor, "T E"],
    threshold: Float[Tensor, " E"],
    *,
    fraction: float,
    is_padding: Bool[Tensor, " T"] | None = None,
    add_ranks: AddRanks | None = None,
) -> Float[Tensor, ""]:
    """The pinball loss whose minimum is the threshold that a given fraction of each expert's scores reaches.

    Its gradient moves the threshold alone, never the router: by at most 1 per expert, down where fewer than
    `fraction` of the tokens reach it, up where more do. This is how expert choice learns to decide causally.

    References:
        Koenker and Bassett, "Regression Quantiles", Econometrica 46, 1978, equation 3.2.

    Example:
        >>> import torch
        >>> threshold = torch.zeros(1, requires_grad=True)
        >>> quantile_loss(torch.tensor([[0.2], [0.8]]), threshold, fraction=0.5).backward()
        >>> threshold.grad.tolist()  # both scores reach it, and only half should: up
        [-0.5]
    """
    excess = scores.detach() - threshold
    per_token = torch.maximum((1.0 - fraction) * excess, -fraction * excess)
    return _mean_over_tokens(per_token, is_padding, add_ranks).sum()


def reduce_counts(expert_counts: Int[Tensor, " E"], group: dist.ProcessGroup | None) -> Int[Tensor, " E"]:
    """Add the counts of all ranks of a data-parallel group; without torch.distributed, the counts as they are.

    Example:
        >>> import torch
        >>> reduce_counts(torch.tensor([3, 1]), None).tolist()
        [3, 1]
    """
    if not (dist.is_available() and dist.is_initialized()):
        return expert_counts
    total = expert_counts.clone()
    dist.all_reduce(total, group=group)
    return total


def step_selection_bias(
    bias: Float[Tensor, " E"], expert_counts: Int[Tensor, " E"], *, rate: float
) -> Float[Tensor, " E"]:
    """Move each expert's selection bias by one step against its load: bias + rate * sign(mean - counts).

    References:
        Wang et al., "Auxiliary-Loss-Free Load Balancing", 2024, https://arxiv.org/abs/2408.15664, algorithm 1.

    Example:
        >>> import torch
        >>> step_selection_bias(torch.zeros(2), torch.tensor([3, 1]), rate=0.5).tolist()
        [-0.5, 0.5]
    """
    counts = expert_counts.to(bias.dtype)
    return bias + rate * (counts.mean() - counts).sign()


class _AddLossGradient(torch.autograd.Function):
    """Identity on `values` in the forward; in the backward the loss gets gradient 1, as if it had been added."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, loss: Tensor) -> Tensor:
        ctx.loss_like = (loss.shape, loss.dtype, loss.device)
        return values.view_as(values)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        shape, dtype, device = ctx.loss_like
        return grad, torch.ones(shape, dtype=dtype, device=device)


def add_loss_gradient(values: Float[Tensor, ...], loss: Float[Tensor, ""]) -> Float[Tensor, ...]:
    """Return `values`, and add the loss's gradient to whatever gradient flows back through them.

    The effect on gradients is that of adding `loss` to the training loss, without having to carry it there: exact
    under gradient accumulation, activation recomputation, data parallel and compilation, for each backward pass
    through `values` adds it once.

    Example:
        >>> import torch
        >>> x = torch.tensor(3.0, requires_grad=True)
        >>> add_loss_gradient(5 * x, x**2).backward()
        >>> x.grad.item()
        11.0
    """
    result: Tensor = _AddLossGradient.apply(values, loss)  # type: ignore[no-untyped-call]
    return result


class _CountInBackward(torch.autograd.Function):
    """Identity; adds counts to a tally when, and only when, the gradient comes back."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, counts: Tensor, tally: Tensor) -> Tensor:
        ctx.save_for_backward(counts)
        ctx.tally = tally
        return values.view_as(values)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        ctx.tally.add_(ctx.saved_tensors[0])
        return grad, None, None


def count_in_backward(
    values: Float[Tensor, ...], counts: Int[Tensor, " E"], tally: Int[Tensor, " E"]
) -> Float[Tensor, ...]:
    """Return `values`, and add `counts` to `tally` once for each backward pass through them.

    A forward pass that is recomputed (activation checkpointing) or never trained on is therefore not counted.
    """
    result: Tensor = _CountInBackward.apply(values, counts, tally)  # type: ignore[no-untyped-call]
    return result


def _shares(scores: Float[Tensor, "T E"]) -> Float[Tensor, "T E"]:
    return F.normalize(scores, p=1.0, dim=1, eps=torch.finfo(scores.dtype).tiny)


def _mean_over_tokens(
    values: Float[Tensor, "T n"], is_padding: Bool[Tensor, " T"] | None, add_ranks: AddRanks | None
) -> Float[Tensor, " n"]:
    if is_padding is None:
        return _divide(values.sum(dim=0), values.new_tensor(values.shape[0]), add_ranks)
    is_real = (~is_padding).to(values.dtype)
    return _divide(values.masked_fill(is_padding[:, None], 0.0).sum(dim=0), is_real.sum(), add_ranks)


def _divide(total: Float[Tensor, " n"], count: Float[Tensor, ""], add_ranks: AddRanks | None) -> Float[Tensor, " n"]:
    """Divide a sum by a count; 0 where nothing was counted. Both of all ranks, where `add_ranks` is given."""
    if add_ranks is not None:
        sums = add_ranks(torch.cat([total, count[None]]))
        total, count = sums[:-1], sums[-1]
    return total / count.clamp(min=1)
