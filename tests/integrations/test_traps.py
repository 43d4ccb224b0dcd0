"""Mistakes that users of other routers met, each with what happens here.

Elsewhere: NaN and infinite logits (tests/nn/test_moe.py), losses and bias steps (tests/nn/test_balancing.py,
tests/test_balance.py), looking at future tokens (tests/nn/test_moe.py), the bits of a sum (tests/nn/test_moe.py).
"""

import warnings

import pytest
import torch
import torch.nn.functional as F

import headgate
from compare import assert_close, assert_integers_equal
from headgate import Balance, Capacity, ExpertSpec, GroupLimit, MoE, Router, RouterSpec

E = 8
FAMILIES = [name for name in headgate.preset_names() if headgate.family(name).router.get("selection") is None]
"""Presets that choose the best by score or logit."""


def route(spec: RouterSpec, logits, *, bias=None, sequence_length=None, training=False) -> headgate.Routing:
    """A router whose logits are given: its weight is the identity."""
    router = Router(logits.shape[1], spec, dtype=logits.dtype).train(training)
    with torch.no_grad():
        router.weight.copy_(torch.eye(logits.shape[1]))
        if bias is not None:
            router.selection_bias.copy_(torch.as_tensor(bias))
    return router(logits, sequence_length=sequence_length)


def draw_logits(num_tokens: int, num_experts: int = E):
    return torch.randn(num_tokens, num_experts, generator=torch.Generator().manual_seed(0))


def make_spec(name: str, **fields) -> RouterSpec:
    """A family's router without drops and noise, for 8 choices in all."""
    known = headgate.family(name)
    if "group_limit" in known.router:
        fields.setdefault("group_limit", GroupLimit(num_groups=4, num_kept=2))
    if known.zero_fraction:
        fields |= {"num_zero_experts": 2}
    top_k = min(known.router["top_k"], 4)
    fields = {"top_k": top_k, "capacity": None, "jitter": 0.0, "noise": "none", **fields}
    return headgate.preset(name, num_experts=E - fields.get("num_zero_experts", 0), **fields)


# Weights.


@pytest.mark.parametrize("name", [n for n in FAMILIES if headgate.family(n).router.get("selection_bias")])
def test_the_bias_decides_who_is_chosen_and_never_the_weight(name):
    logits, bias = draw_logits(20).requires_grad_(), [0.0] * (E - 1) + [9.0]
    spec = make_spec(name, group_limit=None, scale=1.0, normalise="none")
    routing = route(spec, logits, bias=bias)
    ids, weights = routing.choice.expert_ids, routing.choice.combine_weights
    assert (ids[:, 0] == E - 1).all(), "9 is more than any score"
    assert torch.equal(weights, routing.scores.gather(1, ids))
    normalised = route(make_spec(name, group_limit=None, scale=1.0, normalise="sum"), logits, bias=bias)
    expected = weights / weights.sum(1, keepdim=True)
    assert_close("weights", normalised.choice.combine_weights, expected, dtype=torch.float32, terms=spec.top_k)
    gradient = torch.autograd.grad(weights.sum(), logits, retain_graph=True)[0]
    unbiased = torch.autograd.grad(routing.scores.gather(1, ids).sum(), logits)[0]
    assert torch.equal(gradient, unbiased)


@pytest.mark.parametrize("rule", ["sum", "none"])
@pytest.mark.parametrize("name", FAMILIES)
def test_the_scale_multiplies_the_weights_exactly_once(name, rule):
    logits = draw_logits(20)
    # 4 is a power of 2: the product has the same bits.
    once = route(make_spec(name, scale=1.0, normalise=rule), logits).choice.combine_weights
    scaled = route(make_spec(name, scale=4.0, normalise=rule), logits).choice.combine_weights
    assert torch.equal(scaled, 4.0 * once)


@pytest.mark.parametrize("select_on", ["scores", "logits"])
@pytest.mark.parametrize("score", ["softmax", "sigmoid", "sqrt_softplus"])
def test_weights_that_are_not_normalised_are_scores_and_not_logits(score, select_on):
    spec = RouterSpec(num_experts=E, top_k=3, score=score, select_on=select_on, normalise="none")
    logits = draw_logits(20) - 5.0
    routing = route(spec, logits)
    expected = {"softmax": logits.softmax(1), "sigmoid": logits.sigmoid(), "sqrt_softplus": F.softplus(logits).sqrt()}
    want = expected[score].gather(1, routing.choice.expert_ids)
    assert_close("weights", routing.choice.combine_weights, want, dtype=torch.float32, terms=E)
    assert (routing.choice.combine_weights > 0).all()


@pytest.mark.parametrize("name", FAMILIES)
def test_all_negative_logits_choose_the_least_negative_with_positive_weights(name):
    logits = -1.0 - draw_logits(20).abs()
    spec = make_spec(name, group_limit=None)
    routing = route(spec, logits)
    assert_integers_equal("first", routing.choice.expert_ids[:, 0], logits.argmax(dim=1))
    assert (routing.choice.combine_weights > 0).all()


# exp(-200) is 0 in float32 and bfloat16, and with it sigmoid and softplus of -200.
UNDERFLOWN = {
    "every score is 0": torch.full((3, E), -200.0),
    "one score is 1": torch.tensor([[0.0] + [-200.0] * (E - 1)]).expand(3, E) * 1.0,
}


@pytest.mark.parametrize("rule", ["sum", "none"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("logits", UNDERFLOWN.values(), ids=UNDERFLOWN)
@pytest.mark.parametrize("name", FAMILIES)
def test_scores_that_underflow_leave_finite_weights_and_gradients(name, logits, dtype, rule):
    logits = logits.to(dtype).requires_grad_()
    for fields in ({"epsilon": 0.0}, {}):
        routing = route(make_spec(name, group_limit=None, normalise=rule, **fields), logits)
        weights = routing.choice.combine_weights
        assert weights.isfinite().all()
        assert (weights >= 0).all()
        assert torch.autograd.grad(weights.square().sum(), logits)[0].isfinite().all()


# Groups.


def test_masked_groups_are_never_chosen_however_bad_the_others_are():
    """With biases this low every allowed score is below 0, so that a mask of 0 would win."""
    limit = GroupLimit(num_groups=4, num_kept=1)
    routing = route(make_spec("deepseek_v3", top_k=2, group_limit=limit), draw_logits(50), bias=[-10.0] * E)
    groups = routing.choice.expert_ids // 2
    assert_integers_equal("groups", groups[:, 0], groups[:, 1])


def test_a_mask_of_zero_lets_masked_experts_in_but_with_weight_zero():
    """What DeepSeek-V2's file does where the kept groups have fewer positive scores than there are choices."""
    limit = GroupLimit(num_groups=4, num_kept=1, group_score="max", mask_value="zero")
    # The softmax of the second expert underflows, so its group has one positive score.
    logits = torch.tensor([[0.0, -300.0, -1.0, -1.0, -1.0, -1.0, -1.0, -1.0]])
    routing = route(make_spec("deepseek_v2", top_k=2, group_limit=limit), logits)
    assert routing.choice.expert_ids.tolist() == [[0, 1]]
    assert routing.choice.combine_weights[0, 1] == 0.0
    biased = make_spec("deepseek_v2", top_k=2, group_limit=limit, selection_bias=True)
    routing = route(biased, logits, bias=[-10.0] * E)
    assert routing.choice.expert_ids.tolist() == [[2, 3]], "0 is more than any score with this bias"
    assert routing.choice.combine_weights.tolist() == [[0.0, 0.0]]


# One choice.


@pytest.mark.parametrize("rule", ["sum", "softmax"])
def test_one_normalised_choice_has_weight_1_no_gradient_and_a_warning(rule):
    with pytest.warns(
        UserWarning, match=rf"top_k \(=1\) with normalise \(='{rule}'\) gives every token the same weight"
    ):
        layer = MoE(6, 4, router=RouterSpec(num_experts=4, top_k=1, normalise=rule))
    with headgate.tap(layer) as tape:
        layer(torch.randn(5, 6)).square().sum().backward()
    assert torch.equal(tape[""][0].choice.combine_weights, torch.ones(5, 1))
    # The quotient s / s rounds on its way back; exactly, its derivative is 0.
    assert layer.router.weight.grad.abs().max() < 1e-5 * layer.experts.down_proj.grad.abs().max()


LEARNING = {
    "not normalised": ({"normalise": "none"}, None),
    "with a balance loss": ({}, Balance(switch=0.01)),
    "two choices": ({"top_k": 2}, None),
}


@pytest.mark.parametrize(("fields", "balance"), LEARNING.values(), ids=LEARNING)
def test_a_router_that_learns_is_built_without_a_warning(fields, balance):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        layer = MoE(6, 4, router=RouterSpec(**{"num_experts": 4, "top_k": 1, **fields}), balance=balance)
    layer(torch.randn(50, 6)).square().sum().backward()
    assert layer.router.weight.grad.abs().max() > 1e-5


def test_no_preset_is_built_with_a_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name in headgate.preset_names():
            fields = {"vocab_size": 9} if "hash" in name else {}
            MoE.from_family(name, 4, 4, num_experts=16, **fields)


def test_a_single_expert_has_nothing_to_learn_and_no_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        MoE(6, 4, num_experts=1, top_k=1)


# Drops and ties.


@pytest.mark.parametrize("top_k", [1, 2])
@pytest.mark.parametrize("per", ["batch", "sequence"])
def test_drop_by_position_keeps_the_first_of_many_equals(per, top_k):
    """5000 tokens alike: a top-k over a 0/1 map keeps any of them, a position is a position."""
    capacity = Capacity(absolute=7, per=per)
    spec = RouterSpec(num_experts=E, top_k=top_k, capacity=capacity, normalise="none")
    routing = route(spec, torch.zeros(5000, E), sequence_length=500)
    is_kept = (routing.plan.drop_reason == 0).all(dim=1)
    position = torch.arange(5000) % (500 if per == "sequence" else 5000)
    assert_integers_equal("kept", is_kept, position < 7)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("value", [0.0, -3.7, 11.3])
@pytest.mark.parametrize("name", FAMILIES)
def test_ties_go_to_the_lowest_id(name, value, dtype):
    spec = make_spec(name)
    routing = route(spec, torch.full((37, E), value, dtype=dtype))
    assert_integers_equal("ids", routing.choice.expert_ids, torch.arange(spec.top_k).expand(37, -1))


# Layouts.


def run_one_expert(layer: MoE, x, *, interleaved: bool):
    """The only expert, from the documented layout."""
    up, down = layer.experts.gate_up_proj[0], layer.experts.down_proj[0]
    gate, linear = (up[::2], up[1::2]) if interleaved else (up[: len(up) // 2], up[len(up) // 2 :])
    return (F.silu(x @ gate.T) * (x @ linear.T)) @ down.T


def test_square_weights_are_not_transposed():
    """Where D = F no shape tells a matrix from its transpose."""
    layer = MoE(6, 6, num_experts=1, top_k=1)
    x = torch.randn(5, 6)
    expected = run_one_expert(layer, x, interleaved=False)
    assert_close("y", layer(x), expected, dtype=torch.float32, terms=6)
    with torch.no_grad():
        layer.experts.down_proj.copy_(layer.experts.down_proj.transpose(1, 2).clone())
        assert (layer(x) - expected).abs().max() > 0.1 * expected.abs().max()


def test_interleaved_rows_are_the_concatenated_ones_reordered():
    torch.manual_seed(0)
    concatenated = MoE(6, 4, num_experts=3, top_k=2)
    interleaved = MoE(6, 4, num_experts=3, top_k=2, experts=ExpertSpec(interleaved=True))
    state = concatenated.state_dict()
    interleaved.load_state_dict(state)
    x = torch.randn(5, 6)
    assert (interleaved(x) - concatenated(x)).abs().max() > 0.1 * concatenated(x).abs().max()
    rows = state["experts.gate_up_proj"]
    state["experts.gate_up_proj"] = torch.stack([rows[:, :4], rows[:, 4:]], dim=2).flatten(1, 2)
    interleaved.load_state_dict(state)
    assert_close("y", interleaved(x), concatenated(x), dtype=torch.float32, terms=6)


# torch.compile.

# More families are compiled in tests/nn/test_moe.py. Two kinds are not one graph: drops give shapes that depend on
# the data, and zero-compute experts split the rows at a number in the data.
COMPILED = ["dbrx", "deepseek_v2", "ernie4_5_moe", "hunyuan_v1_moe", "minimax_m2", "phimoe", "qwen2_moe"]


@pytest.mark.parametrize("name", COMPILED)
def test_no_dropless_family_breaks_the_graph(name, uninstrumented):
    library = uninstrumented("headgate")
    layer = library.MoE.from_family(name, 6, 4, num_experts=16, top_k=2).eval()
    run = torch.compile(layer, fullgraph=True, backend="eager", dynamic=True)
    for num_tokens in (5, 9):
        x = torch.randn(2, num_tokens, 6)
        assert torch.equal(run(x), layer(x))
