"""Which tokens a page holds: whole sequences from the beginning, as many as its budget of bytes has room for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headgate.observe.align import Alignment, TraceSource
from headgate.observe.trace import Phase
from headgate.wording import number_of


@dataclass(frozen=True, slots=True, kw_only=True)
class PageBudget:
    """How much a page holds, before compression; base64 adds a third.

    Attributes:
        max_tokens: that a browser lays out as text.
        token_bytes: of what is kept for every token.
        score_bytes: of the scores of all experts.
        expert_bytes: of what is kept for every expert.
        pass_bytes: of the load of single forward passes.
    """

    max_tokens: int = 20_000
    token_bytes: int = 3_300_000
    score_bytes: int = 1_500_000
    expert_bytes: int = 1_000_000
    pass_bytes: int = 300_000

    def halved(self) -> PageBudget:
        """The budget of each of two traces on one page."""
        return PageBudget(
            max_tokens=self.max_tokens,
            token_bytes=self.token_bytes // 2,
            score_bytes=self.score_bytes // 2,
            expert_bytes=self.expert_bytes // 2,
            pass_bytes=self.pass_bytes // 2,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """The tokens of a trace that a page holds.

    Attributes:
        tokens: [n] their indices in the trace.
        seq_offsets: [S + 1] their sequences, as ranges over n.
        num_left_out: tokens that are not among them; padding is not counted.
        num_padding: tokens of padding, none of which are on the page.
        num_sequences: of the trace, those of padding alone not counted.
        is_sequence_cut: whether the only sequence is not whole.
    """

    tokens: NDArray[np.int64]
    seq_offsets: NDArray[np.int64]
    num_left_out: int
    num_padding: int
    num_sequences: int
    is_sequence_cut: bool

    def sentence(self) -> str | None:
        """What was left out; None where everything is here."""
        parts = []
        if self.num_left_out:
            total = len(self.tokens) + self.num_left_out
            kept = len(self.seq_offsets) - 1
            which = f"the first {kept} of {self.num_sequences} sequences"
            if self.is_sequence_cut:
                which = f"the beginning of the first of {self.num_sequences} sequences"
            elif kept == 1:
                which = f"the first of {self.num_sequences} sequences"
            parts.append(
                f"To keep the file small, the text shows {len(self.tokens):,} of {total:,} tokens, {which}; "
                "counts, verdicts and experts are of all"
            )
        if self.num_padding:
            parts.append(f"{number_of(self.num_padding, 'token of padding is', 'tokens of padding are')} left out")
        return "; ".join(parts) + "." if parts else None


def cut_trace(trace: TraceSource, *, limit: int) -> Cut:
    """Choose the leading sequences that have at most `limit` tokens together, or, of a longer one, its beginning.

    Example:
        >>> import torch
        >>> from headgate.observe.trace import RoutingTrace
        >>> fields = {"layer_index": torch.tensor([0]), "counts": torch.zeros(1, 4, dtype=torch.int64), "metadata": {}}
        >>> ids = torch.zeros(1, 9, 1, dtype=torch.int64)
        >>> trace = RoutingTrace(topk_ids=ids, seq_offsets=torch.tensor([0, 3, 5, 9]), **fields)
        >>> cut_trace(trace, limit=6).tokens.tolist()
        [0, 1, 2, 3, 4]
    """
    phase = trace.of_tokens("phase")
    is_real = np.ones(trace.num_tokens, dtype=bool) if phase is None else phase.numpy() != Phase.PADDING
    real = np.flatnonzero(is_real)
    # The sequences as ranges over the tokens that are not padding.
    offsets = np.unique(np.concatenate([[0], np.cumsum(is_real)])[trace.seq_offsets.numpy()])
    return Cut(
        num_padding=len(is_real) - len(real),
        num_sequences=len(offsets) - 1,
        **_lead(real, offsets, limit),
    )


def cut_alignment(alignment: Alignment, *, limit: int) -> tuple[Cut, Cut]:
    """Choose tokens that two traces share, in the same way, and in the same order for both."""
    offsets = np.flatnonzero(np.diff(alignment.sequence, prepend=-1, append=-1))
    cuts = [
        Cut(num_padding=0, num_sequences=len(offsets) - 1, **_lead(tokens, offsets, limit))
        for tokens in (alignment.first, alignment.second)
    ]
    return cuts[0], cuts[1]


def _lead(tokens: NDArray[np.int64], offsets: NDArray[np.int64], limit: int) -> dict[str, Any]:
    num_whole = int(np.searchsorted(offsets, max(limit, 1), side="right")) - 1
    is_cut = num_whole == 0 and len(offsets) > 1
    kept = np.array([0, min(limit, len(tokens))]) if is_cut else offsets[: num_whole + 1]
    end = int(kept[-1])
    return {
        "tokens": tokens[:end],
        "seq_offsets": kept,
        "num_left_out": len(tokens) - end,
        "is_sequence_cut": is_cut,
    }
