"""Layers in a file are sized as the modules that they describe."""

import pytest
from torch import nn

import headgate
from headgate.errors import InputError, SpecError
from headgate.planning.layer_file import parse_layer_file
from headgate.planning.memory import choose_precision
from headgate.planning.sizing import Workload, size_model
from headgate.spec import ExpertSpec, SharedSpec

SIZES = "num_layers = 3\nd_model = 16\nd_ff = 24\n"
EXPERT = 3 * 16 * 24


def shape_of(text: str):
    return parse_layer_file(SIZES + text, name="layers.toml")


def layer(family: str, **fields) -> nn.Module:
    kinds = {name: fields.pop(name, None) for name in ("experts", "shared")}
    return headgate.MoE(16, 24, router=headgate.preset(family, num_experts=8, **fields), **kinds, device="meta")


def depths() -> nn.Module:
    """The block is an MLP as an expert has it: with one expert, a layer without its router."""
    block = headgate.MoE(16, 24, num_experts=1, top_k=1, device="meta").experts
    return headgate.MixtureOfDepths(block, 16, device="meta")


@pytest.mark.parametrize(
    ("text", "module"),
    [
        ('[router]\nfamily = "mixtral"\nnum_experts = 8', layer("mixtral")),
        ('[router]\nfamily = "noisy_top_k"\nnum_experts = 8', layer("noisy_top_k")),
        ('[router]\nfamily = "gpt_oss"\nnum_experts = 8\n[experts]\nbias = true',
         layer("gpt_oss", experts=ExpertSpec(bias=True))),
        ('[router]\nfamily = "expert_choice"\nnum_experts = 8\ncapacity = {factor = 1.5}', layer("expert_choice")),
        ('[router]\nfamily = "hash"\nnum_experts = 8\nvocab_size = 9', layer("hash", vocab_size=9)),
        ('[router]\nfamily = "longcat_flash"\nnum_experts = 8', layer("longcat_flash")),
        ('[router]\nfamily = "switch"\nnum_experts = 8\n[experts]\ngated = false',
         layer("switch", experts=ExpertSpec(gated=False))),
        ('[router]\nfamily = "qwen2_moe"\nnum_experts = 8\n[shared]\nd_ff = 40\ngated_output = true',
         layer("qwen2_moe", shared=SharedSpec(d_ff=40, gated_output=True))),
        ("token_fraction = 0.125", depths()),
    ],
)  # fmt: skip
def test_parameters_are_those_of_the_module(text, module):
    assert shape_of(text).total == 3 * sum(parameter.numel() for parameter in module.parameters())


def test_expert_choice_touches_all_and_depths_only_what_enters():
    chosen = shape_of('[router]\nfamily = "expert_choice"\nnum_experts = 8\ntop_k = 2')
    assert chosen.active_experts() == 3 * 2 * EXPERT
    report = size_model(chosen, Workload(), choose_precision(chosen))
    assert [touch.distinct(1) for touch in report.routes.step] == [8] * 3
    deep = shape_of('token_fraction = 0.5\n[router]\nfamily = "mixtral"\nnum_experts = 8')
    assert deep.active_experts() == 3 * EXPERT
    assert any("Of the tokens 0.5 enter each layer" in note for note in deep.notes)


def test_top_p_counts_the_mean():
    varying = shape_of('mean_choices = 1.5\n[router]\nfamily = "top_p"\nnum_experts = 8')
    assert varying.active_experts() == 3 * round(1.5 * EXPERT)
    assert any("gets 1.5 experts on average" in note for note in varying.notes)


def test_a_router_may_be_spelled_out():
    router = headgate.preset("deepseek_v3", num_experts=16, group_limit=headgate.GroupLimit(num_groups=4, num_kept=2))
    fields = '[router]\nfamily = "deepseek_v3"\nnum_experts = 16\ngroup_limit = {num_groups = 4, num_kept = 2}'
    assert shape_of(fields).total == shape_of(f"[router]\nnum_experts = 16\ntop_k = {router.top_k}").total


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("a =", InputError, r"layers.toml is no TOML: .*; docs/sizing.md has an example"),
        ("", InputError, "router and token_fraction are both missing; give"),
        ("x = 1\ntoken_fraction = 0.5", InputError, "layers.toml: got an unexpected keyword argument 'x'; docs/siz"),
        ("router = 3", InputError, r"\[router\] of layers.toml \(=3\) must be a table; write its"),
        ("token_fraction = 1.5", InputError, r"token_fraction \(=1.5\) must be above 0 and at most 1"),
        ("token_fraction = 0.5\n[shared]\nd_ff = 3", InputError, r"token_fraction \(=0.5\) and \[shared\] can't be"),
        ("[shared]\nd = 3", InputError, r"\[shared\] of layers.toml: got an unexpected keyword argument 'd'"),
        ('[router]\nfamily = "top_p"\nnum_experts = 8', InputError, "mean_choices is missing: with top_p"),
        ('mean_choices = 9\n[router]\nfamily = "top_p"\nnum_experts = 8', InputError, r"mean_choices \(=9\) must be"),
        ('mean_choices = 2\n[router]\nfamily = "mixtral"\nnum_experts = 8', InputError, "has no use with a"),
        ('[router]\nfamily = "mix"\nnum_experts = 8', SpecError, r"preset \(='mix'\) is not known; did you"),
        ("[router]\nnum_experts = 8\ntop_k = 9", SpecError, r"top_k \(=9\) must be at most the number of"),
    ],
)  # fmt: skip
def test_what_can_not_be_is_refused(text, error, message):
    with pytest.raises(error, match=message):
        shape_of(text)


def test_a_size_must_be_a_whole_number():
    with pytest.raises(InputError, match=r"d_ff \(=1.5\) of a.toml must be a whole number from 1; docs/"):
        parse_layer_file("num_layers = 1\nd_model = 4\nd_ff = 1.5\ntoken_fraction = 0.5", name="a.toml")
