"""The router's formula of each architecture of transformers, as a `RouterSpec`, from its configuration alone.

Read from the modeling files of transformers 5.23.0 and compared with them by the tests: from the logits that a tap
records, each spec gives the model's own ids and weights. `Formula.gives` says where it gives less.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

from headgate.errors import SpecError
from headgate.spec import Capacity, GroupLimit, RouterSpec, preset

_Config = Any
_Make = Callable[[_Config], RouterSpec]


@dataclass(frozen=True, slots=True, kw_only=True)
class Formula:
    """One layer's router.

    Attributes:
        spec: the formula; None where a `RouterSpec` can't say it.
        gives: what the spec recomputes from the logits: "ids and weights", "ids", or "nothing".
        note: what is missing, and why; "" where nothing is.
    """

    spec: RouterSpec | None
    gives: Literal["ids and weights", "ids", "nothing"]
    note: str = ""


def spec_from_config(config: _Config, *, layer_index: int | None = None) -> RouterSpec:
    """The router of a transformers model as data.

    Args:
        config: of the model, or of a composite whose text model has experts.
        layer_index: the decoder layer, where layers differ.

    Raises:
        SpecError: the architecture isn't known, or no spec can say what its router does; the message says why.

    Example:
        >>> from transformers import MixtralConfig
        >>> spec_from_config(MixtralConfig(num_local_experts=4)).num_experts
        4
    """
    formula = formula_from_config(config, layer_index=layer_index)
    if formula.spec is None:
        raise SpecError(
            f"model_type (={config.model_type!r}) has a router that no RouterSpec describes: {formula.note}"
        )
    return formula.spec


def formula_from_config(config: _Config, *, layer_index: int | None = None) -> Formula:
    """As `spec_from_config`, with what the spec leaves out.

    Raises:
        SpecError: the architecture isn't known, or its layers differ and no layer is named.
    """
    text = config if config.model_type in _FORMULAS else config.get_text_config()
    name = text.model_type
    if name == "deepseek_v4":
        name = _deepseek_v4_kind(text, layer_index)
    if name == "hunyuan_v1_moe":
        return Formula(spec=_hunyuan(text, layer_index), gives="ids and weights")
    if name in _UNKNOWABLE:
        return Formula(spec=None, gives="nothing", note=_UNKNOWABLE[name])
    if name not in _FORMULAS:
        raise SpecError(
            f"model_type (={config.model_type!r}) is no MoE architecture whose router is known; "
            "write its RouterSpec by hand, or record it with a tap, which needs none"
        )
    note = _NOTES.get(name, "")
    return Formula(spec=_FORMULAS[name](text), gives="ids" if name in _IDS_ALONE else "ids and weights", note=note)


def formula_or_reason(config: _Config, *, layer_index: int | None = None) -> Formula:
    """As `formula_from_config`; where that raises, a formula without a spec that notes why.

    Args:
        config: of the model, or None where it has none.
        layer_index: the decoder layer, where layers differ.
    """
    if config is None:
        return Formula(spec=None, gives="nothing", note="the model has no configuration that says its formula")
    try:
        return formula_from_config(config, layer_index=layer_index)
    except SpecError as error:
        return Formula(spec=None, gives="nothing", note=str(error))


def known_model_types() -> list[str]:
    """The architectures that `formula_from_config` knows, sorted."""
    return sorted({*_FORMULAS, *_UNKNOWABLE})


def _num_experts(config: _Config) -> int:
    for name in ("n_routed_experts", "num_local_experts", "num_experts", "moe_num_experts"):
        value = getattr(config, name, None)
        if isinstance(value, int):
            return value
    raise SpecError(f"the configuration of {config.model_type!r} gives no number of experts; set num_experts")


def _sizes(config: _Config) -> dict[str, Any]:
    names = ("num_experts_per_tok", "top_k_experts", "moe_topk", "moe_k")
    top_k = next(getattr(config, name) for name in names if getattr(config, name, None) is not None)
    return {"num_experts": _num_experts(config), "top_k": top_k}


def _normalise(config: _Config) -> Literal["sum", "none"]:
    return "sum" if config.norm_topk_prob else "none"


def _groups(config: _Config, **rule: Any) -> GroupLimit | None:
    if not config.n_group or config.n_group == 1:
        return None
    return GroupLimit(num_groups=config.n_group, num_kept=config.topk_group, **rule)


def _sigmoid_groups(
    config: _Config, *, scale: float | None = None, mask: Literal["-inf", "zero"] = "-inf"
) -> RouterSpec:
    """DeepSeek-V3 and those after it."""
    return RouterSpec(
        **_sizes(config),
        score="sigmoid",
        selection_bias=True,
        group_limit=_groups(config, mask_value=mask),
        normalise=_normalise(config),
        epsilon=1e-20,
        scale=config.routed_scaling_factor if scale is None else scale,
    )


def _softmax_groups(config: _Config) -> RouterSpec:
    """DeepSeek-V2."""
    limited = config.topk_method == "group_limited_greedy"
    return RouterSpec(
        **_sizes(config),
        group_limit=_groups(config, group_score="max", mask_value="zero") if limited else None,
        normalise="none",
        scale=config.routed_scaling_factor,
    )


def _softmax(config: _Config) -> RouterSpec:
    """Qwen-MoE: normalised where the configuration says so."""
    return RouterSpec(**_sizes(config), linear_dtype="model", normalise=_normalise(config))


def _softmax_normalised(config: _Config) -> RouterSpec:
    return RouterSpec(**_sizes(config), linear_dtype="model")


def _softmax_over_chosen(config: _Config) -> RouterSpec:
    """Granite: the best logits, and a softmax over them."""
    return preset("granitemoe", **_sizes(config))


def _softmax_over_chosen_in_model_dtype(config: _Config, **more: Any) -> RouterSpec:
    return preset("gpt_oss", **{**_sizes(config), **more})


def _sigmoid(config: _Config, **fields: Any) -> RouterSpec:
    """Sigmoid scores and a selection bias, weights divided by their sum: MiniMax-M2 and its kin."""
    return RouterSpec(
        **{**_sizes(config), "score": "sigmoid", "selection_bias": True, "linear_dtype": "model", **fields}
    )


def _cohere(config: _Config) -> RouterSpec:
    if config.expert_selection_fn == "softmax":
        return _softmax_over_chosen(config)
    fields: dict[str, Any] = {
        "score": "sigmoid",
        "score_dtype": "model",
        "linear_dtype": "model",
        "select_on": "logits",
    }
    return RouterSpec(**_sizes(config), **fields, normalise=_normalise(config))


def _mistral(config: _Config, *, normalise: Literal["sum", "none"], **fields: Any) -> RouterSpec:
    """Softmax, groups by their best two, masked with 0, which no softmax score is below."""
    return RouterSpec(
        **_sizes(config),
        **fields,
        group_limit=_groups(config, mask_value="zero"),
        normalise=normalise,
        epsilon=1e-20,
        scale=config.routed_scaling_factor,
    )


def _dbrx(config: _Config) -> RouterSpec:
    ffn = config.ffn_config
    sizes = {"num_experts": ffn.moe_num_experts, "top_k": ffn.moe_top_k}
    order = ffn.moe_normalize_expert_weights
    return preset("dbrx", **sizes, **({"normalise": "none"} if order is None else {"norm_order": order}))


def _deepseek_v4_kind(config: _Config, layer_index: int | None) -> str:
    kinds = set(config.mlp_layer_types)
    if layer_index is None and len(kinds) > 1:
        raise SpecError(
            "model_type (='deepseek_v4') routes its first layers by token id and the others by scores; give layer_index"
        )
    kind = config.mlp_layer_types[layer_index or 0]
    return "deepseek_v4_hash" if kind == "hash_moe" else "deepseek_v4"


def _hunyuan(config: _Config, layer_index: int | None) -> RouterSpec:
    """Layers may differ in experts and choices."""
    sizes = {"num_experts": config.num_experts, "top_k": config.moe_topk}
    lists: dict[str, Any] = {name: value for name, value in sizes.items() if not isinstance(value, int)}
    if lists and layer_index is None:
        raise SpecError(f"{', '.join(lists)} of 'hunyuan_v1_moe' differ between layers; give layer_index")
    one_layer = {name: value if isinstance(value, int) else value[layer_index] for name, value in sizes.items()}
    return preset("hunyuan_v1_moe", **one_layer)


def _switch(config: _Config) -> RouterSpec:
    capacity = Capacity(absolute=config.expert_capacity, per="sequence")
    return preset(
        "switch", num_experts=config.num_experts, top_k=1, capacity=capacity, jitter=config.router_jitter_noise
    )


def _nllb(config: _Config) -> RouterSpec:
    """Outside training each expert takes a fraction of all tokens."""
    num_experts = config.num_experts
    capacity = Capacity(
        factor=1.0,
        eval_factor=config.moe_eval_capacity_token_fraction * num_experts / 2,
        drop_rule="batch_prioritised" if config.batch_prioritized_routing else "choice_position",
        normalise="before_drop" if config.normalize_router_prob_before_dropping else "after_drop",
    )
    return preset("nllb_moe", num_experts=num_experts, capacity=capacity)


def _longcat(config: _Config) -> RouterSpec:
    return preset(
        "longcat_flash",
        **_sizes(config),
        num_zero_experts=config.zero_expert_num or 0,
        scale=config.routed_scaling_factor,
    )


_SIGMOID_GROUP_NAMES = (
    *("axk1", "bailing_hybrid", "deepseek_v3", "deepseek_v32", "dots1", "dots3_note_text", "exaone_moe", "glm4_moe"),
    *("glm4_moe_lite", "glm4v_moe_text", "glm5_next_text", "glm_moe_dsa", "hy_v4", "kimi_linear", "mimo_v2_flash"),
    *("nemotron_h", "solar_open"),
)
_SOFTMAX_NAMES = (
    *("flex_olmo", "mellum", "olmoe", "qwen2_moe", "qwen3_moe", "qwen3_next", "qwen3_omni_moe_talker_text"),
    "qwen4_exp_text",
)
_NORMALISED_NAMES = ("minimax", "mixtral", "qwen3_5_moe_text", "qwen3_omni_moe_text", "qwen3_vl_moe_text")
_GEMMA_NAMES = ("gemma4_text", "diffusion_gemma_text")
_OVER_CHOSEN_NAMES = ("granitemoe", "granitemoe_swa", "granitemoehybrid", "granitemoeshared", "jetmoe")

_FORMULAS: Mapping[str, _Make] = MappingProxyType(
    {
        **dict.fromkeys(_SIGMOID_GROUP_NAMES, _sigmoid_groups),
        **dict.fromkeys(("deepseek_v2", "deepseek_ocr2_text", "unlimited_ocr_text"), _softmax_groups),
        **dict.fromkeys(_SOFTMAX_NAMES, _softmax),
        **dict.fromkeys((*_NORMALISED_NAMES, *_GEMMA_NAMES), _softmax_normalised),
        **dict.fromkeys(_OVER_CHOSEN_NAMES, _softmax_over_chosen),
        **dict.fromkeys(("minimax_m2", "minimax_m3_vl_text", "step3p5", "laguna", "inkling_text"), _sigmoid),
        "afmoe": lambda c: _sigmoid(c, epsilon=1e-20, scale=c.route_scale),
        "aria_text": lambda c: _softmax_over_chosen_in_model_dtype(c, linear_bias=False),
        "axk2": lambda c: _sigmoid_groups(c, mask="zero"),
        "beam": lambda c: _sigmoid_groups(c, scale=1.0),
        "cohere2_moe": _cohere,
        "dbrx": _dbrx,
        # Of a number that is no square the experts beyond the product of the keys are never chosen.
        "doge": lambda c: _softmax_over_chosen_in_model_dtype(
            c, num_experts=math.isqrt(c.num_experts) ** 2, linear_bias=False
        ),
        "deepseek_v4": lambda c: preset("deepseek_v4", **_sizes(c), scale=c.routed_scaling_factor),
        "deepseek_v4_hash": lambda c: preset(
            "deepseek_v4_hash", **_sizes(c), scale=c.routed_scaling_factor, vocab_size=c.vocab_size
        ),
        "ernie4_5_moe": lambda c: preset("ernie4_5_moe", **_sizes(c), epsilon=c.moe_norm_min),
        "ernie4_5_vl_moe_text": lambda c: preset("ernie4_5_moe", **_sizes(c), epsilon=c.moe_norm_min),
        "flint": lambda c: RouterSpec(**_sizes(c), score="sigmoid", normalise=_normalise(c)),
        "gpt_oss": _softmax_over_chosen_in_model_dtype,
        "hy_v3": lambda c: _sigmoid(c, linear_dtype="float32", epsilon=1e-20, scale=c.router_scaling_factor),
        "inkling2_text": lambda c: _sigmoid(c, linear_dtype="float32", epsilon=1e-20, scale=c.routed_scaling_factor),
        "jamba": lambda c: preset("jamba", **_sizes(c)),
        "kolibri1": lambda c: _sigmoid(c, linear_dtype="float32", select_on="logits", normalise=_normalise(c)),
        "lfm2_moe": lambda c: _sigmoid(
            c,
            score_dtype="model",
            selection_bias=c.use_expert_bias,
            normalise=_normalise(c),
            epsilon=1e-6,
            scale=c.routed_scaling_factor,
        ),
        "llama4_text": lambda c: preset("llama4", **_sizes(c)),
        "longcat_flash": _longcat,
        "mistral4": lambda c: _mistral(c, normalise=_normalise(c), linear_dtype="model", score_dtype="model"),
        "mistral_large4_text": lambda c: _mistral(c, normalise="sum"),
        "muse_spark_text": lambda c: _sigmoid(c, linear_dtype="float32", epsilon=1e-15, scale=c.routed_scaling_factor),
        "nllb-moe": _nllb,
        "openai_privacy_filter": lambda c: _softmax_over_chosen_in_model_dtype(
            c, linear_dtype="float32", score_dtype="float32", scale=1.0 / c.num_experts_per_tok
        ),
        "phimoe": lambda c: preset(
            "phimoe", num_experts=c.num_local_experts, top_k=2, sparsemixer_jitter=c.router_jitter_noise
        ),
        "switch_transformers": _switch,
        "zaya": lambda c: RouterSpec(
            **_sizes(c),
            num_zero_experts=1,
            selection_bias=True,
            linear_dtype="model",
            score_dtype="model",
            normalise="none",
        ),
    }
)

_SHARED_SUM = "weights are normalised together with those of the shared experts, which a RouterSpec does not see"
_PER_EXPERT = "each weight is then multiplied by a learned scale of its expert"
_IDS_ALONE = frozenset({"inkling_text", *_GEMMA_NAMES})
_NOTES: Mapping[str, str] = MappingProxyType(
    {
        "inkling_text": _SHARED_SUM,
        **dict.fromkeys(_GEMMA_NAMES, f"the router norms and scales its input first; {_PER_EXPERT}"),
        "axk2": "an expert of a masked group that is chosen after all keeps its weight in the model, and loses it here",
        "doge": (
            "an expert's logit is the sum of two keys' logits; a forward pass of several tokens reads the keys across "
            "tokens, so that a choice depends on later ones"
        ),
        "deepseek_v4_hash": "ids come from a table of token ids (tid2eid), not from the logits",
        "laguna": "the logits are soft-capped before the sigmoid; a tap records them capped",
        "zaya": (
            "an MLP makes the logits, with a state that passes from layer to layer; a token that chooses what computes "
            "nothing skips the experts, with the weight 0, where a layer of Headgate's returns its weighted input"
        ),
        "muse_spark_text": "the logits are multiplied by output_multiplier; a tap records them multiplied",
    }
)

_UNKNOWABLE: Mapping[str, str] = MappingProxyType(
    {
        **dict.fromkeys(
            ("vitpose", "vitpose_backbone"), "there is no router: the caller names the expert by its data set"
        ),
    }
)
