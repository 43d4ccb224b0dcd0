"""A layer on several ranks and on one: what the ranks run, and how their results are put side by side."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor.parallel import parallelize_module

import headgate
from compare import assert_close
from headgate.layout import ExpertLayout
from headgate.parallel import ExpertParallel

D, F = 8, 12


@dataclass(frozen=True)
class Case:
    """A layer, the tokens of each rank, and where experts live; the same on every rank.

    `tokens` has one entry per rank; `slots` is the layout [W][S], None = dealt in order.
    """

    tokens: Sequence[int]
    router: str = "mixtral"
    num_experts: int = 6
    options: dict[str, Any] = field(default_factory=dict)
    slots: Sequence[Sequence[int]] | None = None
    dtype: torch.dtype = torch.float64
    skew: float = 0.0
    batch_invariant: bool = False
    average_gradients: bool = True

    @property
    def num_ranks(self) -> int:
        return len(self.tokens)

    @property
    def layout(self) -> ExpertLayout | None:
        if self.slots is None:
            return None
        return ExpertLayout(device_experts=np.array([self.slots], dtype=np.int64), num_experts=self.num_experts)

    def make_layer(self) -> headgate.MoE:
        torch.manual_seed(7)
        options = {"d_model": D, "d_ff": F, "num_experts": self.num_experts, "dtype": self.dtype, **self.options}
        layer = headgate.MoE.from_family(self.router, **options)
        layer.batch_invariant = self.batch_invariant
        # Each process would draw noise of its own.
        return layer.eval() if layer.spec.noise != "none" or layer.spec.jitter > 0 else layer

    def make_tokens(self) -> Tensor:
        """The tokens of all ranks, rank after rank."""
        generator = torch.Generator().manual_seed(3)
        x = torch.randn(sum(self.tokens), D, generator=generator, dtype=torch.float64) + self.skew
        return x.to(self.dtype)

    def make_targets(self) -> Tensor:
        """What the loss multiplies each output with: no two are alike, so that no mix-up cancels."""
        generator = torch.Generator().manual_seed(5)
        return torch.randn(sum(self.tokens), D, generator=generator, dtype=torch.float64).to(self.dtype)


@dataclass(frozen=True)
class Outcome:
    """Outputs, chosen experts, and the gradients of sum(y * target), by parameter; experts' in the order of ids."""

    y: Tensor
    expert_ids: Tensor | None
    x_grad: Tensor
    grads: dict[str, Tensor | None]


def run_whole(case: Case) -> Outcome:
    """One process with all tokens and all experts."""
    layer = case.make_layer()
    y, ids, x_grad = _run(layer, case.make_tokens(), case.make_targets())
    return Outcome(y, ids, x_grad, {name: parameter.grad for name, parameter in layer.named_parameters()})


def run_on_rank(case: Case) -> tuple[Outcome, tuple[int, ...]]:
    """This rank's tokens and experts: what it found, and which experts it holds."""
    layer = spread(case)
    return run_layer_on_rank(layer, case), layer.experts.local_experts


def run_layer_on_rank(layer: headgate.MoE, case: Case) -> Outcome:
    """A layer whose experts are spread, on this rank's tokens."""
    rank = dist.get_rank()
    y, ids, x_grad = _run(layer, *(part.split(list(case.tokens))[rank] for part in _inputs(case)))
    grads = {
        name: None if parameter.grad is None else to_local(parameter.grad)
        for name, parameter in layer.named_parameters()
    }
    return Outcome(y, ids, x_grad, grads)


def spread(case: Case) -> headgate.MoE:
    """The case's layer with its experts over all ranks."""
    mesh = dist.init_device_mesh("cpu", (dist.get_world_size(),), mesh_dim_names=("ep",))
    style = ExpertParallel(case.layout, average_gradients=case.average_gradients)
    layer = parallelize_module(case.make_layer(), mesh["ep"], style)
    assert isinstance(layer, headgate.MoE)
    return layer


def to_local(value: Tensor | None) -> Tensor:
    """A rank's part of a DTensor, or the tensor itself; a parameter without gradient has failed."""
    assert value is not None
    return value.to_local() if isinstance(value, dist.tensor.DTensor) else value


def join(parts: Sequence[tuple[Outcome, tuple[int, ...]]], num_experts: int) -> Outcome:
    """The ranks' results as one: tokens in rank order, gradients summed, experts' times the W that divided them.

    Fails where replicas of an expert have other gradients.
    """
    outcomes = [outcome for outcome, _ in parts]
    grads = {}
    for name in outcomes[0].grads:
        if not name.startswith("experts."):
            parts_of_sum = [outcome.grads[name] for outcome in outcomes]
            grads[name] = None if any(part is None for part in parts_of_sum) else torch.stack(parts_of_sum).sum(0)
            continue
        by_expert: dict[int, Tensor] = {}
        for outcome, held in parts:
            for expert, grad in zip(held, outcome.grads[name], strict=True):
                assert torch.equal(by_expert.setdefault(expert, grad), grad), f"replicas of {expert} differ in {name}"
        grads[name] = torch.stack([by_expert[expert] for expert in range(num_experts)]) * len(parts)
    ids = None if outcomes[0].expert_ids is None else torch.cat([outcome.expert_ids for outcome in outcomes])
    return Outcome(
        torch.cat([outcome.y for outcome in outcomes]), ids, torch.cat([outcome.x_grad for outcome in outcomes]), grads
    )


def check_parts(case: Case, begun: Callable[[], Sequence[tuple[Any, ...]]]) -> None:
    """Require that the ranks' results are those of one process: ids equal, all else to rounding.

    Args:
        case: what ran.
        begun: waits for each rank's outcome and experts, and whatever comes after these.
    """
    expected = run_whole(case)
    found = join([part[:2] for part in begun()], case.num_experts)
    if expected.expert_ids is not None:
        assert found.expert_ids.tolist() == expected.expert_ids.tolist()
    terms = max(D, 2 * F, sum(case.tokens)) * case.num_experts
    # Sums over tokens may cancel: their terms are about 1.
    pairs = {"y": (found.y, expected.y), "x": (found.x_grad, expected.x_grad)}
    assert [name for name, grad in found.grads.items() if grad is None] == [
        name for name, grad in expected.grads.items() if grad is None
    ]
    pairs |= {name: (found.grads[name], grad) for name, grad in expected.grads.items() if grad is not None}
    for name, (got, want) in pairs.items():
        assert_close(name, got, want, dtype=case.dtype, terms=terms, scale=1e-1)


def _inputs(case: Case) -> tuple[Tensor, Tensor]:
    return case.make_tokens(), case.make_targets()


def _run(layer: headgate.MoE, x: Tensor, target: Tensor) -> tuple[Tensor, Tensor | None, Tensor]:
    x = x.clone().requires_grad_()
    # Any function of a token alone will do, so that it is the same on one rank and on many.
    words = (x[:, 0].abs() * 1000).long() % layer.spec.vocab_size if layer.spec.vocab_size else None
    with headgate.tap(layer) as tape:
        y = layer(x, token_ids=words)
    (y * target).sum().backward()
    choice = tape[""][0].choice
    return y.detach(), getattr(choice, "expert_ids", None), to_local(x.grad)
