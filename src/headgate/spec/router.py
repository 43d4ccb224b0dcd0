"""A router is data: every field in which implementations of the same model disagree, spelled out."""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass
from typing import Any, Literal, get_args, get_type_hints

from headgate.errors import SpecError

ScoreFunction = Literal["softmax", "sigmoid", "sqrt_softplus", "linear", "ones"]
Selection = Literal["top_k", "top_p", "threshold", "expert_choice", "sinkhorn", "hash", "sparsemixer"]
Precision = Literal["float32", "model"]
ScorePrecision = Literal["float32", "model", "rounded"]


def check_literals(spec: Any) -> None:
    """Raise `SpecError` for a field of a frozen spec whose value is not one of its `Literal` type's.

    Raises:
        SpecError: the field's name and value, and the values it may have.
    """
    for name, hint in get_type_hints(type(spec)).items():
        allowed = get_args(hint)
        value = getattr(spec, name)
        if allowed and all(isinstance(a, str) for a in allowed) and value not in allowed:
            raise SpecError(f"{name} (={value!r}) is not known; use one of {', '.join(map(repr, allowed))}")


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupLimit:
    """Experts are split into equal groups in id order, and a token chooses only within its best groups.

    Attributes:
        num_groups: how many groups; divides the number of experts.
        num_kept: how many groups a token may use.
        group_score: a group is as good as its best expert ("max", DeepSeek-V2), as its best two together
            ("top2_sum", DeepSeek-V3), or as its best K / num_kept together ("top_share_sum").
        mask_value: what the experts of other groups get: "-inf", or "zero" (DeepSeek-V2), which lets one of them
            be chosen when every allowed score is at or below 0.

    References:
        DeepSeek-AI, "DeepSeek-V2", 2024, https://arxiv.org/abs/2405.04434, section 2.2.2.
    """

    num_groups: int
    num_kept: int
    group_score: Literal["max", "top2_sum", "top_share_sum"] = "top2_sum"
    mask_value: Literal["-inf", "zero"] = "-inf"

    def __post_init__(self) -> None:
        check_literals(self)
        if not 1 <= self.num_kept <= self.num_groups:
            raise SpecError(
                f"num_kept (={self.num_kept}) must be between 1 and num_groups (={self.num_groups}); "
                "keep at least one group and at most all"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Capacity:
    """How many rows an expert takes before it drops the rest.

    C = `absolute`, or ceil(`factor` * slots / E), where slots = tokens * K, of the whole batch or of each sequence.
    Padding takes no capacity but counts as tokens; zero-compute experts cost nothing and are never full.

    Attributes:
        factor: C as a multiple of an expert's even share. Exactly one of `factor` and `absolute` is given.
        absolute: C itself.
        eval_factor: replaces both outside training; None = the same as in training.
        per: the tokens that share the capacity: the "batch", or each "sequence" on its own (Switch in transformers).
        drop_rule: who gets in first: "position", earlier tokens; "choice_position", all first choices before any
            second choice, each in token order (GShard); "score", the highest score; "batch_prioritised", as
            "choice_position" but tokens in the order of their best score (Riquelme et al., 2021). Ties: lowest slot.
        normalise: whether weights are normalised over all K choices ("before_drop") or over those that got in
            ("after_drop").

    References:
        Lepikhin et al., "GShard", 2020, https://arxiv.org/abs/2006.16668, algorithm 1.
        Fedus et al., "Switch Transformers", 2021, https://arxiv.org/abs/2101.03961, equation 3.
        Riquelme et al., "Scaling Vision with Sparse Mixture of Experts", 2021, https://arxiv.org/abs/2106.05974,
        section 4.
    """

    factor: float | None = None
    absolute: int | None = None
    eval_factor: float | None = None
    per: Literal["batch", "sequence"] = "batch"
    drop_rule: Literal["position", "choice_position", "score", "batch_prioritised"] = "position"
    normalise: Literal["before_drop", "after_drop"] = "before_drop"

    def __post_init__(self) -> None:
        check_literals(self)
        if (self.factor is None) == (self.absolute is None):
            raise SpecError(
                f"capacity needs either a factor (={self.factor}) or an absolute size (={self.absolute}); give one"
            )
        for name in ("factor", "eval_factor"):
            value = getattr(self, name)
            if value is not None and not (value > 0 and math.isfinite(value)):
                raise SpecError(f"capacity {name} (={value}) must be positive and finite; 1.25 is a common choice")
        if self.absolute is not None and self.absolute < 0:
            raise SpecError(f"capacity absolute (={self.absolute}) must be at least 0; give the rows an expert takes")

    def size(self, *, num_tokens: int, top_k: int, num_experts: int, training: bool) -> int:
        """C in rows, for `num_tokens` tokens that share it."""
        factor = self.factor if training or self.eval_factor is None else self.eval_factor
        if factor is None:
            return self.absolute or 0
        return math.ceil(factor * num_tokens * top_k / num_experts)


@dataclass(frozen=True, slots=True, kw_only=True)
class RouterSpec:
    """Everything about a router but its weights. JSON-serialisable; equal specs route equally.

    Attributes:
        num_experts: E, those with weights.
        top_k: K, the most experts that a token gets. For expert choice: the average.
        num_zero_experts: further experts that return their input; ids num_experts and up (LongCat-Flash).
        score: scores from logits. "linear" leaves them as they are; "ones" has no weights and no logits at all.
        linear_dtype: dtype of the router's matrix product: "float32", or "model" = that of the input.
        score_dtype: dtype of the score function: "float32"; "model" = that of the input; "rounded" = float32, then
            rounded to that of the input (Switch).
        linear_bias: whether the router's linear layer has a bias.
        select_on: whether the best are found among "scores" or "logits".
        selection: how they are found. See `headgate.selection`.
        selection_bias: whether a bias is added to what is selected on. It never reaches the weights.
        group_limit: choose only within the best groups of experts; None = no groups.
        normalise: weights of a token's choices: "none"; "sum" = divided by their p-norm; "softmax" = softmax over
            the chosen logits. With top_k 1, "sum" and "softmax" make every weight 1, so that nothing of the training
            loss reaches the router: it learns from a balance loss alone, or not at all, and `Router` warns.
        norm_order: p of that norm; 1 is their sum.
        epsilon: guards the division, see `epsilon_rule`.
        epsilon_rule: "add" epsilon to the norm, or "clamp" the norm from below.
        scale: multiplies the weights, last.
        apply_to: whether a weight multiplies its expert's "output" or "input".
        noise: "learned" adds Gaussian noise of learned width to the logits in training (Shazeer et al.).
        jitter: in training the router's input is multiplied by uniform noise from [1 - jitter, 1 + jitter].
        second_expert: in training, the second choice is the next best ("best"), the best after Gumbel noise
            ("sampled"), or kept with probability min(1, 2 * its score) ("random") (GShard, NLLB-MoE).
        capacity: when experts are full; None = dropless. Required for expert choice, which fills it.
        threshold: for selection="threshold": the least score that gets an expert.
        top_p: for selection="top_p": the probability mass that the chosen experts reach together.
        sinkhorn_iterations: for selection="sinkhorn".
        sparsemixer_jitter: for selection="sparsemixer": half the relative distance to the best logit within which
            experts compete.
        vocab_size: for selection="hash": the number of token ids.
        causal_inference: outside training, selections that compare tokens with each other decide for each token
            alone: expert choice by a learned threshold, Sinkhorn by plain top-k.
        tie_rule: equal scores go to the lowest expert id; stated, not a choice.
    """

    num_experts: int
    top_k: int
    num_zero_experts: int = 0
    score: ScoreFunction = "softmax"
    linear_dtype: Precision = "float32"
    score_dtype: ScorePrecision = "float32"
    linear_bias: bool = False
    select_on: Literal["scores", "logits"] = "scores"
    selection: Selection = "top_k"
    selection_bias: bool = False
    group_limit: GroupLimit | None = None
    normalise: Literal["none", "sum", "softmax"] = "sum"
    norm_order: float = 1.0
    epsilon: float = 0.0
    epsilon_rule: Literal["add", "clamp"] = "add"
    scale: float = 1.0
    apply_to: Literal["output", "input"] = "output"
    noise: Literal["none", "learned"] = "none"
    jitter: float = 0.0
    second_expert: Literal["best", "sampled", "random"] = "best"
    capacity: Capacity | None = None
    threshold: float | None = None
    top_p: float | None = None
    sinkhorn_iterations: int = 8
    sparsemixer_jitter: float = 0.01
    vocab_size: int | None = None
    causal_inference: bool = True
    tie_rule: Literal["lowest_id"] = "lowest_id"

    def __post_init__(self) -> None:
        check_literals(self)
        _check_sizes(self)
        _check_options(self)
        _check_selection(self)

    @property
    def num_choices(self) -> int:
        """Experts that can be chosen, zero-compute ones included: the width of the logits."""
        return self.num_experts + self.num_zero_experts

    @property
    def may_see_later_tokens_in_training(self) -> bool:
        """Whether, in training, a token's choice or drop may depend on tokens after it."""
        if self.selection in ("expert_choice", "sinkhorn"):
            return True
        return self.capacity is not None and self.capacity.drop_rule != "position"

    @property
    def may_see_later_tokens_in_inference(self) -> bool:
        """Whether, outside training, a token's choice or drop may depend on tokens after it."""
        if self.selection in ("expert_choice", "sinkhorn"):
            return not self.causal_inference
        return self.may_see_later_tokens_in_training and not self._has_room_for_all_in_inference

    @property
    def _has_room_for_all_in_inference(self) -> bool:
        """Whether, outside training, each expert may take every token, so that the drop rule never applies."""
        capacity = self.capacity
        if capacity is None or capacity.eval_factor is None:
            return False
        return capacity.eval_factor * self.top_k >= self.num_experts

    def to_dict(self) -> dict[str, Any]:
        """Plain values, nested specs as dicts."""
        return dataclasses.asdict(self)

    def to_json(self) -> str:
        """One line of JSON that `from_json` reads back."""
        return json.dumps(self.to_dict(), sort_keys=True)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> RouterSpec:
        """The spec that `to_dict` wrote.

        Raises:
            SpecError: an unknown field, or a value that can't be.
        """
        known = {field.name for field in dataclasses.fields(cls)}
        unknown = sorted(set(values) - known)
        if unknown:
            raise SpecError(f"unknown RouterSpec fields {unknown}; this version knows {sorted(known)}")
        nested = dict(values)
        if nested.get("group_limit") is not None:
            nested["group_limit"] = GroupLimit(**nested["group_limit"])
        if nested.get("capacity") is not None:
            nested["capacity"] = Capacity(**nested["capacity"])
        return cls(**nested)

    @classmethod
    def from_json(cls, text: str) -> RouterSpec:
        """The spec that `to_json` wrote."""
        return cls.from_dict(json.loads(text))


def _check_sizes(spec: RouterSpec) -> None:
    if spec.num_experts < 1:
        raise SpecError(f"num_experts (={spec.num_experts}) must be at least 1; an MoE layer needs an expert")
    if spec.num_zero_experts < 0:
        raise SpecError(f"num_zero_experts (={spec.num_zero_experts}) must be at least 0; use 0 for none")
    if spec.top_k < 1:
        raise SpecError(f"top_k (={spec.top_k}) must be at least 1; each token needs a choice")
    if spec.top_k > spec.num_choices:
        raise SpecError(
            f"top_k (={spec.top_k}) must be at most the number of experts (={spec.num_choices}); "
            "lower top_k or add experts"
        )


def _check_options(spec: RouterSpec) -> None:
    if not 0.0 <= spec.jitter < 1.0:
        raise SpecError(f"jitter (={spec.jitter}) must be in [0, 1); 0.01 is Switch's choice")
    if spec.epsilon < 0.0:
        raise SpecError(f"epsilon (={spec.epsilon}) must be at least 0; DeepSeek-V3 uses 1e-20")
    if spec.norm_order <= 0.0:
        raise SpecError(f"norm_order (={spec.norm_order}) must be positive; 1 divides by the sum")
    if spec.second_expert != "best" and spec.top_k != 2:
        raise SpecError(f"second_expert (={spec.second_expert!r}) needs top_k 2, not {spec.top_k}; use 'best'")
    if spec.score == "linear" and spec.normalise == "sum":
        raise SpecError("score 'linear' may be negative, so normalise 'sum' has no meaning; use 'none' or 'softmax'")
    if spec.score == "ones" and spec.selection != "hash":
        raise SpecError(f"score 'ones' can't rank experts for selection {spec.selection!r}; it is for 'hash'")
    if spec.score == "ones" and spec.normalise == "softmax":
        raise SpecError("score 'ones' has no logits to normalise with 'softmax'; use 'sum'")
    limit = spec.group_limit
    if limit is None:
        return
    if spec.num_choices % limit.num_groups:
        raise SpecError(
            f"num_groups (={limit.num_groups}) must divide the number of experts (={spec.num_choices}); use a divisor"
        )
    group_size = spec.num_choices // limit.num_groups
    if limit.group_score == "top2_sum" and group_size < 2:
        raise SpecError(f"group_score 'top2_sum' needs groups of at least 2 experts, not {group_size}; use 'max'")
    if spec.top_k > limit.num_kept * group_size:
        raise SpecError(
            f"top_k (={spec.top_k}) must be at most the experts in the kept groups "
            f"(={limit.num_kept} * {group_size}); keep more groups"
        )


def _check_selection(spec: RouterSpec) -> None:
    needs = {"threshold": "threshold", "top_p": "top_p", "hash": "vocab_size", "expert_choice": "capacity"}
    name = needs.get(spec.selection)
    if name is not None and getattr(spec, name) is None:
        raise SpecError(f"selection {spec.selection!r} needs {name}; give it, as in RouterSpec(..., {name}=...)")
    for field in ("threshold", "top_p", "vocab_size"):
        if getattr(spec, field) is not None and needs.get(spec.selection) != field:
            raise SpecError(f"{field} (={getattr(spec, field)}) has no use in selection {spec.selection!r}; drop it")
    if spec.select_on == "logits" and spec.selection in ("expert_choice", "hash"):
        raise SpecError(f"select_on (='logits') has no use in selection {spec.selection!r}; drop it")
    if spec.top_p is not None and not 0.0 < spec.top_p <= 1.0:
        raise SpecError(f"top_p (={spec.top_p}) must be in (0, 1]; 0.4 is Huang et al.'s choice")
    if spec.top_p is not None and spec.score != "softmax":
        raise SpecError(f"selection 'top_p' adds up probabilities, so it needs score 'softmax', not {spec.score!r}")
    if spec.vocab_size is not None and spec.vocab_size < 1:
        raise SpecError(f"vocab_size (={spec.vocab_size}) must be at least 1; give the tokenizer's size")
    if spec.selection == "sparsemixer" and (spec.top_k > 2 or spec.normalise != "none"):
        raise SpecError(
            f"selection 'sparsemixer' is defined for top_k 1 or 2 (={spec.top_k}) and normalise 'none' "
            f"(={spec.normalise!r}); see PhiMoE"
        )
    ranked = spec.selection in ("top_k", "top_p", "threshold")
    if not ranked and (spec.selection_bias or spec.group_limit is not None):
        raise SpecError(
            f"selection {spec.selection!r} ranks nothing that selection_bias or group_limit could change; drop them"
        )
    if spec.selection == "expert_choice" and (spec.normalise != "none" or spec.num_zero_experts):
        raise SpecError(
            "selection 'expert_choice' needs normalise 'none' and num_zero_experts 0; its weights are scores"
        )
    if spec.selection == "sinkhorn" and spec.sinkhorn_iterations < 1:
        raise SpecError(f"sinkhorn_iterations (={spec.sinkhorn_iterations}) must be at least 1; 8 is usual")
