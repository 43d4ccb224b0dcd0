"""Record the routing of a checkpoint on texts, piece by piece, in bounded memory."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import nn

from headgate.errors import ArtifactError, InputError
from headgate.integrations.transformers.inspection import load_config
from headgate.integrations.transformers.recording import make_trace
from headgate.integrations.transformers.tap import require_sites, tap
from headgate.observe.writer import TraceWriter


def load_model(name: str) -> tuple[nn.Module, Any]:
    """A causal language model and its tokenizer, from a directory or the Hub.

    Raises:
        ArtifactError: there is no such model, or its weights or its tokenizer are missing.
        InputError: it has no MoE layer.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    load_config(name)
    try:
        model: Any = AutoModelForCausalLM.from_pretrained(name, dtype="auto")
        tokenizer = AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ArtifactError(f"{name} can't be loaded: {reason}; it needs weights and a tokenizer") from error
    require_sites(model)
    return model.eval(), tokenizer


def read_lines(path: Path, warn: Callable[[str], None]) -> Iterator[str]:
    """The "text" of each line of a JSONL file; a line without one is named by its number and left out.

    Raises:
        ArtifactError: there is no such file.
    """
    if not path.is_file():
        raise ArtifactError(f"there is no file {path}; check the path")
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            try:
                text = json.loads(line)["text"]
            except (json.JSONDecodeError, KeyError, TypeError):
                warn(f'line {number} of {path} is no JSON object with a "text"; it is left out')
                continue
            yield str(text)


def split_texts(
    tokenizer: Any, texts: Iterable[str], *, max_length: int, warn: Callable[[str], None]
) -> Iterator[list[int]]:
    """Token ids of each text; a text longer than the model's context is several sequences.

    Raises:
        InputError: a text has no tokens.
    """
    for number, text in enumerate(texts, start=1):
        ids: list[int] = tokenizer(text)["input_ids"]
        if not ids:
            raise InputError(f"text {number} (={text!r}) has no tokens; give some text")
        pieces = [ids[first : first + max_length] for first in range(0, len(ids), max_length)]
        if len(pieces) > 1:
            warn(f"text {number} has {len(ids)} tokens, the context {max_length}: it is {len(pieces)} sequences")
        yield from pieces


def context_length(model: Any, *, generate: int) -> int:
    """The tokens of a prompt that leave room for what is generated.

    Raises:
        InputError: there is no room.
    """
    longest = int(getattr(model.config.get_text_config(), "max_position_embeddings", 0) or 2**20)
    if generate >= longest:
        raise InputError(f"generate (={generate}) must be less than the context (={longest}); ask for fewer tokens")
    return longest - generate


def record_sequences(
    model: Any,
    sequences: Iterable[list[int]],
    writer: TraceWriter,
    *,
    batch: int,
    generate: int,
    metadata: dict[str, Any],
) -> Iterator[int]:
    """Run the model on each sequence and append what it decided.

    Args:
        model: a causal language model.
        sequences: token ids.
        writer: of the trace.
        batch: sequences that run together; the shorter of them are padded on the left, and their padding is marked.
        generate: tokens to generate after each, greedily.
        metadata: to keep with the trace.

    Yields:
        The sequences done, after each batch.
    """
    done = 0
    waiting = iter(sequences)
    while group := tuple(islice(waiting, batch)):
        ids, mask = _pad(group)
        with tap(model, logits=True) as tape, torch.inference_mode():
            if generate:
                options = {"max_new_tokens": generate, "do_sample": False, "pad_token_id": 0}
                model.generate(ids, attention_mask=mask, **options)
            else:
                model(ids, attention_mask=mask, use_cache=False)
        writer.append(make_trace(tape, metadata=metadata))
        done += len(group)
        yield done


def _pad(sequences: tuple[list[int], ...]) -> tuple[torch.Tensor, torch.Tensor]:
    width = max(map(len, sequences))
    ids = torch.tensor([[0] * (width - len(one)) + one for one in sequences])
    mask = torch.tensor([[0] * (width - len(one)) + [1] * len(one) for one in sequences])
    return ids, mask
