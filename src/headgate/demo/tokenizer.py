"""The demo's tokenizer: a byte-level BPE, trained on the training documents."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from headgate.errors import ArtifactError, HeadgateError
from headgate.files import replace_file

try:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
except ImportError as error:
    raise HeadgateError(
        "the demo needs the package tokenizers; install it with: pip install 'headgate[demo]'"
    ) from error

__all__ = ["END", "END_ID", "Tokenizer", "load_tokenizer", "save_tokenizer", "token_strings", "train_tokenizer"]

END = "<|end|>"
"""The token between two documents; its id is 0."""

END_ID = 0


def train_tokenizer(texts: Iterable[str], *, vocab_size: int) -> Tokenizer:
    """Learn a byte-level BPE. The same texts give the same tokenizer.

    Args:
        texts: what to learn from.
        vocab_size: entries at most, `END` and the 256 bytes included.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def save_tokenizer(tokenizer: Tokenizer, path: Path) -> None:
    """Write a tokenizer as `tokenizer.json`, in one step.

    Raises:
        ArtifactError: the file can't be written.
    """
    replace_file(path, tokenizer.to_str(pretty=False).encode())


def load_tokenizer(path: Path) -> Tokenizer:
    """Read the tokenizer that `save_tokenizer` wrote.

    Raises:
        ArtifactError: there is none, or it can't be read.
    """
    if not path.is_file():
        raise ArtifactError(f"{path} is missing; start the run again in another folder")
    # The library raises plain Exception for a broken file, which the caller could not tell from a defect.
    return Tokenizer.from_str(path.read_text(encoding="utf-8"))


def token_strings(tokenizer: Tokenizer, token_ids: Sequence[int]) -> list[str]:
    """Write each token as text; bytes that are no character by themselves become U+FFFD."""
    return [tokenizer.decode([token_id], skip_special_tokens=False) for token_id in token_ids]
