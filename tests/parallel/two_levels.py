"""What the ranks run in the tests of the exchange in two levels."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist
from torch.distributed.tensor.parallel import parallelize_module

import headgate
from headgate.errors import InputError
from headgate.parallel import ExpertParallel, measure_traffic
from headgate.parallel.style import chunk_experts
from parallel import layers
from parallel.layers import Case


def make_mesh(num_nodes):
    return dist.init_device_mesh("cpu", (num_nodes, dist.get_world_size() // num_nodes), mesh_dim_names=("node", "ep"))


def run_in_two_levels(case, num_nodes):
    """This rank's outcome, its experts, and what it sent."""
    layer = parallelize_module(case.make_layer(), make_mesh(num_nodes), ExpertParallel(case.layout))
    with measure_traffic(layer) as sent:
        outcome = layers.run_layer_on_rank(layer, case)
    return outcome, layer.experts.local_experts, sent[""][0]


def refuse_mesh():
    mesh = dist.init_device_mesh("cpu", (2, 2), mesh_dim_names=("dp", "ep"))
    with pytest.raises(InputError) as caught:
        parallelize_module(Case((1, 1, 1, 1)).make_layer(), mesh, ExpertParallel())
    return str(caught.value)


def run_and_count(case, num_nodes):
    """This rank's choices, the rows that its experts ran, what it sent, and the layout."""
    mesh = dist.init_device_mesh("cpu", (case.num_ranks,)) if num_nodes is None else make_mesh(num_nodes)
    layer = parallelize_module(case.make_layer(), mesh, ExpertParallel(case.layout))
    rank = dist.get_rank()
    with headgate.tap(layer) as tape, measure_traffic(layer) as sent, torch.no_grad():
        layer(case.make_tokens().split(list(case.tokens))[rank])
    layout = case.layout or chunk_experts(case.num_experts, num_ranks=case.num_ranks)
    return tape[""][0].choice.expert_ids, sent[""][0].rows_run, sent[""][0], layout
