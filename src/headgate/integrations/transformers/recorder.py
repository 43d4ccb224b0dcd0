"""Record the routing of a checkpoint on texts, piece by piece, in bounded memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from itertools import islice
from typing import Any

import torch
from torch import nn

from headgate.errors import InputError
from headgate.integrations.transformers.checkpoint import load_causal_model, load_tokenizer
from headgate.integrations.transformers.norms import describe_unmeasured, measure_norms
from headgate.integrations.transformers.provenance import describe_recording
from headgate.integrations.transformers.recording import make_trace
from headgate.integrations.transformers.resume import Begun
from headgate.integrations.transformers.tap import tap
from headgate.integrations.transformers.texts import NamedText, TextSummary, Warn, split_texts, summarise_sequences
from headgate.observe.trace import RoutingTrace


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordingOptions:
    """How texts are run, and what is kept.

    Attributes:
        batch: sequences that run together; the shorter are padded on the left, and their padding is marked.
        generate: tokens to generate after each, greedily.
        norms: whether to measure what each expert adds to a token.
        logits: whether to keep the routers' logits.
    """

    batch: int = 1
    generate: int = 0
    norms: bool = False
    logits: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def load_model(name: str) -> tuple[nn.Module, Any]:
    """A causal language model and its tokenizer, from a directory or the Hub.

    Raises:
        ArtifactError: there is no such model, or its weights or its tokenizer are missing.
        InputError: it has no MoE layer, has an encoder, or is no language model.
    """
    model = load_causal_model(name)
    return model, load_tokenizer(name)


def context_length(model: Any, *, generate: int) -> int:
    """The tokens of a prompt that leave room for what is generated.

    Raises:
        InputError: there is no room.
    """
    longest = int(getattr(model.config.get_text_config(), "max_position_embeddings", 0) or 2**20)
    if generate >= longest:
        raise InputError(f"generate (={generate}) must be less than the context (={longest}); ask for fewer tokens")
    return longest - generate


@dataclass(frozen=True, slots=True, kw_only=True)
class Recording:
    """A model and the texts to record it on.

    Attributes:
        model, tokenizer: of `load_model`.
        options: how texts are run.
        texts: reads the texts from their beginning each time that it is called; it gets what takes warnings.
        summary: of all sequences.
        metadata: of the trace.
        max_length: tokens of a sequence at most.
    """

    model: Any
    tokenizer: Any
    options: RecordingOptions
    texts: Callable[[Warn], Iterable[NamedText]]
    summary: TextSummary
    metadata: Mapping[str, Any]
    max_length: int

    def sequences(self) -> Iterator[list[int]]:
        """The token ids of each sequence. What is to be said of a text was said when the recording was prepared."""

        def silent(line: str) -> None:
            pass

        return split_texts(self.tokenizer, self.texts(silent), max_length=self.max_length, warn=silent)


def prepare_recording(
    name: str, texts: Callable[[Warn], Iterable[NamedText]], options: RecordingOptions, *, warn: Warn
) -> Recording:
    """Load a model, and read all texts once to know how many sequences there are; they are not kept.

    Args:
        name: a directory or a Hub id.
        texts: reads them from their beginning each time that it is called.
        options: how they are run.
        warn: gets a line about each of the first texts that are cut or left out, and then about the others.

    Raises:
        ArtifactError: no such model or file.
        InputError: no MoE layer, no text, or no room for what is to be generated.
    """
    model, tokenizer = load_model(name)
    for line in describe_unmeasured(model) if options.norms else ():
        warn(line)
    room = context_length(model, generate=options.generate)
    summary = summarise_sequences(split_texts(tokenizer, texts(warn), max_length=room, warn=warn))
    metadata = describe_recording(model, tokenizer, name=name, text_hash=summary.text_hash, options=options.to_dict())
    return Recording(
        model=model,
        tokenizer=tokenizer,
        options=options,
        texts=texts,
        summary=summary,
        metadata=metadata,
        max_length=room,
    )


def record(recording: Recording, begun: Begun) -> Iterator[int]:
    """Run the model on the sequences that are not in the file yet, and append what it decided.

    Args:
        recording: what to run.
        begun: the open file, and what it holds.

    Yields:
        The sequences in the file, after each batch; at first what was there.
    """
    done, strings = begun.num_sequences, dict[str, str]()
    next_pass = begun.num_passes
    waiting = islice(recording.sequences(), done, None)
    yield done
    while group := tuple(islice(waiting, recording.options.batch)):
        piece = _record(recording.model, group, recording.options, begun.metadata)
        assert piece.token_ids is not None  # Every model here is called with token ids.
        assert piece.forward_id is not None  # `make_trace` always gives them.
        occurring = {str(token): token for token in sorted(set(piece.token_ids.tolist()))}
        new = {key: recording.tokenizer.decode([token]) for key, token in occurring.items() if key not in strings}
        strings |= new
        noted = {**piece.metadata, "token_strings": {key: strings[key] for key in occurring}}
        begun.writer.append(replace(piece, forward_id=piece.forward_id + next_pass, metadata=noted))
        next_pass += int(piece.forward_id.max()) + 1
        done += len(group)
        yield done


def _record(
    model: Any, group: tuple[list[int], ...], options: RecordingOptions, metadata: Mapping[str, Any]
) -> RoutingTrace:
    ids, mask = _pad(group)
    ids, mask = ids.to(model.device), mask.to(model.device)
    measured = measure_norms(model) if options.norms else nullcontext()
    with tap(model, logits=True) as tape, measured as norms, torch.inference_mode():
        if options.generate:
            generation = {"max_new_tokens": options.generate, "do_sample": False, "pad_token_id": 0}
            model.generate(ids, attention_mask=mask, **generation)
        else:
            model(ids, attention_mask=mask, use_cache=False)
    return make_trace(tape, metadata=metadata, norms=norms, with_logits=options.logits)


def _pad(sequences: tuple[list[int], ...]) -> tuple[torch.Tensor, torch.Tensor]:
    width = max(map(len, sequences))
    ids = torch.tensor([[0] * (width - len(one)) + one for one in sequences])
    mask = torch.tensor([[0] * (width - len(one)) + [1] * len(one) for one in sequences])
    return ids, mask
