import dataclasses

import pytest
import torch

import headgate
from headgate.observe.noted import noted_layers
from traces import random_trace

SPEC = headgate.preset("mixtral", num_experts=4, top_k=2)


def layer_of(entry):
    trace = random_trace(layers=(3,), num_experts=6)
    trace.metadata["layers"] = [entry]
    counts = torch.tensor([[9, 9, 9, 9, 0, 0]])
    return noted_layers(dataclasses.replace(trace, counts=counts), top_k=2)[0]


def test_a_layer_with_everything():
    found = layer_of({"path": "a.b", "router": SPEC.to_dict(), "num_shared": 1})
    assert (found.index, found.path, found.spec, found.num_shared) == (3, "a.b", SPEC, 1)
    assert (found.num_experts, found.num_zero_experts, found.num_choices, found.top_k) == (4, 0, 4, 2)


def test_zero_compute_experts_count_apart():
    spec = headgate.preset("longcat_flash", num_experts=4, num_zero_experts=2, top_k=2)
    found = layer_of({"router": spec.to_dict()})
    assert (found.num_experts, found.num_zero_experts, found.num_choices) == (4, 2, 6)


@pytest.mark.parametrize(("name", "num_shared"), [("mixtral", 0), ("deepseek_v3", 1)])
def test_a_recorded_layer_says_whether_it_has_a_shared_expert(name, num_shared):
    layer = headgate.MoE.from_family(name, 8, 4, num_experts=16, top_k=2)
    with headgate.tap(layer) as tape:
        layer(torch.zeros(3, 8))
    trace = headgate.trace_of(layer, tape, token_ids=torch.arange(3))
    assert trace.metadata["layers"][0]["num_shared"] == num_shared
    assert noted_layers(trace, top_k=2)[0].num_shared == num_shared


def test_a_router_in_a_layer_of_ones_own_does_not_know_what_is_beside_it():
    router = headgate.Router(8, SPEC)
    with headgate.tap(router) as tape:
        router(torch.zeros(3, 8))
    trace = headgate.trace_of(router, tape, token_ids=torch.arange(3))
    assert trace.metadata["layers"][0]["num_shared"] is None
    assert noted_layers(trace, top_k=2)[0].num_shared is None


def test_nothing_noted():
    found = noted_layers(random_trace(layers=(1, 5), num_experts=6), top_k=2)
    assert [layer.index for layer in found] == [1, 5]
    assert (found[0].path, found[0].spec, found[0].num_experts, found[0].top_k) == ("", None, 6, 2)


@pytest.mark.parametrize(
    "router",
    [
        {"num_experts": 4, "top_k": 1},
        {"num_experts": 4, "top_k": 1, "of_a_later_version": True},
        {"num_experts": 4, "top_k": 1, "score": 7},
    ],
)
def test_a_router_that_this_version_cant_read_still_tells_its_sizes(router):
    found = layer_of({"router": router})
    assert (found.num_experts, found.top_k) == (4, 1)


@pytest.mark.parametrize("size", [0, -1, 7, 2.0, "4", None, True, [4]])
def test_sizes_that_cant_be_are_those_of_the_arrays(size):
    found = layer_of({"router": {"num_experts": size, "top_k": size}})
    assert (found.spec, found.num_experts, found.top_k) == (None, 6, 2)


def test_a_spec_that_is_wider_than_the_arrays_is_not_believed():
    found = layer_of({"router": headgate.preset("mixtral", num_experts=8).to_dict()})
    assert (found.spec, found.num_experts) == (None, 6)


@pytest.mark.parametrize("size", [3, 1])
def test_fewer_experts_than_got_rows_are_not_believed(size):
    assert layer_of({"router": {"num_experts": size}}).num_experts == 6
    found = layer_of({"router": headgate.preset("mixtral", num_experts=size, top_k=1).to_dict()})
    assert (found.spec, found.num_experts) == (None, 6)
