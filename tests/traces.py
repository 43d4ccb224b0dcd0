"""Random routing traces that keep every law of the format."""

import numpy as np
import torch

from headgate.observe.pieces import count_rows
from headgate.observe.trace import Phase, RoutingTrace


def random_trace(
    *, layers=(1, 2, 4), lengths=(5, 3, 4), top_k=2, num_experts=6, seed=0, full=True, drop=0.1, **metadata
) -> RoutingTrace:
    """A trace of distinct random choices; with `full`, every optional array but the logits."""
    rng = np.random.default_rng(seed)
    num_layers, num_tokens = len(layers), sum(lengths)
    logits = rng.normal(size=(num_layers, num_tokens, num_experts))
    ids = torch.from_numpy(np.argsort(-logits, axis=-1)[..., :top_k].copy())
    is_dropped = torch.from_numpy(rng.random((num_layers, num_tokens, top_k)) < drop)
    phase = torch.from_numpy(rng.choice([Phase.PROMPT, Phase.GENERATED], num_tokens).astype(np.uint8))
    scores = torch.from_numpy(logits).softmax(-1)
    ranked = scores.sort(dim=-1, descending=True).values
    optional = {
        "topk_weights": scores.gather(-1, ids).masked_fill(is_dropped, 0).half(),
        "token_ids": torch.from_numpy(rng.integers(0, 50, num_tokens, dtype=np.int32)),
        "position": torch.cat([torch.arange(length) for length in lengths]).int() if lengths else torch.zeros(0).int(),
        "phase": phase,
        "forward_id": (torch.arange(num_tokens) // 4).int(),
        "select_margin": (ranked[..., top_k - 1] - ranked[..., top_k]).half() if top_k < num_experts else None,
        "router_entropy": torch.special.entr(scores).sum(-1).half(),
        "is_dropped": is_dropped,
        # The model's, so the same for every seed.
        "select_bias": torch.linspace(-1, 1, num_layers * num_experts).view(num_layers, num_experts),
    }
    kept = {"is_dropped": is_dropped, "phase": phase} if full else {}
    return RoutingTrace(
        topk_ids=ids,
        layer_index=torch.tensor(layers, dtype=torch.int32),
        seq_offsets=torch.tensor([0, *lengths]).cumsum(0),
        counts=count_rows(ids, num_experts=num_experts, **kept),
        metadata={"model": "made up", **metadata},
        **(optional if full else {}),
    )
