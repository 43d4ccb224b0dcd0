"""Made-up traces for the page: random scores, and everything that follows from them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from headgate.observe.page.build import Page
from headgate.observe.page.document import render_page

WORDS = (
    " the",
    " gate",
    " lets",
    " water",
    " into",
    " channels",
    ",",
    ".",
    "\n",
    " token",
    " router",
    " expert",
    "s",
    " irrigation",
    " of",
    " and",
)
HOSTILE = (
    "</script><img src=x onerror=window.hacked=1>",
    "<b>bold</b>",
    "\u202eevil",
    "\x00",
    "{{constructor}}",
    "&lt;",
    "\U0001d54f\U0001f701",
    "",
)


def made_up_trace(
    *,
    num_layers: int = 4,
    num_tokens: int = 240,
    num_experts: int = 8,
    top_k: int = 2,
    seed: int = 0,
    strings: tuple[str, ...] = WORDS,
    is_biased: bool = False,
    tokens_per_pass: int = 40,
    num_scored: int | None = None,
    name: str = "made-up",
) -> dict[str, Any]:
    """A trace's part of the payload with every optional array; experts have preferences, so the load is uneven."""
    rng = np.random.default_rng(seed)
    text = rng.integers(0, len(strings), num_tokens).astype(np.int32)
    taste = (
        rng.normal(size=(num_layers, len(strings), num_experts)) + rng.normal(size=(num_layers, 1, num_experts)) * 0.7
    )
    logits = taste[:, text] + rng.normal(size=(num_layers, num_tokens, num_experts)) * 0.6
    scores = 1 / (1 + np.exp(-logits)) if is_biased else np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    bias = rng.normal(size=(num_layers, 1, num_experts)) * (0.1 if is_biased else 0)
    ranked = scores + bias
    ids = np.argsort(-ranked, axis=-1, kind="stable")[..., :top_k]
    order = -np.sort(-ranked, axis=-1)
    weights = np.take_along_axis(scores, ids, -1)
    weights /= weights.sum(-1, keepdims=True)
    is_dropped = rng.random(ids.shape) < 0.01
    counts = _count(ids, ~is_dropped, num_experts)
    passes = np.arange(num_tokens) // tokens_per_pass
    scored = np.arange(num_tokens if num_scored is None else num_scored, dtype=np.int32)
    entropy = -(scores / scores.sum(-1, keepdims=True) * np.log(scores / scores.sum(-1, keepdims=True))).sum(-1)
    arrays = {
        "topk_ids": ids.astype(np.uint8 if num_experts <= 255 else np.uint16),
        "topk_weights": weights.astype(np.float16),
        "select_margin": (order[..., top_k - 1] - order[..., top_k]).astype(np.float16),
        "router_entropy": entropy.astype(np.float16),
        "dropped": np.packbits(is_dropped, axis=-1, bitorder="little"),
        "token_text": text,
        "token_ids": text + 100,
        "position": np.arange(num_tokens, dtype=np.int32) % (num_tokens // 2),
        "phase": (np.arange(num_tokens) % (num_tokens // 2) > 30).astype(np.uint8),
        "forward_id": passes.astype(np.int32),
        "seq_offsets": np.array([0, num_tokens // 2, num_tokens], dtype=np.int32),
        "counts": counts.astype(np.float64),
        "scored_tokens": scored,
        "router_logits": logits[:, scored].astype(np.float16),
        "router_scores": scores[:, scored].astype(np.float32),
        "select_scores": ranked[:, scored].astype(np.float32),
        "select_bias": bias[:, 0].astype(np.float32) if is_biased else None,
        **_norms(rng, weights),
        **_passes(ids, ~is_dropped, passes, num_experts),
        **_experts(ids, text, len(strings), num_experts),
    }
    layers = [_layer(index, counts[index], top_k, is_biased, is_dropped[index]) for index in range(num_layers)]
    return {
        "name": name,
        "provenance": [["model", name], ["dtype", "float32"], ["tokens", num_tokens]],
        "note": "Recorded from a real forward pass: this one was made up, for tests.",
        "cut": None,
        "not_shown": ["Why an expert was chosen: a score says how much, not why.", "What an expert computes."],
        "verdict": {
            "status": "imbalanced",
            "sentence": "The busiest expert has more than its share, and none is dead.",
        },
        "layers": layers,
        "strings": list(strings),
        "size": _size(num_layers, num_experts, top_k),
        "speed": None,
        "arrays": arrays,
    }


def _count(ids: np.ndarray, is_kept: np.ndarray, num_experts: int) -> np.ndarray:
    return np.stack([np.bincount(row[kept], minlength=num_experts) for row, kept in zip(ids, is_kept, strict=True)])


def _norms(rng: np.random.Generator, weights: np.ndarray) -> dict[str, np.ndarray]:
    norms = weights * rng.uniform(0.5, 2, weights.shape)
    return {
        "contribution_norms": norms.astype(np.float16),
        "shared_norms": rng.uniform(0.1, 1, weights.shape[:2]).astype(np.float16),
        "output_norms": (norms.sum(-1) * 0.7).astype(np.float16),
        "sum_error": np.full(weights.shape[:2], 2.0**-22, np.float32),
    }


def _passes(ids: np.ndarray, is_kept: np.ndarray, passes: np.ndarray, num_experts: int) -> dict[str, np.ndarray]:
    numbers = np.unique(passes)
    loads = np.stack([_count(ids[:, passes == n], is_kept[:, passes == n], num_experts) for n in numbers], axis=1)
    return {"pass_ids": numbers.astype(np.int32), "pass_ratio": (loads.max(-1) / loads.mean(-1)).astype(np.float32)}


def _experts(ids: np.ndarray, text: np.ndarray, num_strings: int, num_experts: int) -> dict[str, np.ndarray]:
    chosen = (ids[..., None] == np.arange(num_experts)).any(2)
    is_text = text[:, None] == np.arange(num_strings)
    takes = np.einsum("lte,ts->les", chosen, is_text.astype(int))
    share = takes / np.maximum(takes.sum(-1, keepdims=True), 1)
    lift = share / np.maximum(is_text.mean(0), 1e-9)
    top = np.argsort(-lift, axis=-1, kind="stable")[..., :6]
    together = np.einsum("lte,ltf->lef", chosen, chosen.astype(int)).astype(float)
    both = together / len(text) / np.maximum(chosen.mean(1)[:, :, None] * chosen.mean(1)[:, None, :], 1e-9)
    both[:, np.arange(num_experts), np.arange(num_experts)] = 0
    partners = np.argsort(-both, axis=-1, kind="stable")[..., :3]
    bins = np.stack([part.sum(1) for part in np.array_split(chosen, 12, axis=1)], axis=-1)
    return {
        "top_tokens": top.astype(np.int32),
        "top_token_counts": np.take_along_axis(takes, top, -1).astype(np.uint32),
        "top_token_lift": np.take_along_axis(lift, top, -1).astype(np.float32),
        "specialisation": np.full(len(ids), 0.41, dtype=np.float32),
        "specialisation_baseline": np.full(len(ids), 0.02, dtype=np.float32),
        "partners": partners.astype(np.uint16),
        "partner_lift": np.take_along_axis(both, partners, -1).astype(np.float32),
        "load_bins": bins.astype(np.uint32),
    }


def _layer(index: int, counts: np.ndarray, top_k: int, is_biased: bool, is_dropped: np.ndarray) -> dict[str, Any]:
    ratio = float(counts.max() / counts.mean())
    return {
        "index": index,
        "path": f"model.layers.{index}.mlp",
        "num_experts": len(counts),
        "top_k": top_k,
        "formula": "softmax(logits), the best of these"
        if not is_biased
        else "sigmoid(logits) + bias, the best of these",
        "score": "sigmoid" if is_biased else "softmax",
        "selects_on_bias": is_biased,
        "normalises": "weights divided by their sum",
        "num_shared": int(is_biased),
        "zero_experts": 0,
        "verdict": {"status": "healthy" if ratio < 1.5 else "imbalanced", "sentence": f"busiest {ratio:.2f} x even"},
        "max_over_mean": ratio,
        "cv": float(counts.std() / counts.mean()),
        "normalised_entropy": 0.95,
        "dead": int((counts == 0).sum()),
        "drop_fraction": float(is_dropped.mean()),
        "margin": [0.001, 0.01, 0.1],
        "skipped_fraction": 1 - top_k / len(counts),
    }


def _size(num_layers: int, num_experts: int, top_k: int) -> dict[str, Any]:
    routed = num_layers * num_experts * 1_000_000
    active = num_layers * top_k * 1_000_000
    all_experts = num_layers * num_experts
    return {
        "total": routed + 5_000_000,
        "active": active + 5_000_000,
        "routed_total": routed,
        "routed_active": active,
        "shared": 1_000_000,
        "other": 4_000_000,
        "bytes_per_parameter": 2.0,
        "expert_bytes": 2_000_000,
        "touched": [
            ["1", num_layers * top_k, all_experts, num_layers * top_k * 2_000_000],
            ["40", all_experts - 1, all_experts, (all_experts - 1) * 2_000_000],
        ],
        "sentence": "A token uses a small part of the parameters; all of them have to be in memory.",
    }


def made_up_page(*traces: dict[str, Any], title: str = "Made-up routing") -> dict[str, Any]:
    """A page of one trace, or of two of the same text."""
    comparison = _compare(*traces) if len(traces) == 2 else None
    return {"page": 1, "title": title, "traces": list(traces), "comparison": comparison}


def write_made_up(path: Path, *traces: dict[str, Any], title: str = "Made-up routing") -> Path:
    """A file with the page of one trace, or of two."""
    path.write_bytes(render_page(Page(header=made_up_page(*traces, title=title))))
    return path


def _compare(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    a, b = first["arrays"]["topk_ids"], second["arrays"]["topk_ids"]
    overlap = (a[..., :, None] == b[..., None, :]).any(-1).sum(-1).astype(np.uint8)
    tokens = np.arange(a.shape[1], dtype=np.int32)
    fraction = overlap.mean(1) / a.shape[2]
    layers = [
        {"overlap": part, "flips": 1 - part, "jaccard": part, "js_distance": 0.1} for part in map(float, fraction)
    ]
    return {
        "sentence": f"The two share {100 * fraction.mean():.1f} % of their choices.",
        "pairs": np.stack([tokens, tokens], axis=1),
        "overlap": overlap,
        "layers": layers,
        "most_changed": np.argsort(overlap.sum(0), kind="stable").astype(np.int32)[:500],
    }
