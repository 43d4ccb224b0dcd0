"""Memory: bytes by hand, formats against published checkpoints, and ranks that sum to the whole."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headgate.errors import InputError, SpecError
from headgate.planning.formats import FORMATS, find_format
from headgate.planning.memory import (
    Parallel,
    Precision,
    activation_bytes,
    cache_bytes,
    capacity_buffer_bytes,
    choose_precision,
    parse_ranks,
    rank_memory,
    weight_bytes,
    weights_of_ranks,
)
from headgate.planning.parameters import CacheLayer, Role
from planning.shapes import D_FF, D_MODEL, NUM_EXPERTS, NUM_WORDS, dense, group, moe, routed_layer

LAWS = settings(deadline=None, max_examples=60)
BF16 = Precision(dense=FORMATS["bf16"], experts=FORMATS["bf16"], cache=FORMATS["bf16"])


@pytest.mark.parametrize(
    ("name", "block", "num_bytes"),
    [("q8_0", 32, 34), ("q4_k", 256, 144), ("mxfp4", 32, 17), ("mxfp8", 32, 33), ("nvfp4", 16, 9), ("int4", 128, 66)],
)
def test_a_block_takes_the_bytes_that_its_format_says(name, block, num_bytes):
    assert FORMATS[name].tensor_bytes((block,)) == num_bytes
    assert FORMATS[name].tensor_bytes((3, 2 * block)) == 6 * num_bytes


def test_a_part_of_a_block_has_a_scale_of_its_own():
    assert FORMATS["mxfp4"].tensor_bytes((2, 33)) == 33 + 2 * 2
    # DeepSeek's blocks are 128 x 128 with a float32 each: 2 x 2 of them here.
    assert FORMATS["fp8"].tensor_bytes((129, 130)) == 129 * 130 + 4 * 4


def test_torch_names_of_formats_work_and_others_get_a_hint():
    assert find_format("BFloat16") is FORMATS["bf16"]
    with pytest.raises(InputError, match=r"dtype \(=mxfp5\) must be one of fp32, bf16, .*; did you mean mxfp"):
        find_format("mxfp5")


def test_plain_weights_take_their_item_size():
    shape = moe()
    assert sum(weight_bytes(shape, BF16).values()) == 2 * shape.total


def test_only_matrices_are_quantised_and_embedding_head_router_and_norms_stay_wide():
    biases = group(Role.ROUTED_EXPERTS, NUM_EXPERTS, 2, count=1, is_matrix=False)
    shape = moe(weights=(*moe().weights, biases), routed=(routed_layer(0), routed_layer(1, expert_parameters=6146)))
    sizes = weight_bytes(shape, choose_precision(shape, dtype="fp8", expert_dtype="mxfp4"))
    experts = shape.by_role()[Role.ROUTED_EXPERTS] - 16
    assert sizes[Role.ROUTED_EXPERTS] == experts * 17 // 32 + 2 * 16
    assert sizes[Role.ATTENTION] == 8 * (D_MODEL * D_MODEL + 4)
    for role in (Role.EMBEDDING, Role.HEAD, Role.ROUTER, Role.OTHER):
        assert sizes[role] == 2 * shape.by_role()[role]


def test_formats_come_from_the_command_then_the_configuration_then_bf16():
    shape = moe(dtype="fp16", expert_dtype="mxfp4")
    assert choose_precision(moe()).dense.name == "bf16"
    assert [choose_precision(shape).dense.name, choose_precision(shape).experts.name] == ["fp16", "mxfp4"]
    assert choose_precision(shape, dtype="fp32").experts.name == "fp32"
    assert choose_precision(shape, dtype="fp8").cache.name == "bf16"
    assert choose_precision(shape, cache_dtype="fp8").cache.name == "fp8"
    with pytest.raises(InputError, match=r"cache dtype \(=mxfp4\) must be fp32, bf16, fp16 or fp8"):
        choose_precision(shape, cache_dtype="mxfp4")


def test_each_kind_of_cache_keeps_what_it_keeps():
    layers = (
        CacheLayer(layer_index=0, values_per_token=8.0, num_heads=4),
        CacheLayer(layer_index=1, values_per_token=8.0, num_heads=4, window=3),
        CacheLayer(layer_index=2, values_per_token=5.0, is_latent=True),
        CacheLayer(layer_index=3, values_per_token=0.0, state_bytes=100),
        CacheLayer(layer_index=4, values_per_token=0.25),
    )
    assert [layer.kind for layer in layers] == ["full", "sliding", "latent", "state", "full"]
    shape = moe(cache=layers)
    whole = 2 * (8 * 10 + 8 * 3 + 5 * 10) + 100 + math.ceil(2 * 0.25 * 10)
    assert cache_bytes(shape, batch=1, context=10, precision=BF16) == whole
    assert cache_bytes(shape, batch=7, context=10, precision=BF16) == 7 * whole
    # Heads are shared out among 8 ranks as far as there are heads; a latent lies on each.
    shared = 2 * (8 * 10 + 8 * 3) // 4 + 2 * 5 * 10 + math.ceil(100 / 8) + math.ceil(2 * 0.25 * 10)
    assert cache_bytes(shape, batch=1, context=10, precision=BF16, tensor_ranks=8) == shared


def test_activations_and_capacity_buffers_by_hand():
    per_token = 2 * D_MODEL + 2 * (2 * D_MODEL + 3 * D_FF)
    assert activation_bytes(moe(), num_tokens=5, batch=3, precision=BF16) == 5 * per_token * 2 + 4 * 3 * NUM_WORDS
    # 100 tokens x 2 choices over 8 experts: 25 each, and a quarter more.
    found = capacity_buffer_bytes(routed_layer(), num_tokens=100, factor=1.25, item_bytes=2)
    assert found == 2 * 8 * math.ceil(1.25 * 25) * D_MODEL * 2


@st.composite
def ranks(draw):
    tensor, data = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    divisors = [size for size in range(1, tensor * data + 1) if tensor * data % size == 0 and size <= NUM_EXPERTS]
    return Parallel(expert=draw(st.sampled_from(divisors)), tensor=tensor, data=data)


@LAWS
@given(ranks(), st.integers(1, 5), st.sampled_from(["bf16", "fp8", "mxfp4"]))
def test_ranks_sum_to_the_whole(parallel, num_layers, name):
    shape = moe(num_layers)
    precision = choose_precision(shape, dtype=name)
    sizes = weight_bytes(shape, precision)
    found = weights_of_ranks(shape, precision, parallel)
    assert len(found) == parallel.expert
    assert sum(experts for _, _, experts in found) == sizes[Role.ROUTED_EXPERTS]
    # Sharded over one tensor group, and what every rank repeats, are all that is not an expert.
    one_group = weights_of_ranks(shape, precision, Parallel(expert=parallel.tensor, tensor=parallel.tensor))
    sharded = sum(part for part, _, _ in one_group)
    assert sharded + found[0][1] == sum(sizes.values()) - sizes[Role.ROUTED_EXPERTS]
    assert len({replicated for _, replicated, _ in found}) == 1


@LAWS
@given(ranks(), st.integers(1, 64))
def test_no_rank_holds_more_than_one_device_and_the_total_is_its_parts(parallel, batch):
    shape = moe()
    loads = {"batch": batch, "context": 100, "step_tokens": batch}
    one = rank_memory(shape, BF16, Parallel(), **loads)
    many = rank_memory(shape, BF16, parallel, **loads)
    assert many.total_bytes <= one.total_bytes
    parts = many.to_dict()
    assert parts.pop("total_bytes") == sum(parts.values())
    assert one.weight_bytes == sum(weight_bytes(shape, BF16).values())


def test_a_dense_model_has_an_empty_bucket_of_experts():
    found = rank_memory(dense(), BF16, parse_ranks("4"), batch=4, context=8, step_tokens=4)
    assert found.experts_bytes == 0
    assert found.sharded_bytes > 0


@pytest.mark.parametrize(
    ("text", "sizes"),
    [
        ("1", (1, 1, 1)),
        ("8", (8, 1, 8)),
        ("tp=4", (4, 4, 1)),
        ("ep=8,tp=2", (8, 2, 4)),
        ("ep=2, tp=2, dp=3", (2, 2, 3)),
    ],
)
def test_ranks_are_a_number_or_named(text, sizes):
    found = parse_ranks(text)
    assert (found.expert, found.tensor, found.data) == sizes


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0", r"ep \(=0\) must be at least 1"),
        ("ep=3,dp=4", r"ep \(=3\) must divide the number of ranks, tp x dp \(=4\); use ep=4"),
        ("pp=2", r"ranks \(=pp=2\) must be a number or ep=..,tp=..,dp=.."),
        ("-1", r"ranks \(=-1\) must be a number"),
    ],
)
def test_ranks_that_mean_nothing_are_refused(text, message):
    with pytest.raises(InputError, match=message):
        parse_ranks(text)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"top_k": 9}, r"top_k \(=9\) of layers.0.experts must be from 1 to the number of experts \(=8\)"),
        ({"top_k": 0}, r"top_k \(=0\) of layers.0.experts"),
        ({"num_experts": 0}, r"num_experts \(=0\) of layers.0.experts must be at least 1"),
        ({"token_fraction": 1.5}, r"token_fraction \(=1.5\) must be from 0 to 1"),
    ],
)
def test_layers_that_can_not_be_are_refused(values, message):
    with pytest.raises(SpecError, match=message):
        routed_layer(**values)
