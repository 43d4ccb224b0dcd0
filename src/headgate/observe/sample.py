"""Take runs of neighbouring tokens from all over a trace, so that what needs many passes over them fits memory."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int
from numpy.typing import NDArray
from torch import Tensor

from headgate.errors import InputError
from headgate.observe.align import TraceSource, real_tokens
from headgate.observe.noted import layer_widths

MAX_TOKENS = 2**16
"""A trace with more tokens is sampled. The ids of 48 layers with 8 choices then take 48 MiB."""

RUN_TOKENS = 256
"""Neighbours are sampled together, so that what follows what is still to be seen."""

_CHUNK_TOKENS = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenSample:
    """Some tokens of a trace, or all; n of them. Padding is left out, and choices that were dropped are in it.

    Attributes:
        topk_ids: [L, n, K] int16 (int32 from 32768 experts on), best first; -1 = no expert in this slot.
        token_ids: [n] int32, or None where the trace has none.
        seq_offsets: [runs + 1] int64; within a run each token follows the one before it in a sequence of the trace.
        sequence: [n] int64, the sequence of the trace that each token is of.
        num_tokens: tokens of the trace that are not padding.
        num_experts: [L] E of each layer.
    """

    topk_ids: Int[Tensor, "L n K"]
    token_ids: Int[Tensor, " n"] | None
    seq_offsets: Int[Tensor, " runs_plus_1"]
    sequence: Int[Tensor, " n"]
    num_tokens: int
    num_experts: tuple[int, ...]

    @property
    def num_sampled(self) -> int:
        """N."""
        return self.topk_ids.shape[1]


def sample_tokens(trace: TraceSource, *, max_tokens: int = MAX_TOKENS) -> TokenSample:
    """Take all tokens of a trace, or, where it has more than `max_tokens`, runs of neighbours at even distances.

    Raises:
        InputError: the trace holds counts alone, or nothing but padding; or `max_tokens` is below a run.
        ArtifactError: an expert id that there is no expert for.

    Example:
        >>> import headgate
        >>> layer = headgate.MoE(8, 16, num_experts=4, top_k=2)
        >>> with headgate.tap(layer) as tape:
        ...     _ = layer(torch.randn(2, 3, 8))
        >>> trace = headgate.trace_of(layer, tape, token_ids=torch.arange(6).view(2, 3))
        >>> sample_tokens(trace).seq_offsets.tolist()
        [0, 3, 6]
    """
    if max_tokens < RUN_TOKENS:
        raise InputError(f"max_tokens (={max_tokens}) must be at least {RUN_TOKENS}, the length of a run")
    real = real_tokens(trace)
    if not len(real):
        raise InputError("the trace holds no token that is not padding, so only its counts say anything; record tokens")
    places = real if len(real) <= max_tokens else real[_even_runs(len(real), max_tokens)]
    sequence = np.searchsorted(trace.seq_offsets.numpy(), places, side="right") - 1
    is_first = np.concatenate([[True], (np.diff(places) != 1) | (np.diff(sequence) != 0), [True]])
    token_ids = trace.of_tokens("token_ids")
    dtype = torch.int16 if trace.num_experts <= torch.iinfo(torch.int16).max else torch.int32
    parts = [
        trace.take(places[begin : begin + _CHUNK_TOKENS]).topk_ids.to(dtype)
        for begin in range(0, len(places), _CHUNK_TOKENS)
    ]
    return TokenSample(
        topk_ids=torch.cat(parts, dim=1),
        token_ids=None if token_ids is None else token_ids[torch.from_numpy(places)],
        seq_offsets=torch.from_numpy(is_first.nonzero()[0]),
        sequence=torch.from_numpy(sequence),
        num_tokens=len(real),
        num_experts=layer_widths(trace),
    )


def _even_runs(num_tokens: int, max_tokens: int) -> NDArray[np.int64]:
    """The places of whole runs, from the first token to the last; they do not overlap, since there is room."""
    num_runs = max_tokens // RUN_TOKENS
    begins = np.linspace(0, num_tokens - RUN_TOKENS, num_runs).astype(np.int64)
    return (begins[:, None] + np.arange(RUN_TOKENS)).ravel()
