"""Presets: the routers of the literature and of published models, by the names that people know.

Formulas were read from the modeling files of transformers 5.23.0, and are compared with them by the tests: equal
experts, weights and outputs from equal parameters. Where a paper and the file disagree the preset follows the file,
and `Family.notes` says so. A preset fixes the formula; sizes (experts, choices, groups, capacity) are yours to change
by keyword. In training, PhiMoE draws at random, as its paper does.

Weights are float32 here, in every family. Several files round theirs to the model's dtype before use: in bfloat16
theirs are then off by up to 1/256 of a weight for each rounding.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal

from headgate.errors import SpecError
from headgate.spec.experts import ExpertSpec
from headgate.spec.router import Capacity, GroupLimit, RouterSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """One model family's MoE layer: its router's fields, its experts' function, and whether it has a shared expert.

    Attributes:
        summary: what sets it apart, and its source.
        router: the fields in which its `RouterSpec` differs from the default.
        experts: what one expert computes.
        shared: no shared expert ("none"), one added as it is ("plain") or times a learned gate ("gated").
        zero_fraction: zero-compute experts per expert, where the number isn't given.
        notes: where the paper, the modeling file and its configuration disagree, and what this means for you.
    """

    summary: str
    router: Mapping[str, Any]
    experts: ExpertSpec = field(default_factory=ExpertSpec)
    shared: Literal["none", "plain", "gated"] = "none"
    zero_fraction: float = 0.0
    notes: str = ""


_MODEL = {"linear_dtype": "model"}
_SOFTMAX_UNNORMALISED = {**_MODEL, "normalise": "none"}
_SIGMOID_BIASED = {"score": "sigmoid", "selection_bias": True, "epsilon": 1e-20}
_SQRT_SOFTPLUS = {
    **_MODEL,
    "score": "sqrt_softplus",
    "score_dtype": "model",
    "epsilon": 1e-20,
    "scale": 1.5,
    "top_k": 6,
}
_DEEPSEEK_V4_EXPERT = ExpertSpec(clamp=10.0)

FAMILIES: Mapping[str, Family] = MappingProxyType(
    {
        "mixtral": Family(
            summary="softmax, top-k, weights divided by their sum. Jiang et al., 2024, arXiv:2401.04088, section 2.1",
            router={**_MODEL, "top_k": 2},
            notes=(
                "The paper takes the softmax over the chosen logits, the file over all logits and divides by the "
                "chosen: the same weights. The file's `router_jitter_noise` multiplies the block's input in place, so "
                "its experts, and whoever else holds that tensor, see the noise. `jitter` here is seen by the router "
                "alone."
            ),
        ),
        "qwen2_moe": Family(
            summary="softmax, top-k, weights left as they are (norm_topk_prob=False); a gated shared expert",
            router={**_SOFTMAX_UNNORMALISED, "top_k": 4},
            shared="gated",
            notes="Set normalise='sum' for a checkpoint whose configuration has norm_topk_prob=true.",
        ),
        "qwen3_moe": Family(
            summary="as qwen2_moe without a shared expert",
            router={**_SOFTMAX_UNNORMALISED, "top_k": 8},
            notes=(
                "The configuration's default is norm_topk_prob=False; the released checkpoints set it to true: set "
                "normalise='sum' for those."
            ),
        ),
        "dbrx": Family(
            summary="softmax in the model's dtype, top-k, weights divided by their 1-norm. Databricks, 2024",
            router={**_MODEL, "score_dtype": "model", "top_k": 4},
            notes=(
                "`moe_normalize_expert_weights` is norm_order; where it is None, normalise='none'. Scores are rounded "
                "to the model's dtype before the best are picked, so in bfloat16 ties are common; they go to the "
                "lowest id here, and to any in the file. `moe_jitter_eps` multiplies the block's input in place, as in "
                "mixtral."
            ),
        ),
        "llama4": Family(
            summary="top-k of the logits, sigmoid of the chosen, applied to the expert's INPUT. Meta, 2025",
            router={
                **_SOFTMAX_UNNORMALISED,
                "score": "sigmoid",
                "select_on": "logits",
                "apply_to": "input",
                "top_k": 1,
            },
            shared="plain",
            notes="The file runs every expert on every token, those not chosen on zeros; here only the chosen run.",
        ),
        "deepseek_v2": Family(
            summary="softmax; the best 3 of 8 groups by their best expert; weights never normalised. arXiv:2405.04434",
            router={
                "normalise": "none",
                "group_limit": GroupLimit(num_groups=8, num_kept=3, group_score="max", mask_value="zero"),
                "scale": 16.0,
                "top_k": 6,
            },
            shared="plain",
            notes=(
                "`norm_topk_prob` is in the configuration and nowhere in the file, which therefore never normalises; "
                "set normalise='sum' if your model was trained so. Masked scores are 0, not -inf."
            ),
        ),
        "deepseek_v2_lite": Family(
            summary="as deepseek_v2 without groups and scale (topk_method='greedy')",
            router={"normalise": "none", "top_k": 6},
            shared="plain",
            notes="As deepseek_v2: `norm_topk_prob` has no effect in the file.",
        ),
        "deepseek_v3": Family(
            summary="sigmoid; selection bias; the best 4 of 8 groups by their best two; scale 2.5. arXiv:2412.19437",
            router={
                **_SIGMOID_BIASED,
                "group_limit": GroupLimit(num_groups=8, num_kept=4),
                "scale": 2.5,
                "top_k": 8,
            },
            shared="plain",
            notes="norm_topk_prob=False is normalise='none'. The scale multiplies either way, once.",
        ),
        "glm4_moe": Family(
            summary="as deepseek_v3 with one group and scale 1. Zhipu AI, 2025, arXiv:2508.06471",
            router={**_SIGMOID_BIASED, "top_k": 8},
            shared="plain",
            notes="With n_group > 1, pass group_limit=GroupLimit(num_groups=..., num_kept=...).",
        ),
        "olmoe": Family(
            summary="softmax, top-8, weights left as they are. Muennighoff et al., 2024, arXiv:2409.02060, section 3",
            router={**_SOFTMAX_UNNORMALISED, "top_k": 8},
            notes="Set normalise='sum' for a configuration with norm_topk_prob=true.",
        ),
        "gpt_oss": Family(
            summary="a router with a bias; top-k of the logits, softmax over those k. OpenAI, 2025, arXiv:2508.10925",
            router={
                **_MODEL,
                "score_dtype": "model",
                "linear_bias": True,
                "select_on": "logits",
                "normalise": "softmax",
                "top_k": 4,
            },
            experts=ExpertSpec(bias=True, interleaved=True, clamp=7.0, sigmoid_slope=1.702, up_offset=1.0),
        ),
        "switch": Family(
            summary="top-1, weight = its probability, capacity by position. Fedus et al., 2021, arXiv:2101.03961",
            router={
                "normalise": "none",
                "score_dtype": "rounded",
                "capacity": Capacity(factor=1.25, per="sequence"),
                "jitter": 0.01,
                "top_k": 1,
            },
            experts=ExpertSpec(activation="relu", gated=False),
            notes=(
                "The paper's capacity is a factor of the even share over all tokens; the file's is a fixed number of "
                "rows of each sequence (`expert_capacity`, 64): Capacity(absolute=64, per='sequence'). In float32 the "
                "file's jitter multiplies the block's input in place, so the experts see it too; in the paper, and "
                "here, only the router does."
            ),
        ),
        "nllb_moe": Family(
            summary="GShard's top-2 with capacity, weights normalised over the choices that got in. arXiv:2207.04672",
            router={
                "score_dtype": "rounded",
                "select_on": "logits",
                "epsilon": 2.0**-23,
                "epsilon_rule": "clamp",
                "capacity": Capacity(factor=1.0, eval_factor=64.0, drop_rule="choice_position", normalise="after_drop"),
                "top_k": 2,
            },
            experts=ExpertSpec(activation="relu", gated=False, bias=True),
            notes=(
                "Do not compare outputs with the file's: its experts take the router's 0/1 mask for expert ids, so "
                "only the first two ever run. The router is as described here. Its `expert_capacity` is "
                "Capacity(absolute=64), in training only; there, an earlier evaluation overwrites it. Outside training "
                "each expert takes up to the fraction `moe_eval_capacity_token_fraction` of all tokens, an eval_factor "
                "of that times E / K; the default of 1 drops nothing, as eval_factor=64 here up to 128 experts. In "
                "bfloat16 the file clamps the sum at 2**-7 instead of 2**-23. `moe_token_dropout`, which also shrinks "
                "the file's outputs outside training, is left out."
            ),
        ),
        "phimoe": Family(
            summary="SparseMixer-v2: masked softmax, one choice after the other. Liu et al., 2024, arXiv:2409.12136",
            router={
                **_SOFTMAX_UNNORMALISED,
                "score_dtype": "model",
                "select_on": "logits",
                "selection": "sparsemixer",
                "top_k": 2,
            },
            notes=(
                "The file always makes two choices, whatever `num_experts_per_tok` says. It compares logits with the "
                "threshold in the model's dtype, and so does this preset."
            ),
        ),
        "jamba": Family(
            summary="softmax, top-k, weights left as they are. AI21, 2024, arXiv:2403.19887",
            router={**_SOFTMAX_UNNORMALISED, "top_k": 2},
        ),
        "granitemoe": Family(
            summary="top-k of the logits, softmax over those k in float32. IBM, 2024",
            router={**_MODEL, "select_on": "logits", "normalise": "softmax", "top_k": 2},
        ),
        "minimax_m2": Family(
            summary="sigmoid; selection bias; weights divided by their sum. MiniMax, 2025",
            router={**_MODEL, "score": "sigmoid", "selection_bias": True, "top_k": 8},
            notes=(
                "The file does not keep the selection bias in float32 when a model is loaded in bfloat16; here it "
                "stays."
            ),
        ),
        "ernie4_5_moe": Family(
            summary="softmax; selection bias; weights divided by their sum, at least 1e-12. Baidu, 2025",
            router={"selection_bias": True, "epsilon": 1e-12, "epsilon_rule": "clamp", "top_k": 6},
            shared="plain",
            notes=(
                "`moe_num_shared_experts` shared experts are one of that many times the width; where there is none, "
                "build MoE(..., router='ernie4_5_moe') instead of from_family."
            ),
        ),
        "hunyuan_v1_moe": Family(
            summary="float32 softmax, top-k, weights divided by their sum. Tencent, 2024, arXiv:2411.02265",
            router={"top_k": 8},
            shared="plain",
            notes=(
                "The configuration's default is one choice, whose weight, divided by itself, is always 1: the router "
                "then gets no gradient from it. The file makes its router in float32 but does not keep it there: "
                "loaded in bfloat16 it multiplies in bfloat16, linear_dtype='model'. The paper sends tokens of full "
                "experts elsewhere at random; the file drops none."
            ),
        ),
        "longcat_flash": Family(
            summary="softmax over experts and zero-compute experts; selection bias; scale 6. arXiv:2509.01322",
            router={"normalise": "none", "selection_bias": True, "scale": 6.0, "top_k": 12},
            zero_fraction=0.5,
            notes=(
                "`router_bias` creates a bias that the file never adds. The file allots weights to zero-compute "
                "experts too, and never reads them. It fails with one choice per token."
            ),
        ),
        "deepseek_v4": Family(
            summary="sqrt(softplus); selection bias; no groups; weights divided by their sum; scale 1.5",
            router={**_SQRT_SOFTPLUS, "selection_bias": True},
            experts=_DEEPSEEK_V4_EXPERT,
            shared="plain",
            notes="`norm_topk_prob` has no effect in the file, which always normalises.",
        ),
        "deepseek_v4_hash": Family(
            summary="the first layers of deepseek_v4: ids by a table of token ids, weights from the learned scores",
            router={**_SQRT_SOFTPLUS, "selection": "hash"},
            experts=_DEEPSEEK_V4_EXPERT,
            shared="plain",
            notes="Load the file's `tid2eid` into `router.expert_table`. No selection bias; otherwise as deepseek_v4.",
        ),
        "noisy_top_k": Family(
            summary="top-k of logits with learned noise, softmax over those k. Shazeer et al., 2017, arXiv:1701.06538",
            router={"noise": "learned", "select_on": "logits", "normalise": "softmax", "top_k": 4},
        ),
        "expert_choice": Family(
            summary="each expert takes its best tokens; causal by a learned threshold. Zhou et al., 2022, "
            "arXiv:2202.09368",
            router={
                "selection": "expert_choice",
                "normalise": "none",
                "capacity": Capacity(factor=1.0),
                "top_k": 2,
            },
        ),
        "sinkhorn": Family(
            summary="ids by balanced transport in training, by logits outside; weight sigmoid. Clark et al., 2022, "
            "arXiv:2202.01169",
            router={"selection": "sinkhorn", "score": "sigmoid", "normalise": "none", "top_k": 1},
        ),
        "hash": Family(
            summary="ids by a fixed random table of token ids, equal weights. Roller et al., 2021, arXiv:2106.04426",
            router={"selection": "hash", "score": "ones", "top_k": 1},
        ),
        "top_p": Family(
            summary="as many experts as reach a probability mass. Huang et al., 2024, arXiv:2403.07652",
            router={"selection": "top_p", "normalise": "none", "top_p": 0.4, "top_k": 4},
        ),
        "threshold": Family(
            summary="every expert whose sigmoid score reaches a threshold, at most K; a token may get none",
            router={
                "selection": "threshold",
                "score": "sigmoid",
                "normalise": "none",
                "threshold": 0.5,
                "top_k": 4,
            },
        ),
    }
)


def preset_names() -> list[str]:
    """The names that `preset` and `family` know, sorted."""
    return sorted(FAMILIES)


def family(name: str) -> Family:
    """The family of that name.

    Raises:
        SpecError: no such family; the message gives the nearest names.
    """
    if name in FAMILIES:
        return FAMILIES[name]
    nearest = difflib.get_close_matches(name, FAMILIES, n=3, cutoff=0.4) or preset_names()
    raise SpecError(f"preset (={name!r}) is not known; did you mean {', '.join(nearest)}?")


def preset(name: str, *, num_experts: int, top_k: int | None = None, **fields: Any) -> RouterSpec:
    """The router of a family, at your sizes.

    Args:
        name: one of `preset_names()`.
        num_experts: E, the experts with weights.
        top_k: K; None = the family's usual number.
        fields: any other field of `RouterSpec`, to replace the family's.

    Raises:
        SpecError: no such family, or fields that do not fit together.

    Example:
        >>> preset("deepseek_v3", num_experts=64, top_k=6).scale
        2.5
    """
    known = family(name)
    values: dict[str, Any] = {**known.router, **fields, "num_experts": num_experts}
    if known.zero_fraction:
        values.setdefault("num_zero_experts", max(1, round(num_experts * known.zero_fraction)))
    if top_k is not None:
        values["top_k"] = top_k
    try:
        return RouterSpec(**values)
    except TypeError as error:
        raise SpecError(f"preset {name!r}: {error}; RouterSpec's docstring lists its fields") from None
    except SpecError as error:
        raise SpecError(f"preset {name!r}: {error}") from None
