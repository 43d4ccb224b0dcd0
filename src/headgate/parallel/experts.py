"""`ShardedExperts`: one rank's part of a layer's experts, in the place of `Experts`."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor

from headgate.errors import BackendError
from headgate.experts import ExpertWeights, run_experts
from headgate.flow import DispatchPlan
from headgate.kernels.experts_call import Weights
from headgate.nn.experts import Experts, compute_dtype
from headgate.parallel.routes import Placement
from headgate.parallel.spread import Spread, keep_spread, set_local, spread_of


class ShardedExperts(Experts):
    """The experts of one layer, spread over the ranks of a mesh; called like `Experts`, by all ranks together.

    Parameters keep their names. Each is a DTensor, `Shard(0)` over the physical experts in rank order, so on a rank
    [number of its experts, ...]; an empty slot takes no memory. Where ranks hold other numbers of experts than
    `torch.chunk` would deal, what DTensor assumes of shards is not so: `full_tensor()` and redistribution don't work,
    arithmetic and optimizers do.

    Args:
        experts: all of the layer's, with weights (this rank's are copied) or on the meta device.
        mesh: of one dimension, W ranks; or of two, ("node", "ep"), whose exchange is in two levels.
        placement: of the layer, for W ranks.
        average_gradients: whether to divide gradients by W; see `ExpertParallel`.
    """

    def __init__(
        self, experts: Experts, mesh: DeviceMesh, placement: Placement, *, average_gradients: bool = True
    ) -> None:
        nn.Module.__init__(self)
        self.spec, self.d_model, self.d_ff = experts.spec, experts.d_model, experts.d_ff
        self.num_experts, self.recompute = experts.num_experts, experts.recompute
        self._up_name = experts._up_name
        names = tuple(name for name, _ in experts.named_parameters())
        keep_spread(self, Spread.over(mesh, placement, weights=names, average_gradients=average_gradients))
        for name, parameter in experts.named_parameters():
            held = torch.tensor(self.local_experts, dtype=torch.int64, device=parameter.device)
            set_local(self, name, parameter.detach().index_select(0, held), requires_grad=parameter.requires_grad)
        for name in ("down_proj_bias", f"{self._up_name}_bias"):
            if getattr(experts, name) is None:
                self.register_parameter(name, None)
        self.train(experts.training)

    @property
    def spread(self) -> Spread:
        """Where its experts are, and how tokens get there."""
        found = spread_of(self)
        assert found is not None  # Since it was made.
        return found

    def passes_over_rows(self, x: Float[Tensor, "T D"]) -> bool:
        """Whether rows for nobody do no harm: they would travel."""
        return False

    @property
    def local_experts(self) -> tuple[int, ...]:
        """The experts on this rank, in the order of its weights."""
        return self.spread.local_experts

    def reset_parameters(self) -> None:
        """Draw new weights: with one seed on all ranks, those that one process draws for all experts."""
        fans = {self._up_name: self.d_model, f"{self._up_name}_bias": self.d_model}
        for name, fan in {**fans, "down_proj": self.d_ff, "down_proj_bias": self.d_ff}.items():
            parameter = getattr(self, name)
            if parameter is not None:
                self._reset(parameter.detach().to_local(), 1.0 / math.sqrt(fan))

    def _reset(self, local: Float[Tensor, "N ..."], bound: float) -> None:
        drawn = local.new_empty(local.shape[1:])
        numbers = {expert: number for number, expert in enumerate(self.local_experts)}
        for expert in range(self.num_experts):
            # The other ranks' experts are drawn, too, so that the generator goes on alike everywhere.
            drawn.uniform_(-bound, bound)
            if expert in numbers:
                local[numbers[expert]] = drawn

    def matrices(self) -> Weights:
        """This rank's parameters as plain tensors: first projection, `down_proj`, and the biases of both or None."""
        up, down, up_bias, down_bias = (None if p is None else _local(p) for p in super().matrices())
        assert up is not None  # As in `Experts`, only the biases may be missing.
        assert down is not None
        return up, down, up_bias, down_bias

    # Message lengths are known only at run time: the exchange is not compiled, all around it is.
    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def forward(
        self,
        x: Float[Tensor, "T D"],
        plan: DispatchPlan,
        combine_weights: Float[Tensor, "A B"],
        apply_to: Literal["output", "input"] = "output",
        *,
        batch_invariant: bool = False,
        beside: Callable[[Tensor], Tensor] | None = None,
    ) -> Float[Tensor, "T D"]:
        """Send each token to its experts' ranks, and add up what they return; see `Experts.forward`.

        Args:
            x: [T, D], this rank's tokens; T may differ from rank to rank, and be 0.
            plan: of these tokens, for the experts of the whole layer.
            combine_weights: of the plan's choice.
            apply_to: whether weights multiply the experts' "output" or "input".
            batch_invariant: see `run_experts`.
            beside: the shared expert; it runs while tokens travel.

        Returns:
            [T, D] in the dtype of `x`.

        Raises:
            InputError: tokens and weights differ in dtype, outside autocast.
            BackendError: `batch_invariant` with replicas.
        """
        spread = self.spread
        if batch_invariant and spread.placement.has_replicas:
            raise BackendError(
                "batch_invariant (=True) can't be kept with replicas of experts, for which of them a token is sent to "
                "depends on the tokens before it; use a layout with each expert once"
            )
        dtype = compute_dtype(x, self.down_proj)
        weights = self._bind(dtype)
        function = self.spec.function

        def run_local(tokens: Tensor, local_plan: DispatchPlan, local_weights: Tensor) -> Tensor:
            options: dict[str, Any] = {
                "apply_to": apply_to,
                "batch_invariant": batch_invariant,
                "recompute": self.recompute,
            }
            return run_experts(tokens, local_plan, local_weights, weights, function, **options)

        meanwhile = None if beside is None else lambda: beside(x)
        y, shared = spread.run(x.to(dtype), plan, combine_weights, run_local, meanwhile=meanwhile)
        y = y.to(x.dtype)
        return y if shared is None else y + shared

    def _bind(self, dtype: torch.dtype) -> ExpertWeights:
        """This rank's weights, cast, with the rule for their gradients."""
        names = ("up", "down", "up_bias", "down_bias")
        present = {name: value for name, value in zip(names, self.matrices(), strict=True) if value is not None}
        bound = self.spread.rule.bind(list(present.values()))
        cast = (weight.to(dtype) for weight in bound)
        return ExpertWeights(**dict(zip(present, cast, strict=True)))

    def extra_repr(self) -> str:
        """Sizes, function and this rank's experts."""
        return f"{super().extra_repr()}, local_experts={self.local_experts}"


def _local(parameter: Tensor) -> Tensor:
    assert isinstance(parameter, DTensor)  # `set_local` makes no others.
    local: Tensor = parameter.to_local()
    return local
