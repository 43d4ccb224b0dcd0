"""Made-up models for the tests of sizing, small enough to count by hand."""

from __future__ import annotations

from typing import Any

from headgate.planning.parameters import CacheLayer, ModelShape, Role, RoutedLayer, WeightGroup

D_MODEL, D_FF, NUM_EXPERTS, TOP_K, NUM_WORDS = 64, 32, 8, 2, 128


def group(role: Role, *shape: int, count: int = 1, is_matrix: bool = True) -> WeightGroup:
    return WeightGroup(role=role, shape=shape, count=count, is_matrix=is_matrix)


def routed_layer(index: int = 0, **values: Any) -> RoutedLayer:
    defaults = {
        "path": f"layers.{index}.experts",
        "layer_index": index,
        "num_experts": NUM_EXPERTS,
        "top_k": TOP_K,
        "expert_parameters": 3 * D_MODEL * D_FF,
        "d_model": D_MODEL,
        "d_ff": D_FF,
    }
    return RoutedLayer(**{**defaults, **values})


def moe(num_layers: int = 2, **values: Any) -> ModelShape:
    """A model whose every layer has experts; `values` replace what the shape says."""
    weights = (
        group(Role.ROUTED_EXPERTS, NUM_EXPERTS, 2 * D_FF, D_MODEL, count=num_layers),
        group(Role.ROUTED_EXPERTS, NUM_EXPERTS, D_MODEL, D_FF, count=num_layers),
        group(Role.ROUTER, NUM_EXPERTS, D_MODEL, count=num_layers),
        group(Role.ATTENTION, D_MODEL, D_MODEL, count=4 * num_layers),
        group(Role.EMBEDDING, NUM_WORDS, D_MODEL),
        group(Role.HEAD, NUM_WORDS, D_MODEL),
        group(Role.OTHER, D_MODEL, count=2 * num_layers + 1, is_matrix=False),
    )
    cache = tuple(
        CacheLayer(layer_index=i, values_per_token=2.0 * D_MODEL, num_heads=4, score_width=2 * D_MODEL)
        for i in range(num_layers)
    )
    defaults: dict[str, Any] = {
        "name": "made-up",
        "model_type": "made_up",
        "class_name": "MadeUp",
        "d_model": D_MODEL,
        "vocab_size": NUM_WORDS,
        "num_layers": num_layers,
        "weights": weights,
        "routed": tuple(routed_layer(i) for i in range(num_layers)),
        "cache": cache,
    }
    return ModelShape(**{**defaults, **values})


def dense() -> ModelShape:
    """The same without experts."""
    return moe(weights=tuple(one for one in moe().weights if one.role is not Role.ROUTED_EXPERTS), routed=())
