"""Find the same tokens in two traces, and refuse where they are not the same."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from headgate.errors import InputError
from headgate.observe.reader import TraceFile
from headgate.observe.trace import Phase, RoutingTrace

TraceSource: TypeAlias = RoutingTrace | TraceFile
"""A trace in memory or on the disk."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Alignment:
    """The tokens that two traces share.

    Attributes:
        first: [n] their indices in the first trace.
        second: [n] in the second.
        sequence: [n] the number of the pair of sequences that each belongs to, from 0.
        num_unmatched: sequences of the first and of the second trace that the other lacks.
        is_checked: whether token ids say that they are the same; False where the caller vouched for it.
    """

    first: NDArray[np.int64]
    second: NDArray[np.int64]
    sequence: NDArray[np.int64]
    num_unmatched: tuple[int, int]
    is_checked: bool


def align(first: TraceSource, second: TraceSource, *, assume_aligned: bool = False) -> Alignment:
    """Find the tokens that two traces share: sequences with the same token ids, in whatever order.

    A sequence also matches one that is a single token shorter, since engines do not route the last token that they
    sample. Padding is left out.

    Args:
        first: the reference.
        second: what is compared with it.
        assume_aligned: where a trace has no token ids: take token i of both as the same, if the sequences are of the
            same lengths.

    Raises:
        InputError: other layers, other tokenizers, no token ids, or no sequence in common.
    """
    _require_same_layers(first, second)
    _require_same_tokenizer(first.metadata, second.metadata)
    ids = first.of_tokens("token_ids"), second.of_tokens("token_ids")
    if ids[0] is None or ids[1] is None:
        pairs, unmatched = _assumed_pairs(first, second, assume_aligned), (0, 0)
    else:
        pairs, unmatched = _matched_pairs(_sequences(ids[0], first.seq_offsets), _sequences(ids[1], second.seq_offsets))
    return _join(first, second, pairs, unmatched, is_checked=ids[0] is not None and ids[1] is not None)


def _require_same_layers(first: TraceSource, second: TraceSource) -> None:
    mine, theirs = first.layer_index.tolist(), second.layer_index.tolist()
    if mine != theirs:
        raise InputError(
            f"the first trace has the decoder layers {_short(mine)}, and the second {_short(theirs)}; "
            "record the same layers of both models"
        )


def _short(layers: list[int]) -> str:
    return str(layers) if len(layers) <= 8 else f"{layers[:4]} ... {layers[-2:]} ({len(layers)})"


def _require_same_tokenizer(first: Mapping[str, Any], second: Mapping[str, Any]) -> None:
    mine, theirs = first.get("tokenizer_hash"), second.get("tokenizer_hash")
    if mine is not None and theirs is not None and mine != theirs:
        raise InputError(
            f"the traces have tokenizers {ascii(mine)[:40]} and {ascii(theirs)[:40]}, so their token ids mean "
            "different things; record both with one tokenizer"
        )
    strings, others = first.get("token_strings", {}), second.get("token_strings", {})
    for token in strings.keys() & others.keys():
        if strings[token] != others[token]:
            raise InputError(
                f"token id {ascii(token)[:20]} is {ascii(strings[token])[:40]} in the first trace and "
                f"{ascii(others[token])[:40]} in the second, so they have different tokenizers; record both with one"
            )


def _sequences(token_ids: Tensor, seq_offsets: Tensor) -> list[bytes]:
    """Each sequence's token ids, as bytes that can be looked up."""
    values, offsets = token_ids.numpy(), seq_offsets.tolist()
    return [values[begin:end].tobytes() for begin, end in pairwise(offsets)]


def _matched_pairs(first: list[bytes], second: list[bytes]) -> tuple[list[tuple[int, int]], tuple[int, int]]:
    pairs: list[tuple[int, int]] = []
    width = np.dtype(np.int32).itemsize
    # Equal sequences, then those of which one lacks the last token.
    for cut_a, cut_b in ((0, 0), (width, 0), (0, width)):
        taken_a, taken_b = {a for a, _ in pairs}, {b for _, b in pairs}
        waiting: dict[bytes, list[int]] = defaultdict(list)
        for number, tokens in reversed(list(enumerate(second))):
            if number not in taken_b:
                waiting[tokens[: len(tokens) - cut_b]].append(number)
        for number, tokens in enumerate(first):
            key = tokens[: len(tokens) - cut_a]
            if number not in taken_a and key and waiting[key]:
                pairs.append((number, waiting[key].pop()))
    if not pairs:
        raise InputError(
            f"none of the {len(first)} and {len(second)} sequences have the same token ids, so the traces are of "
            "different texts; record the same text with both models"
        )
    return sorted(pairs), (len(first) - len(pairs), len(second) - len(pairs))


def _assumed_pairs(first: TraceSource, second: TraceSource, assume_aligned: bool) -> list[tuple[int, int]]:
    if not assume_aligned:
        raise InputError(
            "a trace without token_ids can't be aligned safely; record token ids, or say that the tokens are the same "
            "(--assume-aligned)"
        )
    if not torch.equal(first.seq_offsets, second.seq_offsets):
        raise InputError(
            f"the traces have {first.num_tokens} and {second.num_tokens} tokens in sequences of other lengths, so "
            "they can't be the same; record the same text with both models"
        )
    return [(number, number) for number in range(len(first.seq_offsets) - 1)]


def _join(
    first: TraceSource,
    second: TraceSource,
    pairs: list[tuple[int, int]],
    unmatched: tuple[int, int],
    *,
    is_checked: bool,
) -> Alignment:
    begins_a, begins_b = first.seq_offsets.numpy(), second.seq_offsets.numpy()
    a, b = (np.array([pair[side] for pair in pairs], dtype=np.int64) for side in (0, 1))
    lengths = np.minimum(np.diff(begins_a)[a], np.diff(begins_b)[b])
    sequence = np.repeat(np.arange(len(pairs)), lengths)
    within = np.arange(len(sequence)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    tokens_a, tokens_b = begins_a[a][sequence] + within, begins_b[b][sequence] + within
    is_real = ~(_is_padding(first, tokens_a) | _is_padding(second, tokens_b))
    if not is_real.any():
        raise InputError("the traces share no token that is not padding; record the same text with both models")
    return Alignment(
        first=tokens_a[is_real],
        second=tokens_b[is_real],
        sequence=sequence[is_real],
        num_unmatched=unmatched,
        is_checked=is_checked,
    )


def _is_padding(trace: TraceSource, tokens: NDArray[np.int64]) -> NDArray[np.bool_]:
    phase = trace.of_tokens("phase")
    return np.zeros(len(tokens), dtype=bool) if phase is None else phase.numpy()[tokens] == Phase.PADDING


def real_tokens(trace: TraceSource) -> NDArray[np.int64]:
    """The indices of the tokens that are not padding."""
    return np.flatnonzero(~_is_padding(trace, np.arange(trace.num_tokens)))
