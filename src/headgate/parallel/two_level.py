"""The exchange in two levels: a token crosses once to each node that owns one of its experts, and is spread there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple, Self

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh

from headgate.errors import InputError
from headgate.flow import DispatchPlan
from headgate.parallel.exchange import Exchange, RunExperts, Traffic
from headgate.parallel.routes import Placement


class TwoLevelExchange(NamedTuple):
    """How tokens travel: to the rank of the same place in each node that owns one of their experts, and on from there.

    A node adds up its ranks' partial sums, in rank order, and sends one sum back; a token's own rank adds up those of
    the nodes, in node order. Between nodes, where links are slow, a token's row so goes once to each node instead of
    once to each rank; within nodes it makes an extra step. Used as `Exchange`.

    Attributes:
        across: among the ranks of the same place in each node; to it, a node is what a rank is to a flat exchange.
        within: among the ranks of this node.
        rank: this one, over all nodes.

    References:
        DeepSeek-AI, "DeepSeek-V3 Technical Report", 2024, https://arxiv.org/abs/2412.19437, section 3.2.2: tokens
        travel first to the GPU of the same index in each node, and then within it.
    """

    across: Exchange
    within: Exchange
    rank: int

    @classmethod
    def over(cls, mesh: DeviceMesh, placement: Placement) -> Self:
        """Exchange over a mesh of the dimensions ("node", "ep").

        Args:
            mesh: rank r is at place r mod P of node r // P, for P ranks of a node.
            placement: of the layer, over all ranks.
        """
        node, place = mesh.get_coordinate() or (0, 0)
        num_nodes, per_node = mesh.shape
        rank = node * per_node + place
        across = place_on_nodes(placement, num_nodes=num_nodes)
        within = place_in_node(placement, node, num_nodes=num_nodes)
        return cls(
            across=Exchange(group=mesh.get_group("node"), rank=node, placement=across, source=rank),
            within=Exchange(group=mesh.get_group("ep"), rank=place, placement=within, source=place),
            rank=rank,
        )

    def run(
        self,
        x: Float[Tensor, "T D"],
        plan: DispatchPlan,
        combine_weights: Float[Tensor, "A B"],
        run_experts: RunExperts,
        *,
        num_experts: int,
        meanwhile: Callable[[], Tensor] | None = None,
    ) -> tuple[Float[Tensor, "T D"], Tensor | None, Traffic]:
        """Send tokens to their experts' nodes, spread them there, and add up; see `Exchange.run`.

        y[t] = sum over nodes n, rising, of (sum over the ranks r of n, rising, of partial[r, t]); each sum runs in
        float32 (float64 for float64), and that of a node travels in the dtype of `x`.

        Returns:
            [T, D] in the dtype of `x`; what `meanwhile` returned; what this rank sent, both for its own tokens and for
            those that it passed on.
        """
        node_experts = self.within.placement.num_experts
        has_zero_compute = num_experts - len(self.within.placement.rank_experts[self.within.rank])
        passed_on: list[Traffic] = []

        def run_node(tokens: Tensor, arrived: DispatchPlan, weights: Tensor) -> Tensor:
            partial, _, traffic = self.within.run(tokens, arrived, weights, run_experts, num_experts=num_experts)
            passed_on.append(traffic)
            return partial

        y, beside, across = self.across.run(
            x, plan, combine_weights, run_node, num_experts=node_experts + has_zero_compute, meanwhile=meanwhile
        )
        return y, beside, self._join(across, passed_on[0])

    def _join(self, across: Traffic, within: Traffic) -> Traffic:
        """What was sent on both levels, by rank over all nodes."""
        num_nodes, per_node = len(across.rows_sent), len(within.rows_sent)
        node, place = divmod(self.rank, per_node)

        def spread(over_nodes: tuple[int, ...], over_places: tuple[int, ...]) -> tuple[int, ...]:
            sent = [0] * (num_nodes * per_node)
            sent[place::per_node] = over_nodes
            for index, count in enumerate(over_places):
                sent[node * per_node + index] += count
            return tuple(sent)

        return replace(
            across,
            rows_sent=spread(across.rows_sent, within.rows_sent),
            rows_returned=spread(across.rows_returned, within.rows_returned),
            choices_sent=spread(across.choices_sent, within.choices_sent),
            rows_run=within.rows_run,
            count_bytes=across.count_bytes + within.count_bytes,
        )


def place_on_nodes(placement: Placement, *, num_nodes: int) -> Placement:
    """See each node as one rank: the experts of its ranks follow each other.

    Args:
        placement: over W ranks, `num_nodes` times as many as a node has.
        num_nodes: which divides W.

    Example:
        >>> import numpy as np
        >>> from headgate.layout import ExpertLayout
        >>> layout = ExpertLayout(device_experts=np.array([[[0], [1], [2], [3]]]), num_experts=4)
        >>> nodes = place_on_nodes(Placement.of_layer(layout, 0), num_nodes=2)
        >>> nodes.rank_of_physical.tolist(), nodes.local_of_physical.tolist(), nodes.rank_experts
        ([0, 0, 1, 1], [0, 1, 0, 1], ((0, 1), (2, 3)))
    """
    per_node = len(placement.rank_experts) // num_nodes
    first = _first_numbers(placement, per_node)
    held = placement.rank_experts
    return replace(
        placement,
        rank_of_physical=placement.rank_of_physical // per_node,
        local_of_physical=placement.local_of_physical + first[placement.rank_of_physical],
        rank_experts=tuple(sum(held[at : at + per_node], ()) for at in range(0, len(held), per_node)),
    )


def place_in_node(placement: Placement, node: int, *, num_nodes: int) -> Placement:
    """Where the experts of one node live, by the numbers that `place_on_nodes` gives them; none has a replica.

    Example:
        >>> import numpy as np
        >>> from headgate.layout import ExpertLayout
        >>> layout = ExpertLayout(device_experts=np.array([[[0, 1], [2, -1], [3, 1], [0, 2]]]), num_experts=4)
        >>> inside = place_in_node(Placement.of_layer(layout, 0), 0, num_nodes=2)
        >>> inside.rank_of_physical.tolist(), inside.local_of_physical.tolist(), inside.rank_experts
        ([0, 0, 1], [0, 1, 0], ((0, 1), (2,)))
    """
    per_node = len(placement.rank_experts) // num_nodes
    counts = [len(experts) for experts in placement.rank_experts[node * per_node : (node + 1) * per_node]]
    number = torch.arange(sum(counts))
    rank = torch.arange(per_node).repeat_interleave(torch.tensor(counts))
    first = torch.tensor([0, *counts]).cumsum(0)
    return Placement(
        replicas=number[:, None],
        rank_of_physical=rank,
        local_of_physical=number - first[rank],
        rank_experts=tuple(tuple(range(int(first[i]), int(first[i + 1]))) for i in range(per_node)),
    )


def _first_numbers(placement: Placement, per_node: int) -> Tensor:
    """[W] the experts of the ranks before each one in its node."""
    counts = torch.tensor([len(experts) for experts in placement.rank_experts]).view(-1, per_node)
    return (counts.cumsum(1) - counts).flatten()


def make_exchange(mesh: DeviceMesh, placement: Placement) -> Exchange | TwoLevelExchange:
    """The exchange that fits a mesh: directly to each rank, or by nodes.

    Args:
        mesh: of one dimension, or of the two ("node", "ep").
        placement: of the layer, over all of its ranks.
    """
    if mesh.ndim == 2:
        return TwoLevelExchange.over(mesh, placement)
    rank = mesh.get_local_rank()
    return Exchange(group=mesh.get_group(), rank=rank, placement=placement, source=rank)


def as_one_dimension(mesh: DeviceMesh) -> DeviceMesh:
    """All ranks of a mesh in one dimension, those of a node after each other.

    Raises:
        InputError: the mesh has several dimensions, and they are not ("node", "ep").
    """
    if mesh.ndim == 1:
        return mesh
    if mesh.mesh_dim_names != ("node", "ep"):
        raise InputError(
            f"mesh (={mesh.mesh_dim_names}) must have one dimension, or the two ('node', 'ep'); pass a part of it, "
            'such as mesh["ep"]'
        )
    return mesh._flatten()
