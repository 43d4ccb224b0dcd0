"""What a model of transformers keeps of a sequence: found by running it on the meta device and reading its cache.

So every kind of cache is counted as the model's own code makes it: grouped heads, latents, windows, an indexer's keys,
compressed tokens, and the states of linear attention, of SSMs and of convolutions. Nothing is computed, no memory is
taken, and the experts, whose work depends on data, are left out: they keep nothing.
"""

from __future__ import annotations

import inspect
import types
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx.experimental import _config as fx_config

from headgate.integrations.transformers.sites import find_sites
from headgate.planning.parameters import CacheLayer

LENGTHS = (128, 256)
"""Two lengths tell what grows with the sequence from what doesn't; both are multiples of what is compressed."""


def probe_cache(model: Any) -> tuple[tuple[CacheLayer, ...], tuple[str, ...]]:
    """Find what each layer keeps.

    Args:
        model: on the meta device.

    Returns:
        The layers that keep something, and notes: why there is no figure, where the model can't be run so.
    """
    parameters = inspect.signature(model.forward).parameters
    if "past_key_values" not in parameters and "use_cache" not in parameters:
        return (), ()
    try:
        caches = [_run(model, length, parameters) for length in LENGTHS]
    except (NotImplementedError, ValueError, RuntimeError, TypeError, AttributeError, IndexError, KeyError) as error:
        # Whatever a model's own code does without data: the note says so, and nothing is made up.
        return _from_config(model, f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}")
    short, long = (list(_layers(cache)) for cache in caches)
    found = [
        layer
        for i, (one, other) in enumerate(zip(short, long, strict=True))
        for layer in _cache_layers(model, i, one, other)
    ]
    return tuple(layer for layer in found if layer.values_per_token or layer.state_bytes), ()


def _run(model: Any, length: int, parameters: Any) -> Any:
    """The cache after `length` tokens."""
    ids = torch.zeros((1, length), dtype=torch.long, device="meta")
    inputs: dict[str, Any] = {"input_ids": ids}
    inputs |= {"decoder_input_ids": ids} if "decoder_input_ids" in parameters else {"use_cache": True}
    if "logits_to_keep" in parameters:
        inputs["logits_to_keep"] = 1
    was_training = model.training
    before = model.config._attn_implementation
    model.config._attn_implementation = "sdpa" if model._supports_sdpa else "eager"
    model.to(torch.bfloat16).eval()  # states that stay in float32 do so by the model's own code
    try:
        # Where a model looks for what is not zero, as an indexer does, take all of it.
        assume = fx_config.patch(meta_nonzero_assume_all_nonzero=True)  # type: ignore[attr-defined]
        with torch.no_grad(), torch.device("meta"), assume, _without_experts(model):
            return model(**inputs).past_key_values
    finally:
        model.config._attn_implementation = before
        model.train(was_training)


@contextmanager
def _without_experts(model: nn.Module) -> Iterator[None]:
    """Let every place that runs experts return its input, as a tuple where its caller unpacks one."""
    sites = find_sites(model)
    for site in sites:
        returns_pair = site.class_name in ("Llama4TextMoe",)
        site.module.forward = types.MethodType(_return_pair if returns_pair else _return_input, site.module)
    try:
        yield
    finally:
        for site in sites:
            del site.module.forward


def _return_input(self: nn.Module, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    return hidden_states


def _return_pair(self: nn.Module, hidden_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, None]:
    return hidden_states.reshape(-1, hidden_states.shape[-1]), None


def _layers(cache: Any) -> Iterator[tuple[Any, dict[str, Tensor]]]:
    """Each layer of a cache with the tensors that it keeps, by name."""
    if cache is None:
        return
    for part in ("self_attention_cache", "cross_attention_cache"):
        if hasattr(cache, part):
            yield from _layers(getattr(cache, part))
    for layer in getattr(cache, "layers", ()):
        yield layer, dict(_tensors(vars(layer), ""))
    for i, state in enumerate(getattr(cache, "linear_cache", ())):  # MiniMax keeps these beside the layers
        if isinstance(state, Tensor):
            yield cache, {f"linear_cache.{i}": state}


def _tensors(values: Any, name: str) -> Iterator[tuple[str, Tensor]]:
    if isinstance(values, Tensor) and values.dim() > 0 and values.is_floating_point():
        yield name, values
    elif isinstance(values, dict):
        for key, value in values.items():
            yield from _tensors(value, f"{name}.{key}" if name else str(key))
    elif isinstance(values, (list, tuple)):
        for i, value in enumerate(values):
            yield from _tensors(value, f"{name}.{i}")


def _cache_layers(model: Any, index: int, short: tuple[Any, Any], long: tuple[Any, Any]) -> list[CacheLayer]:
    """One entry for a layer; two where it keeps a window of tokens and something of all of them besides."""
    layer, tensors = long
    text = model.config.get_text_config()
    window = getattr(layer, "sliding_window", None)
    kept = {name: tensors[name] for name in ("keys", "values") if name in tensors and tensors[name].dim() == 4}
    keys, values = kept.get("keys"), kept.get("values")
    beside, state_bytes = 0.0, 0
    for name, tensor in tensors.items():
        growth = tensor.numel() - short[1][name].numel() if name in short[1] else 0
        if name not in kept and growth:
            beside += growth / (LENGTHS[1] - LENGTHS[0])
        elif name not in kept:
            state_bytes += tensor.numel() * tensor.element_size()
    per_token = float(sum(tensor.numel() / tensor.shape[-2] for tensor in kept.values()))
    is_latent = keys is not None and keys.shape[1] == 1 and bool(getattr(text, "kv_lora_rank", None))
    entry = CacheLayer(
        layer_index=index,
        values_per_token=per_token if window is not None else per_token + beside,
        window=None if window is None else int(window),
        num_heads=1 if keys is None else int(keys.shape[1]),
        state_bytes=state_bytes,
        score_width=_score_width(text, keys, values, is_latent),
        prompt_score_width=_expanded_width(text) if is_latent else None,
        attended=getattr(text, "index_topk", None) if "indexer_keys" in tensors else None,
        is_latent=is_latent,
    )
    if window is None or not beside:
        return [entry]
    return [entry, CacheLayer(layer_index=index, values_per_token=beside)]


def _score_width(text: Any, keys: Tensor | None, values: Tensor | None, is_latent: bool) -> int:
    """Multiply-adds for a query token and a kept one, over all query heads: scores, and the weighted sum.

    A latent is both key and value: scores take its rank and the rotary part, the sum its rank.
    """
    if keys is None or values is None:
        return 0
    num_heads = int(getattr(text, "num_attention_heads", None) or getattr(text, "n_heads", None) or keys.shape[1])
    key, value = int(keys.shape[-1]), int(values.shape[-1])
    return num_heads * (key + value + int(text.kv_lora_rank) if is_latent else key + value)


def _expanded_width(text: Any) -> int:
    """The same where latents are expanded into keys and values of each head, as they are for a prompt."""
    return int(text.num_attention_heads * (text.qk_nope_head_dim + text.qk_rope_head_dim + text.v_head_dim))


def _from_config(model: Any, reason: str) -> tuple[tuple[CacheLayer, ...], tuple[str, ...]]:
    """Plain grouped attention in every layer, where the configuration gives heads; said aloud."""
    text = model.config.get_text_config()
    reason = reason.split(". ")[0]
    heads = getattr(text, "num_key_value_heads", None) or getattr(text, "num_attention_heads", None)
    width = getattr(text, "head_dim", None) or getattr(text, "kv_channels", None) or getattr(text, "d_kv", None)
    layers = getattr(text, "num_hidden_layers", None)
    is_mixed = any(kind != "full_attention" for kind in getattr(text, "layer_types", None) or ())
    if not heads or not width or not layers or is_mixed:
        return (), (f"The cache is not counted: the model can't be run without data ({reason}).",)
    queries = int(getattr(text, "num_attention_heads", heads))
    layer = CacheLayer(
        layer_index=0, values_per_token=2.0 * heads * width, num_heads=int(heads), score_width=2 * queries * int(width)
    )
    note = (
        f"The cache is that of plain attention with {heads} key-value heads of {width} in all {layers} layers, as the "
        f"configuration gives them: the model can't be run without data ({reason})."
    )
    return tuple(layer for _ in range(int(layers))), (note,)
