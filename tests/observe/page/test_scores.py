import dataclasses

import pytest
import torch

import headgate
from headgate.nn import tap
from headgate.observe.noted import noted_layers
from headgate.observe.page.scores import count_scored, score_again
from headgate.observe.record import selection_scores, trace_of
from traces import random_trace


def recorded(router, **options):
    """A layer, what it decided about 40 tokens, and the trace of that with logits."""
    torch.manual_seed(3)
    layer = headgate.MoE(16, 8, router=router, **options)
    if layer.router.selection_bias is not None:
        layer.router.selection_bias.copy_(torch.linspace(-0.2, 0.2, len(layer.router.selection_bias)))
    layer.eval()
    with tap(layer) as tape, torch.no_grad():
        layer(torch.randn(1, 40, 16))
    trace = trace_of(layer, tape, token_ids=torch.arange(40), with_logits=True)
    return layer, tape[""][0], trace


def scored(trace):
    return score_again(trace, noted_layers(trace, top_k=trace.topk_ids.shape[2]))


@pytest.mark.parametrize(
    ("family", "is_ranked_apart"),
    [("mixtral", False), ("deepseek_v3", True), ("gpt_oss", True), ("deepseek_v2", True), ("llama4", True)],
)
def test_scores_are_those_that_selection_had(family, is_ranked_apart):
    spec = headgate.preset(family, num_experts=32, **({"top_k": 4} if family != "llama4" else {}))
    layer, routing, trace = recorded(spec)
    found = scored(trace)
    # float16 has 11 bits: a logit z is off by at most |z| 2^-11, and no score function here is steeper than 1.
    bound = float(routing.logits.abs().max()) * 2**-11
    torch.testing.assert_close(found.router_scores[0], routing.scores, rtol=0, atol=bound)
    assert (found.select_scores is not None) == is_ranked_apart
    ranked = found.router_scores[0] if found.select_scores is None else found.select_scores[0]
    if spec.group_limit is None:
        expected = selection_scores(routing, spec=spec, selection_bias=layer.router.selection_bias)
        torch.testing.assert_close(ranked, expected, rtol=0, atol=bound)
    best = ranked.sort(dim=1, descending=True, stable=True).indices[:, : spec.top_k]
    is_same = (best.sort(1).values == trace.topk_ids[0].sort(1).values).all(1)
    assert (found.num_same, found.num_decided) == (int(is_same.sum()), 40)
    # Rounding moves a choice only where two scores were closer than it.
    assert found.num_same >= 36


def test_groups_are_masked():
    spec = headgate.preset("deepseek_v3", num_experts=32, top_k=4)
    found = scored(recorded(spec)[2])
    per_token = found.select_scores[0].isneginf().sum(1)
    limit = spec.group_limit
    assert (per_token == 32 - 32 // limit.num_groups * limit.num_kept).all()


def test_without_logits_there_are_no_scores():
    assert scored(random_trace()) is None


def test_without_a_router_there_are_logits_alone():
    trace = dataclasses.replace(random_trace(), router_logits=torch.randn(3, 12, 6).half())
    found = scored(trace)
    assert found.router_scores is None
    assert found.num_decided == 0
    assert {name for name, array in found.arrays().items() if array is not None} == {"scored_tokens", "router_logits"}


def test_a_hash_router_ranks_nothing():
    layer = headgate.MoE(16, 8, router=headgate.preset("hash", num_experts=4, vocab_size=64))
    with tap(layer) as tape:
        layer(torch.randn(1, 9, 16), token_ids=torch.arange(9)[None])
    trace = trace_of(layer, tape, token_ids=torch.arange(9))
    found = scored(dataclasses.replace(trace, router_logits=torch.zeros(1, 9, 4).half()))
    assert found.select_scores.isnan().all()
    assert found.num_decided == 0


def test_a_budget_bounds_the_scored_tokens():
    trace = random_trace()
    # 3 layers of 6 experts at 10 bytes each.
    assert count_scored(trace, score_bytes=180 * 5 + 179) == 5
    assert count_scored(trace, score_bytes=10**9) == 12
