"""What `spec_from_config` says of a configuration, in words and symbols, and what it refuses to guess."""

from __future__ import annotations

import pytest
import transformers

import headgate.integrations.transformers as integration
from headgate.errors import SpecError
from headgate.spec import RouterSpec, preset
from headgate.spec.words import describe_in_symbols, describe_in_words


def test_a_composite_model_is_described_by_its_text_model():
    config = transformers.Qwen3VLMoeConfig()
    assert integration.spec_from_config(config).num_experts == config.text_config.num_experts


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            transformers.VitPoseBackboneConfig(),
            r"'vitpose_backbone'\) has a router that no RouterSpec describes: there is no",
        ),
        (transformers.LlamaConfig(), r"model_type \(='llama'\) is no MoE architecture whose router is known; write"),
        (transformers.DeepseekV4Config(), r"model_type \(='deepseek_v4'\) routes its first layers by token id"),
        (transformers.HunYuanMoEV1Config(moe_topk=[1, 2]), r"top_k of 'hunyuan_v1_moe' differ between"),
    ],
)
def test_what_no_spec_says_is_said(config, message):
    with pytest.raises(SpecError, match=message):
        integration.spec_from_config(config)


def test_a_layer_of_its_own_sizes_is_described_by_its_place():
    config = transformers.HunYuanMoEV1Config(num_experts=8, moe_topk=[1, 2])
    specs = [integration.spec_from_config(config, layer_index=layer) for layer in range(2)]
    assert [(spec.num_experts, spec.top_k) for spec in specs] == [(8, 1), (8, 2)]


def test_ids_alone_are_announced():
    formula = integration.formula_from_config(transformers.Gemma4TextConfig(num_experts=8, top_k_experts=2))
    assert formula.gives == "ids"
    assert "learned scale of its expert" in formula.note


@pytest.mark.parametrize(
    ("spec", "words", "symbols"),
    [
        (
            preset("llama4", num_experts=16),
            "sigmoid of each logit; the best 1 of 16, by logit; weights as they are; applied to the expert's input",
            "s = sigmoid(z); S = top1(z); w = s[S]",
        ),
        (
            preset("longcat_flash", num_experts=4, num_zero_experts=2, top_k=2),
            "softmax over the experts; the best 2 of 6, with a selection bias, 2 of them without work; "
            "weights as they are; times 6",
            "s = softmax(z); S = top2(s + b); w = 6 s[S]",
        ),
        (
            preset("switch", num_experts=4),
            "softmax over the experts; the best 1 of 4; weights as they are; experts have a capacity",
            "s = softmax(z); S = top1(s); w = s[S]",
        ),
        (
            preset("hash", num_experts=4, vocab_size=9),
            "no scores; 1 of 4 by a table of token ids; weights divided by their sum",
            "s = 1; S = table[token id]; w = s[S] / sum s[S]",
        ),
        (
            preset("phimoe", num_experts=4),
            "softmax over the experts; 2 of 4 by sparsemixer, by logit; weights as they are",
            "s = softmax(z); S = sparsemixer2(z); w = s[S]",
        ),
        (
            RouterSpec(num_experts=4, top_k=2, norm_order=2.0),
            "softmax over the experts; the best 2 of 4; weights divided by their 2-norm",
            "s = softmax(z); S = top2(s); w = s[S] / norm2(s[S])",
        ),
        (
            preset("gpt_oss", num_experts=32),
            "the best 4 of 32; weights are the softmax over the chosen",
            "S = top4(z); w = softmax(z[S])",
        ),
    ],
)
def test_a_router_in_words_and_symbols(spec, words, symbols):
    assert describe_in_words(spec) == words
    assert describe_in_symbols(spec) == symbols
