"""The recipe of each family; several where its configuration has a switch that changes the formula."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from headgate.spec import Capacity, GroupLimit
from integrations import families as f
from integrations import family_blocks as blocks
from integrations.families import Recipe
from integrations.family_blocks import Sizes

VOCABULARY = 97
SWITCH_CAPACITY = 5
"""Rows per expert and sequence; small, so that tokens are dropped."""

Configure = Callable[[Sizes], Mapping[str, Any]]


def sized(name: str, hidden: str = "intermediate_size", experts: str = "num_local_experts", **more: Any) -> Configure:
    """A configuration that names its sizes as most do."""
    return lambda s: {
        "class": name,
        "hidden_size": s.d_model,
        hidden: s.d_ff,
        experts: s.num_experts,
        "num_experts_per_tok": s.top_k,
        **more,
    }


def grouped(configure: Configure) -> Configure:
    """DeepSeek's names for groups of experts."""
    return lambda s: {**configure(s), "n_group": s.num_groups, "topk_group": 2}


def group_limit(**rule: Any) -> Configure:
    """Our name for them."""
    return lambda s: {"group_limit": GroupLimit(num_groups=s.num_groups, num_kept=2, **rule)}


def normalise(rule: str) -> Configure:
    return lambda s: {"normalise": rule}


def merged(*parts: Configure) -> Configure:
    return lambda s: {key: value for part in parts for key, value in part(s).items()}


def both_ways(name: str, recipe: Recipe, *, off: Configure, on: Configure) -> dict[str, Recipe]:
    """A family with `norm_topk_prob` off and on."""
    switch = {"+norm_topk_prob": (True, on), "-norm_topk_prob": (False, off)}
    return {
        name + suffix: replace(
            recipe,
            config=merged(recipe.config, lambda s, value=value: {"norm_topk_prob": value}),
            fields=merged(recipe.fields, fields),
        )
        for suffix, (value, fields) in switch.items()
    }


BIAS = {"router.selection_bias": "gate.e_score_correction_bias"}
KEPT_BIAS = ("e_score_correction_bias",)
AS_IT_IS: Configure = lambda s: {}  # noqa: E731

QWEN2 = Recipe(
    preset="qwen2_moe",
    module="qwen2_moe",
    block="Qwen2MoeSparseMoeBlock",
    config=lambda s: {
        **sized("Qwen2MoeConfig", "moe_intermediate_size", "num_experts")(s),
        "shared_expert_intermediate_size": 3 * s.d_ff,
    },
    shared="shared_expert",
    shared_widths=3,
    rank=f.softmax_of,
    roundings=1,
)
QWEN3 = Recipe(
    preset="qwen3_moe",
    module="qwen3_moe",
    block="Qwen3MoeSparseMoeBlock",
    config=sized("Qwen3MoeConfig", "moe_intermediate_size", "num_experts"),
    rank=f.softmax_of,
    roundings=1,
)
OLMOE = replace(
    QWEN3,
    preset="olmoe",
    module="olmoe",
    block="OlmoeSparseMoeBlock",
    config=sized("OlmoeConfig", experts="num_experts"),
)
DEEPSEEK_V2 = Recipe(
    preset="deepseek_v2",
    module="deepseek_v2",
    block="DeepseekV2Moe",
    config=grouped(
        sized(
            "DeepseekV2Config",
            "moe_intermediate_size",
            "n_routed_experts",
            n_shared_experts=2,
            num_attention_heads=1,
            topk_method="group_limited_greedy",
            routed_scaling_factor=16.0,
        )
    ),
    fields=group_limit(group_score="max", mask_value="zero"),
    shared="shared_experts",
    shared_widths=2,
)
DEEPSEEK_V2_LITE = replace(
    DEEPSEEK_V2,
    preset="deepseek_v2_lite",
    config=sized(
        "DeepseekV2Config", "moe_intermediate_size", "n_routed_experts", n_shared_experts=2, num_attention_heads=1
    ),
    fields=AS_IT_IS,
)
DEEPSEEK_V3 = Recipe(
    preset="deepseek_v3",
    module="deepseek_v3",
    block="DeepseekV3MoE",
    config=grouped(sized("DeepseekV3Config", "moe_intermediate_size", "n_routed_experts", n_shared_experts=2)),
    fields=group_limit(),
    more_weights=BIAS,
    shared="shared_experts",
    shared_widths=2,
    kept=KEPT_BIAS,
)
GLM4 = replace(
    DEEPSEEK_V3,
    preset="glm4_moe",
    module="glm4_moe",
    block="Glm4MoeMoE",
    config=sized("Glm4MoeConfig", "moe_intermediate_size", "n_routed_experts", n_shared_experts=2),
    fields=AS_IT_IS,
)
DEEPSEEK_V4 = Recipe(
    preset="deepseek_v4",
    module="deepseek_v4",
    block="DeepseekV4SparseMoeBlock",
    config=lambda s: {
        **sized("DeepseekV4Config", "moe_intermediate_size", "n_routed_experts", vocab_size=VOCABULARY)(s),
        "mlp_layer_types": ["hash_moe", "moe"],
        "layer_types": ["sliding_attention"] * 2,
        "num_hidden_layers": 2,
    },
    more_weights=BIAS,
    shared="shared_experts",
    rank=f.biased_sqrt_softplus_of,
    # The sum, the quotient and the scaled quotient.
    roundings=3,
    kept=KEPT_BIAS,
    gain=5.0,
    block_arguments={"layer_idx": 1},
)
HUNYUAN = Recipe(
    preset="hunyuan_v1_moe",
    module="hunyuan_v1_moe",
    block="HunYuanMoEV1Moe",
    config=lambda s: {
        "class": "HunYuanMoEV1Config",
        "hidden_size": s.d_model,
        "intermediate_size": s.d_ff,
        "num_experts": s.num_experts,
        "moe_topk": s.top_k,
    },
    router_weight="gate.wg.weight",
    shared="shared_mlp",
    kept=("wg.weight",),
)
DBRX = Recipe(
    preset="dbrx",
    module="dbrx",
    block="DbrxFFN",
    config=lambda s: {"class": "DbrxConfig", "d_model": s.d_model, "ffn_config": dbrx_ffn(s, 1.0)},
    router_weight="router.layer.weight",
    experts=blocks.flat,
    route=f.route_dbrx,
    rank=f.rounded_softmax_of,
    # The norm and the quotient.
    roundings=2,
)
PHIMOE = Recipe(
    preset="phimoe",
    module="phimoe",
    block="PhimoeSparseMoeBlock",
    config=sized("PhimoeConfig"),
    router_weight="router.weight",
    route=f.route_of("router"),
    rank=f.logits_of,
    # Two choices are written out; `num_experts_per_tok` changes nothing.
    min_choices=2,
    max_choices=2,
)


def dbrx_ffn(s: Sizes, norm: float | None) -> dict[str, Any]:
    return {
        "ffn_hidden_size": s.d_ff,
        "moe_num_experts": s.num_experts,
        "moe_top_k": s.top_k,
        "moe_normalize_expert_weights": norm,
    }


def dbrx(norm: float | None, fields: Mapping[str, Any], roundings: int) -> Recipe:
    """DBRX with another norm of the weights."""
    config: Configure = lambda s: {"class": "DbrxConfig", "d_model": s.d_model, "ffn_config": dbrx_ffn(s, norm)}  # noqa: E731
    return replace(DBRX, config=config, fields=lambda s: fields, roundings=roundings)


RECIPES: Mapping[str, Recipe] = MappingProxyType(
    {
        "mixtral": Recipe(
            preset="mixtral",
            module="mixtral",
            block="MixtralSparseMoeBlock",
            config=sized("MixtralConfig"),
            rank=f.softmax_of,
        ),
        **both_ways("qwen2_moe", QWEN2, off=AS_IT_IS, on=normalise("sum")),
        **both_ways("qwen3_moe", QWEN3, off=AS_IT_IS, on=normalise("sum")),
        "dbrx": DBRX,
        "dbrx p=2": dbrx(2.0, {"norm_order": 2.0}, roundings=2),
        "dbrx p=None": dbrx(None, {"normalise": "none"}, roundings=0),
        "llama4": Recipe(
            preset="llama4",
            module="llama4",
            block="Llama4TextMoe",
            config=sized("Llama4TextConfig"),
            router_weight="router.weight",
            experts=blocks.stacked_transposed,
            shared="shared_expert",
            route=f.route_llama4,
            rank=f.logits_of,
            roundings=1,
        ),
        # `norm_topk_prob` is in the configuration and not in the modeling file: it changes nothing.
        **both_ways("deepseek_v2", DEEPSEEK_V2, off=AS_IT_IS, on=AS_IT_IS),
        "deepseek_v2_lite": DEEPSEEK_V2_LITE,
        **both_ways("deepseek_v3", DEEPSEEK_V3, off=normalise("none"), on=AS_IT_IS),
        **both_ways("glm4_moe", GLM4, off=normalise("none"), on=AS_IT_IS),
        "glm4_moe groups": replace(GLM4, config=grouped(GLM4.config), fields=group_limit()),
        **both_ways("olmoe", OLMOE, off=AS_IT_IS, on=normalise("sum")),
        "gpt_oss": Recipe(
            preset="gpt_oss",
            module="gpt_oss",
            block="GptOssMLP",
            config=sized("GptOssConfig"),
            router_weight="router.weight",
            more_weights={"router.bias": "router.bias"},
            experts=blocks.stacked_transposed_with_bias,
            route=f.route_of("router"),
            rank=f.logits_of,
            roundings=1,
            gain=5.0,
        ),
        "switch": Recipe(
            preset="switch",
            module="switch_transformers",
            block="SwitchTransformersSparseMLP",
            config=lambda s: {
                "class": "SwitchTransformersConfig",
                "d_model": s.d_model,
                "d_ff": s.d_ff,
                "num_experts": s.num_experts,
                "expert_capacity": SWITCH_CAPACITY,
            },
            fields=lambda s: {"capacity": Capacity(absolute=SWITCH_CAPACITY, per="sequence")},
            router_weight="router.classifier.weight",
            experts=blocks.one_by_one("wi", "wo", bias=False),
            route=f.route_switch,
            max_choices=1,
        ),
        "phimoe": PHIMOE,
        "phimoe wide": replace(
            PHIMOE,
            config=sized("PhimoeConfig", router_jitter_noise=0.3),
            fields=lambda s: {"sparsemixer_jitter": 0.3},
        ),
        "jamba": Recipe(
            preset="jamba",
            module="jamba",
            block="JambaSparseMoeBlock",
            config=sized("JambaConfig", experts="num_experts"),
            router_weight="router.weight",
            route=f.route_of("router"),
            rank=f.softmax_of,
            roundings=1,
        ),
        "granitemoe": Recipe(
            preset="granitemoe",
            module="granitemoe",
            block="GraniteMoeMoE",
            config=sized("GraniteMoeConfig"),
            router_weight="router.weight",
            route=f.route_of("router"),
            rank=f.logits_of,
            roundings=1,
        ),
        "minimax_m2": Recipe(
            preset="minimax_m2",
            module="minimax_m2",
            block="MiniMaxM2SparseMoeBlock",
            config=sized("MiniMaxM2Config"),
            more_weights={"router.selection_bias": "e_score_correction_bias"},
            route=f.route_with_bias,
            rank=f.biased_sigmoid_of,
        ),
        "ernie4_5_moe": Recipe(
            preset="ernie4_5_moe",
            module="ernie4_5_moe",
            block="Ernie4_5_MoeSparseMoeBlock",
            config=lambda s: {
                "class": "Ernie4_5_MoeConfig",
                "hidden_size": s.d_model,
                "moe_intermediate_size": s.d_ff,
                "moe_num_experts": s.num_experts,
                "moe_k": s.top_k,
                "moe_num_shared_experts": 2,
            },
            more_weights={"router.selection_bias": "gate.moe_statics.e_score_correction_bias"},
            shared="shared_experts",
            shared_widths=2,
            roundings=1,
            kept=("gate.weight", "moe_statics"),
        ),
        "hunyuan_v1_moe": HUNYUAN,
        # Cast as a whole, as from_pretrained does: its router, made for float32, then runs in bfloat16.
        "hunyuan_v1_moe cast": replace(
            HUNYUAN, fields=lambda s: {"linear_dtype": "model"}, rank=f.softmax_of, roundings=1, kept=()
        ),
        "longcat_flash": Recipe(
            preset="longcat_flash",
            module="longcat_flash",
            block="LongcatFlashMoE",
            config=lambda s: {
                "class": "LongcatFlashConfig",
                "hidden_size": s.d_model,
                "expert_ffn_hidden_size": s.d_ff,
                "n_routed_experts": s.num_experts,
                "zero_expert_num": s.num_experts // 2 + 1,
                "moe_topk": s.top_k,
            },
            fields=lambda s: {"num_zero_experts": s.num_experts // 2 + 1},
            router_weight="router.classifier.weight",
            more_weights={"router.selection_bias": "router.e_score_correction_bias"},
            experts=blocks.used_rows,
            route=f.route_of("router"),
            # With one choice its experts fail: a mask of [1, T] is squeezed to [T] and unpacked as two axes.
            min_choices=2,
        ),
        "deepseek_v4": DEEPSEEK_V4,
        "deepseek_v4_hash": replace(
            DEEPSEEK_V4,
            preset="deepseek_v4_hash",
            fields=lambda s: {"vocab_size": VOCABULARY},
            more_weights={},
            route=f.route_by_token_id,
            rank=None,
            block_arguments={"layer_idx": 0},
        ),
    }
)
