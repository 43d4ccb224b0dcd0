"""What `Family.notes` says about transformers' modeling files, shown in the installed version.

If one of these fails, transformers has changed: change the note, and the preset where it followed the file.
"""

from dataclasses import replace

import pytest
import torch

import headgate
from integrations.families import build, run_block
from integrations.family_blocks import Sizes, draw_tokens, make_generator
from integrations.family_recipes import RECIPES

transformers = pytest.importorskip(
    "transformers", reason="the notes are about its files; pip install 'headgate[transformers]'"
)

SIZES = Sizes(d_model=20, d_ff=12, num_experts=6, top_k=2, num_groups=3, seed=0)


def build_theirs(name, **config):
    """transformers' block in float32, with further values in its configuration."""
    recipe = RECIPES[name]
    configure = recipe.config
    block, _ = build(replace(recipe, config=lambda s: {**configure(s), **config}), name, SIZES, torch.float32)
    return block


def make_tokens(*shape):
    return draw_tokens(make_generator("tokens", 0), *shape, SIZES.d_model)


JITTER = {
    "mixtral": {"router_jitter_noise": 0.1},
    "minimax_m2": {"router_jitter_noise": 0.1},
    "phimoe": {"input_jitter_noise": 0.1},
    "switch": {"router_jitter_noise": 0.1},
    "dbrx": {
        "ffn_config": {"ffn_hidden_size": 12, "moe_num_experts": 6, "moe_top_k": 2, "moe_jitter_eps": 0.1},
    },
}


@pytest.mark.parametrize("name", JITTER)
def test_their_jitter_changes_the_blocks_input_in_place(name):
    torch.manual_seed(0)
    block = build_theirs(name, **JITTER[name]).train()
    x = make_tokens(2, 9)
    before = x.clone()
    with torch.no_grad():
        run_block(block, x, torch.zeros(2, 9, dtype=torch.int64), takes_token_ids=False)
    assert not torch.equal(x, before)


def test_our_jitter_is_seen_by_the_router_alone():
    torch.manual_seed(0)
    layer = headgate.MoE.from_family("mixtral", 20, 12, num_experts=6, jitter=0.5)
    with torch.no_grad():
        # Identical experts: the output depends on what they see, and not on who sees it.
        for parameter in layer.experts.parameters():
            parameter.copy_(parameter[:1].expand_as(parameter))
    x = make_tokens(2, 9)
    before = x.clone()
    with headgate.tap(layer) as tape:
        noisy = layer.train()(x)
        calm = layer.eval()(x)
    assert torch.equal(x, before)
    assert not torch.equal(tape[""][0].logits, tape[""][1].logits)
    torch.testing.assert_close(noisy, calm)


@pytest.mark.parametrize("name", ["deepseek_v2+norm_topk_prob", "deepseek_v4"])
def test_norm_topk_prob_has_no_effect_in_these_files(name):
    x, token_ids = make_tokens(2, 9), torch.zeros(2, 9, dtype=torch.int64)
    weights = [
        RECIPES[name].route(build_theirs(name, norm_topk_prob=value), x, token_ids).weights for value in (True, False)
    ]
    assert torch.equal(*weights)


def test_configurations_default_to_what_the_notes_say():
    assert transformers.Qwen3MoeConfig().norm_topk_prob is False
    assert transformers.HunYuanMoEV1Config().moe_topk == 1
    assert transformers.SwitchTransformersConfig().expert_capacity == 64
    assert transformers.NllbMoeConfig().expert_capacity == 64
    assert transformers.NllbMoeConfig().moe_eval_capacity_token_fraction == 1.0


def test_longcats_router_bias_is_never_added():
    block = build_theirs("longcat_flash", router_bias=True)
    x, token_ids = make_tokens(2, 9), torch.zeros(2, 9, dtype=torch.int64)
    before = RECIPES["longcat_flash"].route(block, x, token_ids)
    with torch.no_grad():
        block.router.classifier.bias += torch.arange(block.router.n_routed_experts)
    after = RECIPES["longcat_flash"].route(block, x, token_ids)
    assert torch.equal(before.logits, after.logits)


def test_longcats_experts_fail_with_one_choice():
    block = build_theirs("longcat_flash", moe_topk=1)
    with pytest.raises(ValueError, match="not enough values to unpack"):
        block(make_tokens(2, 9))


def test_phimoe_makes_two_choices_whatever_it_is_told():
    block = build_theirs("phimoe", num_experts_per_tok=1)
    decision = RECIPES["phimoe"].route(block, make_tokens(2, 9), torch.zeros(2, 9, dtype=torch.int64))
    assert decision.chosen.sum(dim=1).tolist() == [2] * 18


def test_hunyuans_router_follows_a_cast_of_the_model():
    block = build_theirs("hunyuan_v1_moe")
    assert block.gate.wg.weight.dtype == torch.float32
    block.to(torch.bfloat16)
    logits, _, _ = block.gate(make_tokens(1, 3).bfloat16())
    assert logits.dtype == torch.bfloat16
    kept = transformers.HunYuanMoEV1PreTrainedModel._keep_in_fp32_modules_strict
    assert not any("wg" in name for name in kept or ())


def test_every_note_names_what_it_is_about():
    for name in headgate.preset_names():
        notes = headgate.family(name).notes
        assert not notes or notes.endswith(".")
