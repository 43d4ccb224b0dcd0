"""A router in words and in symbols, from its spec."""

from __future__ import annotations

from headgate.spec import RouterSpec

_SCORES = {
    "softmax": ("softmax over the experts", "softmax(z)"),
    "sigmoid": ("sigmoid of each logit", "sigmoid(z)"),
    "sqrt_softplus": ("square root of softplus", "sqrt(softplus(z))"),
    "linear": ("the logits themselves", "z"),
    "ones": ("no scores", "1"),
}


def describe_in_words(spec: RouterSpec) -> str:
    """Say what a router does, in the order in which it does it.

    Example:
        >>> from headgate.spec import preset
        >>> describe_in_words(preset("mixtral", num_experts=8))
        'softmax over the experts; the best 2 of 8; weights divided by their sum'
    """
    is_over_chosen = spec.normalise == "softmax" and spec.select_on == "logits"
    scores = "" if is_over_chosen else _SCORES[spec.score][0]
    parts = [scores, _selection_in_words(spec), _weights_in_words(spec)]
    if spec.scale != 1.0:
        parts.append(f"times {spec.scale:.4g}")
    if spec.apply_to == "input":
        parts.append("applied to the expert's input")
    if spec.capacity is not None:
        parts.append("experts have a capacity")
    return "; ".join(part for part in parts if part)


def describe_in_symbols(spec: RouterSpec) -> str:
    """Write a router as formulas: z are the logits, s the scores, b the selection bias, S the chosen, w the weights.

    Example:
        >>> from headgate.spec import preset
        >>> describe_in_symbols(preset("deepseek_v3", num_experts=256))
        's = sigmoid(z); S = top8(s + b in 4 of 8 groups); w = 2.5 s[S] / sum s[S]'
    """
    ranked = "z" if spec.select_on == "logits" else "s"
    ranked += " + b" if spec.selection_bias else ""
    if spec.group_limit is not None:
        ranked += f" in {spec.group_limit.num_kept} of {spec.group_limit.num_groups} groups"
    how = {"top_k": f"top{spec.top_k}({ranked})", "hash": "table[token id]"}
    chosen = how.get(spec.selection, f"{spec.selection}{spec.top_k}({ranked})")
    parts = [f"s = {_SCORES[spec.score][1]}", f"S = {chosen}", f"w = {_weights_in_symbols(spec)}"]
    return "; ".join(parts[1:] if spec.normalise == "softmax" and spec.select_on == "logits" else parts)


def _selection_in_words(spec: RouterSpec) -> str:
    if spec.selection == "hash":
        return f"{spec.top_k} of {spec.num_experts} by a table of token ids"
    best = f"the best {spec.top_k} of {spec.num_choices}"
    if spec.selection != "top_k":
        best = f"{spec.top_k} of {spec.num_choices} by {spec.selection}"
    details = []
    if spec.select_on == "logits" and spec.normalise != "softmax":
        details.append("by logit")
    if spec.selection_bias:
        details.append("with a selection bias")
    if spec.group_limit is not None:
        details.append(f"within {spec.group_limit.num_kept} of {spec.group_limit.num_groups} groups")
    if spec.num_zero_experts:
        details.append(f"{spec.num_zero_experts} of them without work")
    return ", ".join([best, *details])


def _weights_in_words(spec: RouterSpec) -> str:
    if spec.normalise == "softmax":
        return "weights are the softmax over the chosen"
    if spec.normalise == "sum":
        norm = "sum" if spec.norm_order == 1.0 else f"{spec.norm_order:g}-norm"
        return f"weights divided by their {norm}"
    return "weights as they are"


def _weights_in_symbols(spec: RouterSpec) -> str:
    scale = "" if spec.scale == 1.0 else f"{spec.scale:.4g} "
    if spec.normalise == "softmax":
        return f"{scale}softmax(z[S])"
    norm = "sum s[S]" if spec.norm_order == 1.0 else f"norm{spec.norm_order:g}(s[S])"
    return f"{scale}s[S] / {norm}" if spec.normalise == "sum" else f"{scale}s[S]"
