"""`Spread`: how one layer's experts are spread over ranks, whatever module holds their weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Self

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Shard

from headgate.errors import InputError
from headgate.flow import DispatchPlan
from headgate.parallel.exchange import Exchange, RunExperts, Traffic
from headgate.parallel.replicas import GradientRule
from headgate.parallel.routes import Placement
from headgate.parallel.two_level import TwoLevelExchange, as_one_dimension, make_exchange

_KEPT = "_headgate_spread"
"""The attribute of an experts module that holds its `Spread`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """How one layer's experts are spread over W ranks.

    Attributes:
        mesh: of one dimension, or of two, ("node", "ep").
        ranks: the same ranks in one dimension.
        placement: where each expert lives.
        exchange: how tokens travel.
        rule: what becomes of the weights' gradients.
        weights: the module's parameters that are stacked by expert, by name.
        watcher: what is told of each forward pass, for the time of a measurement.
    """

    mesh: DeviceMesh
    ranks: DeviceMesh
    placement: Placement
    exchange: Exchange | TwoLevelExchange
    rule: GradientRule
    weights: tuple[str, ...]
    watcher: Callable[[Traffic], None] | None = None

    @classmethod
    def over(
        cls, mesh: DeviceMesh, placement: Placement, *, weights: tuple[str, ...], average_gradients: bool = True
    ) -> Self:
        """Spread experts over the ranks of a mesh.

        Args:
            mesh: of one dimension, or of two, ("node", "ep").
            placement: of the layer, over all of its ranks.
            weights: the parameters that are stacked by expert.
            average_gradients: whether to divide gradients by W; see `ExpertParallel`.

        Raises:
            InputError: a mesh of other dimensions.
        """
        ranks = as_one_dimension(mesh)
        factor = 1.0 / ranks.size() if average_gradients else 1.0
        return cls(
            mesh=mesh,
            ranks=ranks,
            placement=placement,
            exchange=make_exchange(mesh, placement),
            rule=GradientRule(placement, ranks.get_group(), ranks.get_local_rank(), factor),
            weights=weights,
        )

    def moved_to(self, placement: Placement) -> Self:
        """The same with experts in other places; their weights are the caller's to bring."""
        exchange = make_exchange(self.mesh, placement)
        return replace(self, placement=placement, exchange=exchange, rule=self.rule._replace(placement=placement))

    @property
    def num_experts(self) -> int:
        """E."""
        return self.placement.num_experts

    @property
    def local_experts(self) -> tuple[int, ...]:
        """The experts on this rank, in the order of its weights."""
        return self.placement.rank_experts[self.exchange.rank]

    def run(
        self,
        x: Float[Tensor, "T D"],
        plan: DispatchPlan,
        combine_weights: Float[Tensor, "A B"],
        run_experts: RunExperts,
        *,
        meanwhile: Callable[[], Tensor] | None = None,
    ) -> tuple[Float[Tensor, "T D"], Tensor | None]:
        """Send each token to its experts' ranks, and add up what they return; see `Exchange.run`."""
        has_zero_compute = plan.num_experts > self.num_experts
        y, beside, traffic = self.exchange.run(
            x,
            plan,
            combine_weights,
            run_experts,
            num_experts=len(self.local_experts) + has_zero_compute,
            meanwhile=meanwhile,
        )
        if self.watcher is not None:
            self.watcher(traffic)
        return y, beside

    def shard(self, local: Tensor) -> DTensor:
        """See this rank's part of a weight, [number of its experts, ...], as its shard of all physical experts."""
        num_physical = sum(map(len, self.placement.rank_experts))
        shape = torch.Size([num_physical, *local.shape[1:]])
        stride = torch.empty(shape, device="meta").stride()
        return DTensor.from_local(local, self.ranks, [Shard(0)], run_check=False, shape=shape, stride=stride)


def keep_spread(experts: nn.Module, spread: Spread) -> None:
    """Note on a module how its experts are spread."""
    setattr(experts, _KEPT, spread)


def spread_of(experts: nn.Module) -> Spread | None:
    """How a module's experts are spread over ranks; None where they are not."""
    found: Spread | None = vars(experts).get(_KEPT)
    return found


def set_local(experts: nn.Module, name: str, local: Tensor, *, requires_grad: bool) -> None:
    """Make a weight of this rank's part of it, [number of local experts, ...], as the module's spread says."""
    spread = spread_of(experts)
    assert spread is not None  # `keep_spread` comes first.
    setattr(experts, name, nn.Parameter(spread.shard(local), requires_grad=requires_grad))


def find_spread(model: nn.Module) -> dict[str, tuple[nn.Module, Spread]]:
    """Every module whose experts are spread over ranks, and how, by its path, in model order."""
    modules = ((path, module, spread_of(module)) for path, module in model.named_modules())
    return {path: (module, spread) for path, module, spread in modules if spread is not None}


def require_spread(model: nn.Module) -> dict[str, tuple[nn.Module, Spread]]:
    """The same.

    Raises:
        InputError: there is none.
    """
    found = find_spread(model)
    if not found:
        raise InputError(
            f"model (={type(model).__name__}) holds no sharded experts; apply headgate.parallel.ExpertParallel on a "
            "mesh of two or more ranks first"
        )
    return found
