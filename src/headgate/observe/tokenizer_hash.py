"""One hash for one tokenizer, however it is wrapped: traces whose token ids mean different things must not compare."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable


@runtime_checkable
class TokenizerLike(Protocol):
    """A tokenizer of the package `tokenizers`."""

    def get_vocab(self) -> dict[str, int]:
        """Every token with its id, added ones included."""

    def to_str(self) -> str:
        """The JSON of tokenizer.json."""


def hash_tokenizer(tokenizer: TokenizerLike) -> str:
    """SHA-256 of what a tokenizer's ids mean: its vocabulary and merges, and nothing else of its file.

    A wrapper such as that of transformers rewrites the rest (padding, templates, how added tokens are stripped).

    Example:
        >>> from tokenizers import Tokenizer, models
        >>> one, other = (Tokenizer(models.BPE({"a": 0, "b": 1, "ab": 2}, merges)) for merges in ([("a", "b")], []))
        >>> hash_tokenizer(one) == hash_tokenizer(other)
        False
    """
    merges = json.loads(tokenizer.to_str())["model"].get("merges") or []
    # Older files write a merge as one string; neither half of it holds a space.
    return hash_vocabulary(tokenizer.get_vocab(), [one.split(" ") if isinstance(one, str) else one for one in merges])


def hash_vocabulary(vocabulary: Mapping[str, int], merges: Sequence[Sequence[str]] = ()) -> str:
    """SHA-256 of a vocabulary and of merges in their order.

    Example:
        >>> hash_vocabulary({"a": 0, "b": 1}) == hash_vocabulary({"b": 1, "a": 0})
        True
    """
    content = json.dumps({"merges": merges, "vocabulary": vocabulary}, sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()
