"""What a page holds of every token: its experts, its place, its text."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from headgate.observe.trace import RoutingTrace, to_arrays

_OF_TOKENS = ("token_ids", "position", "phase", "forward_id")
_OF_CHOICES = (
    "topk_ids",
    "topk_weights",
    "select_margin",
    "router_entropy",
    "dropped",
    "contribution_norms",
    "shared_norms",
    "output_norms",
    "sum_error",
)

UNKNOWN = -1
"""In place of a string: the trace does not have it."""

_LONGEST = 200
"""Characters of a token that a page keeps: a real one is far shorter, and a made-up one could fill the page."""


class StringTable:
    """The strings of a page, each once, and where the text of a token id is among them."""

    def __init__(self, token_strings: Mapping[str, str]) -> None:
        self._text_of_id = token_strings
        self._place: dict[str, int] = {}

    @property
    def strings(self) -> list[str]:
        """All that were looked up, by place."""
        return list(self._place)

    def look_up(self, token_ids: Iterable[int]) -> NDArray[np.int32]:
        """The places of some token ids' strings; `UNKNOWN` where there is none.

        Example:
            >>> table = StringTable({"7": " the"})
            >>> table.look_up([7, 8]).tolist(), table.strings
            ([0, -1], [' the'])
        """
        found = (self._text_of_id.get(str(token_id)) for token_id in token_ids)
        texts = (text if text is None or len(text) <= _LONGEST else text[:_LONGEST] + "…" for text in found)
        return np.array(
            [UNKNOWN if text is None else self._place.setdefault(text, len(self._place)) for text in texts],
            dtype=np.int32,
        )


def token_arrays(part: RoutingTrace, table: StringTable) -> dict[str, NDArray[Any] | None]:
    """The arrays with an axis T.

    Args:
        part: the tokens of the page.
        table: is given their strings.
    """
    stored = to_arrays(part)
    arrays = {name: stored.get(name) for name in (*_OF_CHOICES, *_OF_TOKENS)}
    arrays["token_text"] = _texts(part.token_ids, part.num_tokens, table)
    return arrays


def _texts(token_ids: Tensor | None, num_tokens: int, table: StringTable) -> NDArray[np.int32]:
    if token_ids is None:
        return np.full(num_tokens, UNKNOWN, dtype=np.int32)
    return table.look_up(token_ids.tolist())


def bytes_per_token(sample: RoutingTrace) -> float:
    """What one token takes in these arrays.

    Args:
        sample: some tokens of the trace, at least one.
    """
    arrays = token_arrays(sample, StringTable({})).values()
    return sum(array.nbytes for array in arrays if array is not None) / sample.num_tokens
