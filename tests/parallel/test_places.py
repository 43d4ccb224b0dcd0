"""Setting a layer up: who disagrees is named, what can't be is refused. And moving experts while a model trains."""

import pytest
import torch
import torch.distributed as dist
from torch.distributed.tensor.parallel import parallelize_module

import headgate
from compare import assert_close
from headgate.parallel import ExpertParallel, measure_traffic, relayout
from parallel import places
from parallel.layers import Case, F

CASE = Case((4, 3))
SLOTS = ((0, 1, 2, 3), (3, 4, 5, 0))
# Of five steps, each a sum over the tokens of a sum over F.
TERMS = 5 * sum(CASE.tokens) * 2 * F


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_experts": 8}, "num_experts (=8 on rank 1) must be the same on all ranks, and is 6 on ranks 0, 2; "),
        ({"options": {"top_k": 3}}, "top_k (=3 on rank 1) must be the same on all ranks, and is 2 on ranks 0, 2; "),
        ({"options": {"d_model": 4}}, "d_model (=4 on rank 1) must"),
        ({"options": {"d_ff": 4}}, "d_ff (=4 on rank 1) must"),
        ({"dtype": torch.float32}, "dtype (=torch.float32 on rank 1) must"),
        ({"options": {"norm_order": 2.0}}, "router (=RouterSpec("),
        (
            {"slots": ((0, 1), (2, 3), (5, 4))},
            "layout (=[[0, 1], [2, 3], [5, 4]] on rank 1) must be the same on all ranks, and is "
            "[[0, 1], [2, 3], [4, 5]] on ranks 0, 2; build the model from one configuration on every rank",
        ),
    ],
    ids=["E", "K", "D", "F", "dtype", "router", "layout"],
)
def test_ranks_that_disagree_are_named_on_all_ranks(ranks, change, message):
    case = Case((1, 1, 1))
    answers = ranks.run(3, places.set_up_with, case, change, 1)
    assert answers[0] == answers[1] == answers[2]
    assert answers[0].startswith(message)


def test_what_cannot_be_is_refused(ranks):
    said = ranks.run(2, places.apply_wrongly, CASE)[1]
    assert said == {
        "not a layer": "module (=Linear) must be a headgate.MoE; give parallelize_module the path of one, such as "
        '"layers.*.moe"',
        "twice": "module.experts (=ShardedExperts) are spread over ranks already; use headgate.parallel.relayout to "
        "move them",
        "other experts": "layout (=4 experts on 2 devices) must be for the layer's experts and the mesh's ranks (=6 on "
        "2); plan one with headgate place",
        "other ranks": "layout (=6 experts on 3 devices) must be for the layer's experts and the mesh's ranks (=6 on "
        "2); plan one with headgate place",
        "a third layer of two": "layout (=2 layers) must have one for each layer that it is applied to, and this is "
        "number 3; give a layout with more layers, or with one for all",
        "nothing to move": "model (=MoE) holds no sharded experts; apply headgate.parallel.ExpertParallel on a mesh of "
        "two or more ranks first",
        "rows for two, one layer": "layout (=2 layers) must have one, or one for each sharded layer (=1); plan it for "
        "this model",
        "gradients": "experts.gate_up_proj.grad (=(6, 24, 8)) must be None, or it would be lost; call relayout after "
        "optimizer.step() and optimizer.zero_grad()",
        "nothing to measure": "model (=MoE) holds no sharded experts; apply headgate.parallel.ExpertParallel on a mesh "
        "of two or more ranks first",
    }


def test_experts_move_while_a_model_trains(ranks):
    new_places = [SLOTS, ((5, -1, 3, 2), (1, 0, 4, -1)), ((-1,) * 6, tuple(range(6))), SLOTS]
    answers = ranks.run(2, places.train_and_move, CASE, new_places)
    whole_ys, weights = places.train_whole(CASE, 5)
    for number, expected in enumerate(whole_ys):
        y = torch.cat([ys[number] for ys, _ in answers])
        assert_close(f"y {number}", y, expected, dtype=torch.float64, terms=TERMS)
    for _, held in answers:
        for expert, weight in held.items():
            assert_close(f"expert {expert}", weight, weights[expert], dtype=torch.float64, terms=TERMS)
    assert torch.equal(answers[0][1][3], answers[1][1][3])


@pytest.fixture
def lone_mesh():
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield dist.init_device_mesh("cpu", (1,), mesh_dim_names=("ep",))
    dist.destroy_process_group()


def test_on_one_rank_a_layer_stays_as_it_is(lone_mesh):
    layer = headgate.MoE(8, 16, num_experts=4, top_k=2)
    experts = layer.experts
    parallelize_module(layer, lone_mesh["ep"], ExpertParallel())
    assert layer.experts is experts
    relayout(layer, headgate.parallel.style.chunk_experts(4, num_ranks=1))
    with pytest.raises(headgate.errors.InputError, match="on a mesh of two or more ranks"), measure_traffic(layer):
        pass
