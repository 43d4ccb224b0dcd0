"""NLLB-MoE: its router against ours, and our layer against what its experts would compute if they all ran."""

import math

import pytest
import torch

import headgate
from compare import MARGIN, assert_close
from headgate import Capacity
from integrations import family_blocks as blocks
from integrations.families import Recipe, build, route_nllb
from integrations.family_blocks import Sizes, draw_tokens, make_generator

pytest.importorskip("transformers", reason="parity is with its modules; pip install 'headgate[transformers]'")

SIZES = Sizes(d_model=23, d_ff=16, num_experts=8, top_k=2, num_groups=1, seed=0)
NUM_TOKENS = 96
TRAINING_ROWS = 9
"""Rows per expert in training; an even share is 24, so that most second choices are dropped."""


def make_recipe(*, normalise_before: bool, prioritised: bool, fraction: float, dtype: torch.dtype) -> Recipe:
    capacity = Capacity(
        absolute=TRAINING_ROWS,
        eval_factor=fraction * SIZES.num_experts / SIZES.top_k,
        drop_rule="batch_prioritised" if prioritised else "choice_position",
        normalise="before_drop" if normalise_before else "after_drop",
    )
    return Recipe(
        preset="nllb_moe",
        module="nllb_moe",
        block="NllbMoeSparseMLP",
        config=lambda s: {
            "class": "NllbMoeConfig",
            "d_model": s.d_model,
            "num_experts": s.num_experts,
            "expert_capacity": TRAINING_ROWS,
            "normalize_router_prob_before_dropping": normalise_before,
            "batch_prioritized_routing": prioritised,
            "moe_eval_capacity_token_fraction": fraction,
            "moe_token_dropout": 0.0,
        },
        # The sum of weights is clamped at the eps of the dtype.
        fields=lambda s: {"capacity": capacity, "epsilon": torch.finfo(dtype).eps},
        router_weight="router.classifier.weight",
        experts=blocks.one_by_one("fc1", "fc2", bias=True),
        route=route_nllb,
        # In the model's dtype: the sum of the two probabilities, and the quotient.
        roundings=2,
        block_arguments={"ffn_dim": SIZES.d_ff},
    )


def make_tokens(dtype):
    return draw_tokens(make_generator("tokens", 0), 1, NUM_TOKENS, SIZES.d_model).to(dtype)


def run_all_experts(block, x, gates):
    """sum over e of gates[t, e] * expert_e(x[t]), with transformers' own expert modules."""
    return sum(gates[:, e, None] * block.experts[f"expert_{e}"](x) for e in range(SIZES.num_experts))


def decide(layer, x):
    """Our chosen and kept slots [T, E], their weights [T, E], and the kept first choices [T, E]."""
    with headgate.tap(layer) as tape:
        layer(x)
    routing = tape[""][0]
    is_kept = routing.plan.drop_reason == 0
    none = torch.zeros_like(routing.scores)
    chosen = none.scatter_add(1, routing.choice.expert_ids, is_kept.float()).bool()
    weights = none.scatter_add(1, routing.choice.expert_ids, routing.choice.combine_weights)
    first = none.scatter(1, routing.choice.expert_ids[:, :1], is_kept[:, :1].float()).bool()
    return routing, chosen, weights, first


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("fraction", [0.15, 1.0])
@pytest.mark.parametrize("prioritised", [True, False], ids=["prioritised", "by_position"])
@pytest.mark.parametrize("normalise_before", [True, False], ids=["before_drop", "after_drop"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_the_router_decides_as_its_family(dtype, normalise_before, prioritised, fraction, training):
    recipe = make_recipe(normalise_before=normalise_before, prioritised=prioritised, fraction=fraction, dtype=dtype)
    block, layer = build(recipe, "nllb_moe", SIZES, dtype)
    block.train(training)
    layer.train(training)
    x = make_tokens(dtype)
    theirs = route_nllb(block, x, None)
    their_first = block.router(x.flatten(0, 1))[0].bool()
    routing, chosen, weights, first = decide(layer, x)
    assert torch.equal(routing.logits, theirs.logits)
    # In bfloat16 theirs takes the first choice by rounded probabilities and the second by logits; ours takes both by
    # logits. They may differ where the two best round to the same number, which no token of this seed does.
    assert torch.equal(chosen, theirs.chosen)
    assert torch.equal(first, their_first)
    unit = torch.finfo(dtype).eps / 2
    bound = (1 - unit) ** -recipe.roundings - 1 + MARGIN * torch.finfo(torch.float32).eps * math.sqrt(2)
    error = (weights - theirs.weights).abs()[chosen] / theirs.weights[chosen]
    assert error.max() <= bound
    num_dropped = 2 * NUM_TOKENS - int(chosen.sum())
    assert (num_dropped > 0) == (training or fraction < 1)


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_the_layer_computes_what_all_experts_would(dtype, training):
    recipe = make_recipe(normalise_before=False, prioritised=False, fraction=0.15, dtype=dtype)
    block, layer = build(recipe, "nllb_moe", SIZES, dtype)
    block.train(training)
    layer.train(training)
    for expert in block.experts.values():
        expert.eval()  # No dropout.
    x = make_tokens(dtype)
    gates = route_nllb(block, x, None).weights
    with torch.no_grad():
        expected = run_all_experts(block, x[0], gates)
        # Products add up in float32: in bfloat16 only stages round.
        assert_close("y", layer(x)[0], expected, dtype=dtype, terms=SIZES.d_model if dtype == torch.float32 else 1)


def test_with_its_defaults_nothing_is_dropped_outside_training():
    layer = headgate.MoE.from_family("nllb_moe", 8, 8, num_experts=128).eval()
    with headgate.tap(layer) as tape, torch.no_grad():
        layer.router.weight.zero_()
        layer(torch.ones(1, 50, 8))
    assert tape[""][0].plan.num_rows == 100
    assert not layer.spec.may_see_later_tokens_in_inference
    assert layer.spec.may_see_later_tokens_in_training


# What `family("nllb_moe").notes` says of the file. If one of these fails, transformers has changed: change the note.


def test_in_the_modeling_file_experts_beyond_the_second_never_run():
    recipe = make_recipe(normalise_before=False, prioritised=False, fraction=1.0, dtype=torch.float32)
    block, layer = build(recipe, "nllb_moe", SIZES, torch.float32)
    x = make_tokens(torch.float32)
    gates = route_nllb(block, x, None).weights
    assert (gates > 0).any(dim=0).all(), "every expert is chosen by some token"
    num_rows = [0] * SIZES.num_experts

    def count(e):
        def hook(module, args, output):
            num_rows[e] += args[0].shape[0]

        return hook

    for e in range(SIZES.num_experts):
        block.experts[f"expert_{e}"].register_forward_hook(count(e))
    with torch.no_grad():
        theirs = block(x)[0]
        assert num_rows == [NUM_TOKENS * (SIZES.num_experts - 1), NUM_TOKENS] + [0] * (SIZES.num_experts - 2)
        top_1 = gates.max(dim=1, keepdim=True).values
        # Zeros of the 0/1 mask are taken for expert 0, its ones for expert 1.
        as_written = (gates.sum(1, keepdim=True) - top_1) * block.experts["expert_0"](x[0])
        as_written = as_written + top_1 * block.experts["expert_1"](x[0])
    # A token's E - 1 rows through expert 0 are added up.
    terms = SIZES.d_model * SIZES.num_experts
    assert_close("theirs", theirs, as_written, dtype=torch.float32, terms=terms)
    error = (theirs - layer(x)[0]).square().mean().sqrt() / layer(x).square().mean().sqrt()
    assert error > 0.5, "and that is another function than the mixture of all experts"


def test_in_the_modeling_file_an_evaluation_overwrites_the_training_capacity():
    recipe = make_recipe(normalise_before=False, prioritised=False, fraction=0.5, dtype=torch.float32)
    block, _ = build(recipe, "nllb_moe", SIZES, torch.float32)
    x = make_tokens(torch.float32)
    first = route_nllb(block.train(), x, None).chosen
    route_nllb(block.eval(), x, None)
    again = route_nllb(block.train(), x, None).chosen
    assert first.sum(0).max() == TRAINING_ROWS
    assert again.sum(0).max() > TRAINING_ROWS


def test_in_the_modeling_file_token_dropout_shrinks_the_output_outside_training():
    recipe = make_recipe(normalise_before=False, prioritised=False, fraction=1.0, dtype=torch.float32)
    block, _ = build(recipe, "nllb_moe", SIZES, torch.float32)
    x = make_tokens(torch.float32)
    with torch.no_grad():
        whole = block(x)
        block.experts.moe_token_dropout = 0.2
        assert_close("y", block(x), 0.8 * whole, dtype=torch.float32, terms=SIZES.d_model)
