"""Work of a step and its floor: by hand, and by the laws of a floor."""

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headgate.errors import InputError
from headgate.planning.expected import MachineRates, expect_decode
from headgate.planning.formats import FORMATS
from headgate.planning.hardware import find_device
from headgate.planning.memory import Parallel, Precision
from headgate.planning.parameters import CacheLayer, Role
from headgate.planning.roofline import (
    attended_pairs,
    attention_flops,
    decode_work,
    dense_weight_bytes,
    exchanged_bytes,
    floor_time,
    matrix_flops,
    prefill_work,
    refuse_broken_floor,
)
from headgate.planning.routes import uniform_routes
from planning.shapes import D_FF, D_MODEL, NUM_WORDS, dense, moe, routed_layer

LAWS = settings(deadline=None, max_examples=60)
BF16 = Precision(dense=FORMATS["bf16"], experts=FORMATS["bf16"], cache=FORMATS["bf16"])
EXPERT = 3 * D_MODEL * D_FF
H200 = find_device("h200")


def work(shape, *, batch=1, context=10, span=1, copies=1):
    touches = uniform_routes(shape, span=span).step
    return decode_work(shape, BF16, touches, batch=batch, context=context, span=span, copies=copies)


def test_a_decoding_step_by_hand():
    shape = moe()
    found = work(shape)
    dense_parameters = 8 * D_MODEL**2 + 2 * 8 * D_MODEL + NUM_WORDS * D_MODEL + 5 * D_MODEL
    assert found.dense_bytes == 2 * dense_parameters
    assert found.experts_bytes == pytest.approx(2 * 2 * 2 * EXPERT)  # two layers, two experts, two bytes
    assert found.cache_bytes == 2 * 2 * D_MODEL * 10 * 2
    active = 8 * D_MODEL**2 + 2 * 8 * D_MODEL + NUM_WORDS * D_MODEL + 2 * 2 * EXPERT
    # The new token attends to the ten before it and to itself.
    assert found.total_flops == 2 * active + 2 * 2 * 2 * D_MODEL * 11


def test_speculation_is_the_union_over_the_tokens_of_a_step():
    one, three = work(moe()), work(moe(), span=3)
    assert three.dense_bytes == one.dense_bytes
    assert one.experts_bytes < three.experts_bytes < 3 * one.experts_bytes
    assert three.experts_bytes == pytest.approx(work(moe(), batch=3).experts_bytes)
    assert three.cache_bytes == one.cache_bytes


def test_copies_of_the_experts_each_serve_their_part():
    assert work(moe(), batch=8, copies=4).experts_bytes == work(moe(), batch=2).experts_bytes


def test_a_tied_embedding_is_read_and_multiplied_once_as_the_head():
    tied = moe(weights=tuple(one for one in moe().weights if one.role is not Role.HEAD), tied_head=NUM_WORDS * D_MODEL)
    assert dense_weight_bytes(tied, BF16) == dense_weight_bytes(moe(), BF16)
    assert work(tied).total_flops == work(moe()).total_flops
    active = tied.active()
    assert active["with_head"] == active["with_embeddings_and_head"] == moe().active()["with_head"]


def test_a_prompt_needs_logits_of_its_last_token_alone():
    flops = matrix_flops(moe(), BF16, num_tokens=7, num_logits=1)
    per_token = 2 * (8 * D_MODEL**2 + 2 * 8 * D_MODEL + 2 * 2 * EXPERT)
    assert flops == {"bf16": 7 * per_token + 2 * NUM_WORDS * D_MODEL}


def test_each_format_is_multiplied_in_its_own_arithmetic():
    precision = Precision(dense=FORMATS["fp8"], experts=FORMATS["mxfp4"], cache=FORMATS["bf16"])
    flops = matrix_flops(moe(), precision, num_tokens=1, num_logits=1)
    assert flops["fp4"] == 2 * 2 * 2 * EXPERT
    assert flops["fp8"] == 2 * 8 * D_MODEL**2
    assert flops["bf16"] == 2 * (2 * 8 * D_MODEL + NUM_WORDS * D_MODEL)


@LAWS
@given(
    st.one_of(st.none(), st.integers(1, 12)),
    st.one_of(st.none(), st.integers(1, 12)),
    st.integers(0, 20),
    st.integers(1, 9),
)
def test_attended_pairs_are_counted(window, attended, context, new_tokens):
    layer = CacheLayer(layer_index=0, values_per_token=1.0, window=window, attended=attended)
    bounds = [bound for bound in (window, attended) if bound is not None]
    counted = sum(min([context + i + 1, *bounds]) for i in range(new_tokens))
    assert attended_pairs(layer, context=context, new_tokens=new_tokens) == counted


def test_a_latent_costs_more_for_each_pair_when_decoding_than_in_a_prompt():
    layer = CacheLayer(layer_index=0, values_per_token=1.0, score_width=100, prompt_score_width=30, is_latent=True)
    shape = moe(cache=(layer,))
    assert attention_flops(shape, batch=2, context=9, new_tokens=1) == 2 * 2 * 100 * 10
    assert attention_flops(shape, batch=2, context=0, new_tokens=4) == 2 * 2 * 30 * 10


def test_a_token_is_sent_once_to_each_other_rank_and_its_sum_comes_back():
    ranks = uniform_routes(moe(), num_ranks=4).ranks
    sent = exchanged_bytes(moe(), ranks, num_tokens=10, num_ranks=4, item=2)
    assert sent == pytest.approx(2 * 10 * 2 * ranks[0] * 0.75 * D_MODEL * 2)
    assert ranks[0] < 2  # fewer than K, for two of its experts may share a rank
    one = uniform_routes(moe(), num_ranks=1).ranks
    assert exchanged_bytes(moe(), one, num_tokens=10, num_ranks=1, item=2) == 0


def test_latent_experts_are_sent_at_their_own_width():
    half = moe(routed=tuple(routed_layer(i, d_model=D_MODEL // 2) for i in range(2)))
    ranks = uniform_routes(half, num_ranks=4).ranks
    whole = exchanged_bytes(moe(), ranks, num_tokens=1, num_ranks=4, item=2)
    assert exchanged_bytes(half, ranks, num_tokens=1, num_ranks=4, item=2) == whole / 2


@LAWS
@given(st.integers(1, 500), st.integers(1, 5000))
def test_a_larger_batch_takes_longer_and_a_token_of_it_less(batch, context):
    small, large = (
        floor_time(work(moe(), batch=size, context=context), H200, Parallel()) for size in (batch, batch + 1)
    )
    assert small.time_s <= large.time_s
    assert large.time_s / (batch + 1) <= small.time_s / batch * (1 + 1e-12)
    assert small.time_s == max(small.memory_s, small.arithmetic_s, small.exchange_s)


def test_what_bounds_a_step_is_the_longest_part():
    few = floor_time(work(moe()), H200, Parallel())
    assert few.bound == "memory"
    touches = uniform_routes(moe()).token
    many = floor_time(prefill_work(moe(), BF16, touches, batch=8, context=4096), H200, Parallel())
    assert many.bound == "arithmetic"
    sending = dataclasses.replace(work(moe()), exchanged_bytes=1e9)
    assert floor_time(sending, H200, Parallel(expert=8, data=8)).bound == "exchange"
    linkless = find_device("rtx-4090")
    assert floor_time(sending, linkless, Parallel(expert=8, data=8)).exchange_s == 0


def test_ranks_share_the_time():
    one = floor_time(work(moe(), batch=8), H200, Parallel())
    all_shared = floor_time(work(moe(), batch=8), H200, Parallel(expert=2, tensor=2))
    assert all_shared.memory_s == pytest.approx(one.memory_s / 2)
    assert all_shared.arithmetic_s == pytest.approx(one.arithmetic_s / 2)


def test_a_floor_that_a_measurement_has_broken_is_refused():
    refuse_broken_floor(0.002, 0.002, device="h200")
    message = r"measured \(=1 ms a step\) is below the floor of 2 ms .* device h200 give, so no ceiling is printed"
    with pytest.raises(InputError, match=message):
        refuse_broken_floor(0.002, 0.001, device="h200")


def test_the_parts_of_an_expected_step_add_up():
    rates = MachineRates(
        batch=1, context=10, layer_matrices=1e6, head=2e6, experts=4e6, cache=8e6, layer_s=0.5, step_s=0.25
    )
    shape = moe()
    found = expect_decode(shape, BF16, uniform_routes(shape).step, rates)
    done, head = work(shape), 2 * NUM_WORDS * D_MODEL
    assert found.layer_matrices_s == (done.dense_bytes - head) / 1e6
    assert found.head_s == head / 2e6
    assert found.experts_s == done.experts_bytes / 4e6
    assert found.cache_s == done.cache_bytes / 8e6
    assert found.overhead_s == 2 * 0.5 + 0.25
    parts = found.to_dict()
    assert parts.pop("time_s") == pytest.approx(sum(parts.values()))
    assert rates.to_dict()["batch"] == 1


def test_a_dense_model_touches_no_expert():
    assert work(dense()).experts_bytes == 0
    assert matrix_flops(dense(), BF16, num_tokens=1, num_logits=1)["bf16"] > 0
