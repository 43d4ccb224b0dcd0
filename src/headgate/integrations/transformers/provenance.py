"""What a recording says of itself: which model, tokenizer, text and options, so that it can be gone on with."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from headgate.errors import InputError
from headgate.integrations.transformers.sites import find_sites
from headgate.integrations.transformers.wires import find_router
from headgate.observe.tokenizer_hash import hash_tokenizer, hash_vocabulary

_FIXED = ("model", "revision", "config_hash", "weights_hash", "tokenizer_hash", "dtype", "text_hash", "options")
"""What must be the same when a recording goes on."""


def describe_recording(
    model: Any, tokenizer: Any, *, name: str, text_hash: str, options: Mapping[str, Any]
) -> dict[str, Any]:
    """The metadata of a recording.

    Args:
        model: that is recorded.
        tokenizer: of its texts.
        name: of the model, as it was asked for.
        text_hash: of the token ids.
        options: of the recording, plain values.
    """
    import transformers

    config = model.config
    implementation = getattr(config.get_text_config(), "_experts_implementation", None) or "eager"
    return {
        "model": name,
        "revision": getattr(config, "_commit_hash", None),
        "config_hash": _hash(config.to_json_string().encode()),
        "weights_hash": hash_weights(model),
        "tokenizer_hash": _hash_tokenizer(tokenizer),
        "text_hash": text_hash,
        "options": dict(options),
        "engine": "transformers",
        "engine_version": transformers.__version__,
        "dtype": str(model.dtype).removeprefix("torch."),
        "device": str(model.device),
        "backends": {"prompt": implementation, "generated": implementation},
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def require_same_recording(noted: Mapping[str, Any], wanted: Mapping[str, Any], *, path: Path) -> None:
    """Require that a recording goes on as it began.

    Raises:
        InputError: names the first thing that differs.
    """
    before = {**noted, **noted.get("options", {})}
    now = {**wanted, **wanted["options"]}
    names = [*(name for name in _FIXED if name != "options"), *wanted["options"]]
    for name in names:
        if before.get(name) != now[name]:
            raise InputError(
                f"{path} was recorded with {name} {_short(before.get(name))}, and now it is {_short(now[name])}; "
                "go on with what it began with, or record to another file"
            )


def hash_weights(model: torch.nn.Module) -> str:
    """SHA-256 of a model's weights: of the routers' whole, and of up to 1021 numbers spread over every other tensor.

    So it takes seconds for a large model, and finds any training, rounding or exchange of weights; what it can't see is
    a change to a few numbers of one tensor alone.
    """
    routers = [router for site in find_sites(model) if (router := find_router(model, site)) is not None]
    whole = {id(tensor) for _, router in routers for tensor in (*router.parameters(), *router.buffers())}
    found = hashlib.sha256()
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        found.update(name.encode())
        for part in _plain_tensors(tensor.detach()):
            found.update(_bytes_of(part if id(tensor) in whole else _sample(part)))
    return found.hexdigest()


_SAMPLES = 1021
"""A prime, so that the places have no common step with the axes of a matrix."""


def _plain_tensors(tensor: torch.Tensor) -> Iterator[torch.Tensor]:
    """A tensor itself, or those that a quantised one consists of."""
    if not hasattr(tensor, "__tensor_flatten__"):
        yield tensor
        return
    names, _ = tensor.__tensor_flatten__()
    for name in names:
        yield from _plain_tensors(getattr(tensor, name))


def _sample(tensor: torch.Tensor) -> torch.Tensor:
    """Numbers at even distances, read where they lie."""
    if tensor.numel() <= _SAMPLES:
        return tensor
    places = torch.arange(_SAMPLES, device=tensor.device) * tensor.numel() // _SAMPLES
    return tensor[torch.unravel_index(places, tensor.shape)]


def _bytes_of(tensor: torch.Tensor) -> bytes:
    return tensor.cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()


def _hash_tokenizer(tokenizer: Any) -> str:
    """Of what its ids mean; a tokenizer without a file of the package `tokenizers` has a vocabulary at least."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    return hash_vocabulary(tokenizer.get_vocab()) if backend is None else hash_tokenizer(backend)


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:12]}..."
