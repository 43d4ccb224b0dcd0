"""Texts to record: from arguments, files and JSON lines, cut into sequences of tokens that fit a model's context."""

from __future__ import annotations

import hashlib
import json
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headgate.errors import ArtifactError, InputError
from headgate.wording import number_of

Warn = Callable[[str], None]

_NAMED = 3
"""Texts of a kind that are named one by one; of the others it is said how many there are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedText:
    """A text, and where it is from, for messages."""

    name: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TextSummary:
    """All sequences of a recording.

    Attributes:
        num_sequences: how many.
        text_hash: SHA-256 of their token ids and lengths.
    """

    num_sequences: int
    text_hash: str


def read_texts(
    texts: Sequence[str], files: Sequence[Path], json_files: Sequence[Path], *, warn: Warn
) -> Iterator[NamedText]:
    """Every text, in this order: those given, each file as one, each line of the JSON files.

    Raises:
        ArtifactError: a file that is missing or isn't text.
    """
    for number, text in enumerate(texts, start=1):
        yield NamedText(name=f"text {number}", text=text)
    for path in files:
        yield NamedText(name=str(path), text=_read(path))
    for path in json_files:
        yield from read_lines(path, warn=warn)


def read_lines(path: Path, *, warn: Warn) -> Iterator[NamedText]:
    """The "text" of each line of a JSONL file; a line without one is named by its number and left out.

    Raises:
        ArtifactError: there is no such file.
    """
    if not path.is_file():
        raise ArtifactError(f"there is no file {path}; check the path")
    broken = _FirstOfKind(warn)
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                value = json.loads(line)
            except ValueError:  # no JSON, or no UTF-8
                value = None
            text = value.get("text") if isinstance(value, dict) else None
            if isinstance(text, str):
                yield NamedText(name=f"line {number} of {path}", text=text)
            elif line.strip():
                broken.warn(f'line {number} of {path} is no JSON object with a "text"; it is left out')
    broken.finish(("further line is left out for it", "further lines are left out for it"))


def split_texts(tokenizer: Any, texts: Iterable[NamedText], *, max_length: int, warn: Warn) -> Iterator[list[int]]:
    """Token ids of each text; a text longer than the model's context is several sequences, an empty one none.

    Args:
        tokenizer: of the model.
        texts: to cut.
        max_length: tokens of a sequence at most.
        warn: gets a line about each of the first texts that are cut or left out, and then about the others.
    """
    empty, cut = _FirstOfKind(warn), _FirstOfKind(warn)
    for one in texts:
        ids: list[int] = tokenizer(one.text, verbose=False)["input_ids"] if one.text else []
        if not ids:
            empty.warn(f"{one.name} has no tokens; it is left out")
            continue
        pieces = [ids[first : first + max_length] for first in range(0, len(ids), max_length)]
        if len(pieces) > 1:
            cut.warn(f"{one.name} has {len(ids)} tokens, the context {max_length}: it is {len(pieces)} sequences")
        yield from pieces
    empty.finish(("further text has none", "further texts have none"))
    cut.finish(("further text is cut likewise", "further texts are cut likewise"))


class _FirstOfKind:
    """Warns of the first texts of a kind, and counts the others: a file may hold thousands of them."""

    def __init__(self, warn: Warn) -> None:
        self._warn, self._number = warn, 0

    def warn(self, line: str) -> None:
        """Say it of one text."""
        self._number += 1
        if self._number <= _NAMED:
            self._warn(line)

    def finish(self, words: tuple[str, str]) -> None:
        """Say how many more there were: what one of them is, and what several are."""
        if self._number > _NAMED:
            self._warn(number_of(self._number - _NAMED, *words))


def summarise_sequences(sequences: Iterable[Sequence[int]]) -> TextSummary:
    """Count sequences, and hash them, in one pass and without keeping them.

    Raises:
        InputError: there are none.
    """
    found, number = hashlib.sha256(), 0
    for ids in sequences:
        found.update(array("q", [len(ids), *ids]).tobytes())
        number += 1
    if not number:
        raise InputError("there is no text with a token in it; give some by --text, --file or --jsonl")
    return TextSummary(num_sequences=number, text_hash=found.hexdigest())


def _read(path: Path) -> str:
    if not path.is_file():
        raise ArtifactError(f"there is no file {path}; check the path")
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ArtifactError(f"{path} is not text in UTF-8 (byte {error.start}); convert it first") from error
