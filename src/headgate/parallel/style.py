"""`ExpertParallel`: spread a layer's experts over the ranks of a device mesh."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor.parallel import ParallelStyle

from headgate.errors import InputError
from headgate.layout import EMPTY, ExpertLayout
from headgate.nn.moe import MoE
from headgate.parallel.agree import check_agreement
from headgate.parallel.batch import share_batch
from headgate.parallel.experts import ShardedExperts
from headgate.parallel.routes import Placement


class ExpertParallel(ParallelStyle):
    """A style for `torch.distributed.tensor.parallel.parallelize_module`: experts of a `headgate.MoE` over ranks.

    Each rank keeps some experts of the layer, as DTensors, and all else as it is. The tokens of all ranks of the mesh,
    in rank order, are one batch: a token goes once to each rank that owns at least one of its experts, and outputs and
    gradients are those of one process that has the batch and all experts.

    The exchange adds up the gradients of an expert over the tokens of all W ranks, while DDP and FSDP average over
    ranks. With a loss f_r on each rank, and f = sum_r f_r / W, `average_gradients` makes an expert's gradient
    df/dw = (1 / W) sum_r df_r/dw, as it is for the averaged parameters; without, it is sum_r df_r/dw.

    Every rank must run the same layers in the same order, forward and backward, also with no token: its experts may be
    needed. On a mesh of one rank the layer stays as it is.

    Args:
        layout: where experts live; None = dealt in the order of their ids, as `torch.chunk` does. A layout with one
            layer serves all layers that the style is applied to; with more, the n-th application takes its n-th.
        average_gradients: whether to divide the experts' gradients by the number of ranks.

    Raises:
        InputError: on all ranks, when applied: ranks disagree on the layer or the layout, or the layout does not fit.

    References:
        Lepikhin et al., "GShard: Scaling Giant Models with Conditional Computation and Automatic Sharding", 2020,
        https://arxiv.org/abs/2006.16668, section 3. DeepSeek-AI, "DeepSeek-V3 Technical Report", 2024,
        https://arxiv.org/abs/2412.19437, section 3.2.2.

    Example:
        >>> import torch, headgate
        >>> from torch.distributed import HashStore, destroy_process_group, init_process_group
        >>> from torch.distributed.tensor.parallel import parallelize_module
        >>> init_process_group("gloo", store=HashStore(), rank=0, world_size=1)
        >>> mesh = torch.distributed.init_device_mesh("cpu", (1,), mesh_dim_names=("ep",))
        >>> layer = headgate.MoE(8, 16, num_experts=4, top_k=2)
        >>> layer = parallelize_module(layer, mesh["ep"], ExpertParallel())
        >>> layer(torch.randn(3, 8)).shape
        torch.Size([3, 8])
        >>> destroy_process_group()
    """

    def __init__(self, layout: ExpertLayout | None = None, *, average_gradients: bool = True) -> None:
        super().__init__()
        self.layout, self.average_gradients = layout, average_gradients
        self._num_applied = 0

    def _apply(self, module: nn.Module, device_mesh: DeviceMesh) -> nn.Module:
        if not isinstance(module, MoE):
            raise InputError(
                f"module (={type(module).__name__}) must be a headgate.MoE; give parallelize_module the path of one, "
                'such as "layers.*.moe"'
            )
        if isinstance(module.experts, ShardedExperts):
            raise InputError(
                "module.experts (=ShardedExperts) are spread over ranks already; use headgate.parallel.relayout to "
                "move them"
            )
        layout = self._layout_of(module, device_mesh)
        check_agreement(_list_facts(module, layout, self._num_applied), device_mesh.get_group())
        check_fit(layout, module.experts.num_experts, device_mesh)
        row = _pick_row(layout, self._num_applied)
        self._num_applied += 1
        if device_mesh.size() == 1:
            return module
        placement = Placement.of_layer(layout, row)
        module.experts = ShardedExperts(
            module.experts, device_mesh, placement, average_gradients=self.average_gradients
        )
        share_batch(module, device_mesh.get_group(), average_gradients=self.average_gradients)
        return module

    def _layout_of(self, module: MoE, mesh: DeviceMesh) -> ExpertLayout:
        return self.layout or chunk_experts(module.experts.num_experts, num_ranks=mesh.size())


def chunk_experts(num_experts: int, *, num_ranks: int) -> ExpertLayout:
    """Deal experts in the order of their ids, as many to each rank as `torch.chunk` gives; the last get fewer, or none.

    Example:
        >>> chunk_experts(5, num_ranks=4).device_experts.tolist()
        [[[0, 1], [2, 3], [4, -1], [-1, -1]]]
    """
    per_rank = -(-num_experts // num_ranks)
    slots = np.full(num_ranks * per_rank, EMPTY, dtype=np.int64)
    slots[:num_experts] = np.arange(num_experts)
    return ExpertLayout(device_experts=slots.reshape(1, num_ranks, per_rank), num_experts=num_experts)


def _list_facts(module: MoE, layout: ExpertLayout, num_applied: int) -> dict[str, Any]:
    """What all ranks must have alike, by name; of the layout, the layer at hand, for all of it may be long."""
    experts, num_rows = module.experts, len(layout.device_experts)
    return {
        "num_experts": experts.num_experts,
        "top_k": module.spec.top_k,
        "d_model": experts.d_model,
        "d_ff": experts.d_ff,
        "dtype": experts.down_proj.dtype,
        "router": module.spec,
        "balance": module.router.balance,
        "experts": experts.spec,
        "shared expert": None if module.shared_expert is None else module.shared_expert.shared,
        "layers of the layout": num_rows,
        "layout": layout.device_experts[min(num_applied, num_rows - 1)].tolist(),
    }


def _pick_row(layout: ExpertLayout, num_applied: int) -> int:
    num_layers = len(layout.device_experts)
    if num_layers == 1:
        return 0
    if num_applied >= num_layers:
        raise InputError(
            f"layout (={num_layers} layers) must have one for each layer that it is applied to, and this is number "
            f"{num_applied + 1}; give a layout with more layers, or with one for all"
        )
    return num_applied


def check_fit(layout: ExpertLayout, num_experts: int, mesh: DeviceMesh) -> None:
    """Require a layout for so many experts on the mesh's ranks.

    Raises:
        InputError: it is for others.
    """
    found = (layout.num_experts, layout.num_devices)
    wanted = (num_experts, mesh.size())
    if found != wanted:
        raise InputError(
            f"layout (={found[0]} experts on {found[1]} devices) must be for the layer's experts and the mesh's ranks "
            f"(={wanted[0]} on {wanted[1]}); plan one with headgate place"
        )
