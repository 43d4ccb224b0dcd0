"""The demo's tokens: what is trained on, what is held out, and which tokens make up which batch."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float, Int
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as encode
from torch import Tensor

from headgate.demo.data import Document
from headgate.demo.tokenizer import END_ID, Tokenizer
from headgate.errors import ArtifactError, InputError
from headgate.files import explain_os_errors, replace_file

_TENSORS = ("train_ids", "held_out_ids", "held_out_offsets")


@dataclass(frozen=True, slots=True, kw_only=True)
class Corpus:
    """Tokenised documents. Each ends with `END_ID`.

    Attributes:
        train_ids: [T] int64, all training documents, one after the other.
        held_out_ids: [T] int64, all held-out documents.
        held_out_offsets: [documents + 1] int64.
        held_out_names: one for each held-out document.
    """

    train_ids: Int[Tensor, " T"]
    held_out_ids: Int[Tensor, " H"]
    held_out_offsets: Int[Tensor, " n"]
    held_out_names: tuple[str, ...]


def make_corpus(documents: Sequence[Document], tokenizer: Tokenizer) -> Corpus:
    """Tokenise documents, in their order.

    Raises:
        InputError: none of the documents is for training, or none is held out.
    """
    encoded = tokenizer.encode_batch([document.text for document in documents])
    ids = [torch.tensor([*one.ids, END_ID]) for one in encoded]
    pairs = list(zip(documents, ids, strict=True))
    train = [tokens for document, tokens in pairs if not document.is_held_out]
    held_out = [(document.name, tokens) for document, tokens in pairs if document.is_held_out]
    if not train or not held_out:
        raise InputError(f"{len(documents)} documents are too few to hold one out; add documents")
    lengths = [len(tokens) for _, tokens in held_out]
    return Corpus(
        train_ids=torch.cat(train),
        held_out_ids=torch.cat([tokens for _, tokens in held_out]),
        held_out_offsets=torch.tensor([0, *lengths]).cumsum(0),
        held_out_names=tuple(name for name, _ in held_out),
    )


def training_batch(
    corpus: Corpus, step: int, *, seed: int, batch_size: int, sequence_length: int
) -> tuple[Int[Tensor, "B S"], Int[Tensor, "B S"]]:
    """Make the batch of one step: inputs, and targets one token further on.

    A pure function of the step, so that a resumed run goes on with the very batch that it missed. Each epoch cuts the
    text at other places and takes the pieces in another order.

    Args:
        corpus: the text.
        step: from 0.
        seed: of the order.
        batch_size: B, sequences.
        sequence_length: S, tokens.

    Raises:
        InputError: the text is shorter than one sequence.
    """
    num_pieces = (len(corpus.train_ids) - 1) // sequence_length - 1
    if num_pieces < 1:
        raise InputError(
            f"sequence_length (={sequence_length}) must be under half of the text's {len(corpus.train_ids)} tokens; "
            "use shorter sequences"
        )
    rows = []
    for piece in range(step * batch_size, (step + 1) * batch_size):
        epoch, index = divmod(piece, num_pieces)
        generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
        shift = int(torch.randint(sequence_length, (), generator=generator))
        start = int(torch.randperm(num_pieces, generator=generator)[index]) * sequence_length + shift
        rows.append(corpus.train_ids[start : start + sequence_length + 1])
    tokens = torch.stack(rows)
    return tokens[:, :-1], tokens[:, 1:]


def held_out_pieces(corpus: Corpus, sequence_length: int) -> Int[Tensor, "n S_plus_1"]:
    """Cut the held-out text into pieces of S + 1 tokens, each starting with the last token of the one before."""
    return corpus.held_out_ids.unfold(0, sequence_length + 1, sequence_length)


def unigram_loss(
    train_ids: Int[Tensor, " T"], held_out_ids: Int[Tensor, " H"], *, vocab_size: int
) -> Float[Tensor, ""]:
    """Compute the held-out loss of guessing each token by its frequency in training, whatever came before.

    -mean(ln((n_v + 1) / (T + V))): Laplace's rule, so that no token is impossible.

    Args:
        train_ids: [T] int64, what frequencies are counted on.
        held_out_ids: [H] int64, what is guessed.
        vocab_size: V.

    Returns:
        A float64 scalar, nats per token.
    """
    counts = torch.bincount(train_ids, minlength=vocab_size).double() + 1.0
    return -(counts / counts.sum()).log()[held_out_ids].mean()


def save_corpus(corpus: Corpus, path: Path) -> None:
    """Write a corpus, in one step, so that a run can be resumed where Python's documentation is another.

    Raises:
        ArtifactError: the file can't be written.
    """
    tensors = {name: getattr(corpus, name).int() for name in _TENSORS}
    names = json.dumps(corpus.held_out_names, ensure_ascii=False)
    replace_file(path, encode(tensors, metadata={"held_out_names": names}))


def load_corpus(path: Path) -> Corpus:
    """Read the corpus that `save_corpus` wrote.

    Raises:
        ArtifactError: there is none, or it can't be read.
    """
    with explain_os_errors("read", path):
        try:
            with safe_open(path, framework="pt") as file:
                names = json.loads(file.metadata()["held_out_names"])
                return Corpus(**{name: file.get_tensor(name).long() for name in _TENSORS}, held_out_names=tuple(names))
        except SafetensorError as error:
            raise ArtifactError(f"{path} can't be read ({error}); start the run again in another folder") from error
