"""Every preset against the modeling file of its family: ids, weights, outputs and gradients, from the same weights."""

import math

import pytest
import torch

from compare import MARGIN, assert_close
from headgate import preset_names
from integrations.choices import compare_choices
from integrations.families import Decision, build, read_state, run_block
from integrations.family_blocks import Sizes, draw_tokens, make_generator
from integrations.family_recipes import RECIPES, SWITCH_CAPACITY, VOCABULARY

pytest.importorskip("transformers", reason="parity is with its modules; pip install 'headgate[transformers]'")

SIZES = {
    "odd D": Sizes(d_model=23, d_ff=16, num_experts=8, top_k=2, num_groups=4, seed=0),
    "D=F": Sizes(d_model=32, d_ff=32, num_experts=16, top_k=4, num_groups=4, seed=1),
    "prime D": Sizes(d_model=17, d_ff=40, num_experts=12, top_k=3, num_groups=3, seed=2),
    "K=1": Sizes(d_model=20, d_ff=12, num_experts=6, top_k=1, num_groups=3, seed=3),
}
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
BATCH = (4, 48)

# bfloat16 has 2**8 numbers per factor of 2, so scores next to each other are about 2**-8 apart, relative; the K-th
# and the next best of 6 to 16 experts are some 0.2 apart. About 2**-8 / 0.2, 2 % of all tokens, may choose freely.
MAX_TIED_FRACTION = 0.05

every_recipe = pytest.mark.parametrize("name", RECIPES)
every_size = pytest.mark.parametrize("size", SIZES)


def make_inputs(sizes, dtype):
    """Tokens [B, S, D] and token ids [B, S]."""
    generator = make_generator("tokens", sizes.seed)
    x = draw_tokens(generator, *BATCH, sizes.d_model).to(dtype)
    return x, torch.randint(0, VOCABULARY, BATCH, generator=generator)


def decide(layer, x, token_ids):
    """Our router's decision, in the terms of theirs."""
    routing = layer.router(x.flatten(0, 1), sequence_length=x.shape[1], token_ids=token_ids.flatten())
    is_kept = routing.plan.drop_reason == 0
    slots = routing.choice.expert_ids.clamp(min=0)
    none = torch.zeros_like(routing.scores)
    weights = none.scatter_add(1, slots, routing.choice.combine_weights.detach() * is_kept)
    chosen_times = none.scatter_add(1, slots, is_kept.float())
    assert chosen_times.max() <= 1, "an expert was chosen twice by a token"
    return Decision(logits=routing.logits.detach(), chosen=chosen_times.bool(), weights=weights)


def compare_decisions(recipe, layer, ours, theirs, dtype):
    """Equal logits, equal ids up to exact ties, equal weights up to rounding; the tokens with the same ids [T]."""
    assert torch.equal(ours.logits, theirs.logits), "logits are sums that float32 represents exactly"
    ranked = None
    if recipe.rank is not None and dtype == torch.bfloat16:
        ranked = recipe.rank(theirs.logits.to(dtype), layer.router.selection_bias)
    agreement = compare_choices(ours.chosen, theirs.chosen, ranked)
    # A weight of theirs is rounded `roundings` times to the model's dtype, each by a factor within 1 +- eps / 2,
    # which divides where it is the norm's: at worst (1 - eps / 2) ** -n. The rest is float32 on both sides.
    unit = torch.finfo(dtype).eps / 2
    bound = (1 - unit) ** -recipe.roundings - 1 + MARGIN * torch.finfo(torch.float32).eps * math.sqrt(layer.spec.top_k)
    same = agreement.is_same
    error = (ours.weights - theirs.weights)[same].abs() / theirs.weights[same].abs().clamp(min=1e-30)
    assert error.max() <= bound, f"weights differ by {error.max():.2e} relative; {bound:.2e} is rounding"
    if not same.all():
        # Experts that tie have equal scores, so in any order the weights are the same numbers.
        got, want = ours.weights[~same].sort().values, theirs.weights[~same].sort().values
        assert ((got - want).abs() <= bound * want).all(), "weights of tied tokens differ"
    return agreement


@every_recipe
@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
@every_size
def test_a_preset_decides_as_its_family(name, dtype, size):
    recipe = RECIPES[name]
    block, layer = build(recipe, name, SIZES[size], dtype)
    x, token_ids = make_inputs(SIZES[size], dtype)
    agreement = compare_decisions(recipe, layer, decide(layer, x, token_ids), recipe.route(block, x, token_ids), dtype)
    assert agreement.is_tied.float().mean() <= MAX_TIED_FRACTION
    if dtype == torch.float32:
        assert agreement.is_same.all()


@every_recipe
@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
@every_size
def test_a_layer_computes_what_its_family_computes(name, dtype, size):
    recipe, sizes = RECIPES[name], SIZES[size]
    block, layer = build(recipe, name, sizes, dtype)
    x, token_ids = make_inputs(sizes, dtype)
    is_hash = layer.spec.selection == "hash"
    with torch.no_grad():
        theirs = run_block(block, x, token_ids, takes_token_ids=is_hash)
        ours = layer(x, token_ids=token_ids if is_hash else None)
        same = (decide(layer, x, token_ids).chosen == recipe.route(block, x, token_ids).chosen).all(dim=1)
    assert ours.dtype == theirs.dtype == dtype
    # Matrix products add up in float32 whatever the dtype, so in bfloat16 only stages round, not sums: one term.
    terms = max(sizes.d_model, recipe.shared_widths * sizes.d_ff) if dtype == torch.float32 else 1
    assert (~same).float().mean() <= MAX_TIED_FRACTION  # The test above tells why any differ.
    assert_close("y", ours.flatten(0, 1)[same], theirs.flatten(0, 1)[same], dtype=dtype, terms=terms)


@every_recipe
def test_a_layer_has_the_gradients_of_its_family(name):
    recipe, sizes = RECIPES[name], SIZES["prime D"]
    block, layer = build(recipe, name, sizes, torch.float32)
    x, token_ids = make_inputs(sizes, torch.float32)
    our_x, their_x = x.clone().requires_grad_(), x.clone().requires_grad_()
    is_hash = layer.spec.selection == "hash"
    upstream = torch.randn(x.shape, generator=make_generator("upstream", sizes.seed))
    run_block(block, their_x, token_ids, takes_token_ids=is_hash).backward(upstream)
    layer(our_x, token_ids=token_ids if is_hash else None).backward(upstream)
    # A weight's gradient adds up over the tokens that its expert gets, a token's over D or F.
    terms = x.shape[0] * x.shape[1]
    assert_close("x", our_x.grad, their_x.grad, dtype=torch.float32, terms=terms)
    for parameter in block.parameters():
        parameter.data = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
    theirs = read_state(recipe, block)
    for parameter_name, parameter in layer.named_parameters():
        assert_close(parameter_name, parameter.grad, theirs[parameter_name], dtype=torch.float32, terms=terms)


TIED = [name for name, recipe in RECIPES.items() if recipe.rank is not None]


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
@pytest.mark.parametrize("name", TIED)
def test_twin_experts_tie_and_the_lowest_id_wins(name, dtype):
    """Each expert has a twin with the same router row. Where K is odd, one of two equals gets in, for every token."""
    recipe, sizes = RECIPES[name], SIZES["prime D"]
    block, layer = build(recipe, name, sizes, dtype)
    with torch.no_grad():
        tensors = {**dict(block.named_parameters()), **dict(block.named_buffers())}
        for theirs in (recipe.router_weight, *recipe.more_weights.values()):
            tensors[theirs].copy_(tensors[theirs][::2].repeat_interleave(2, dim=0))
    layer.load_state_dict(read_state(recipe, block))
    x, token_ids = make_inputs(sizes, dtype)
    ours, theirs = decide(layer, x, token_ids), recipe.route(block, x, token_ids)
    if dtype == torch.bfloat16:
        compare_decisions(recipe, layer, ours, theirs, dtype)
    low, high = ours.chosen[:, ::2], ours.chosen[:, 1::2]
    assert not (high & ~low).any(), "a tie did not go to the lowest id"
    assert ((low & ~high).sum(dim=1) == layer.spec.top_k % 2).all()


def test_experts_are_clamped_in_the_families_that_clamp():
    """Else their parity would say nothing about the clamp."""
    for name in ("gpt_oss", "deepseek_v4", "deepseek_v4_hash"):
        _, layer = build(RECIPES[name], name, SIZES["odd D"], torch.float32)
        x, _ = make_inputs(SIZES["odd D"], torch.float32)
        hidden = torch.einsum("bsd,eud->ebsu", x, layer.experts.gate_up_proj)
        assert (hidden > layer.experts.spec.clamp).float().mean() > 0.01, name


def test_switch_drops_tokens_in_its_parity_test():
    _, layer = build(RECIPES["switch"], "switch", SIZES["odd D"], torch.float32)
    x, token_ids = make_inputs(SIZES["odd D"], torch.float32)
    num_kept = int(decide(layer, x, token_ids).chosen.sum())
    assert BATCH[0] * SWITCH_CAPACITY < num_kept < BATCH[0] * BATCH[1]


def test_every_preset_of_a_published_family_is_compared():
    of_papers = {"noisy_top_k", "expert_choice", "sinkhorn", "hash", "top_p", "threshold"}
    in_its_own_file = {"nllb_moe"}
    assert {recipe.preset for recipe in RECIPES.values()} | in_its_own_file | of_papers == set(preset_names())
