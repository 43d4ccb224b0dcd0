"""What a recording says of itself: which model, tokenizer, text and options, so that it can be gone on with."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from headgate.errors import InputError
from headgate.integrations.transformers.sites import find_sites
from headgate.integrations.transformers.wires import find_router
from headgate.observe.tokenizer_hash import hash_tokenizer, hash_vocabulary

_FIXED = ("model", "revision", "config_hash", "router_hash", "tokenizer_hash", "dtype", "text_hash", "options")
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
        "router_hash": hash_routers(model),
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


def hash_routers(model: torch.nn.Module) -> str:
    """SHA-256 of all routers' weights: models with equal routers and configurations are taken for the same."""
    found = hashlib.sha256()
    for site in find_sites(model):
        router = find_router(model, site)
        for tensor in () if router is None else router[1].state_dict().values():
            found.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def _hash_tokenizer(tokenizer: Any) -> str:
    """Of what its ids mean; a tokenizer without a file of the package `tokenizers` has a vocabulary at least."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    return hash_vocabulary(tokenizer.get_vocab()) if backend is None else hash_tokenizer(backend)


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:12]}..."
