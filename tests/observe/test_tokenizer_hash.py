"""A tokenizer's hash: of what its ids mean, whatever else its file says."""

import json

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from headgate.observe.tokenizer_hash import hash_tokenizer, hash_vocabulary

VOCABULARY = {"a": 0, "b": 1, "c": 2, "ab": 3, "bc": 4, "abc": 5}
MERGES = [("a", "b"), ("b", "c"), ("ab", "c")]


def bpe(vocabulary=VOCABULARY, merges=MERGES) -> Tokenizer:
    return Tokenizer(models.BPE(vocabulary, merges))


def test_what_a_wrapper_adds_to_the_file_changes_nothing():
    wrapped = bpe()
    wrapped.pre_tokenizer = pre_tokenizers.ByteLevel()
    wrapped.enable_padding()
    wrapped.enable_truncation(4)
    assert wrapped.to_str() != bpe().to_str()
    assert hash_tokenizer(wrapped) == hash_tokenizer(bpe())


@pytest.mark.parametrize(
    "other",
    [
        bpe({**VOCABULARY, "a": 1, "b": 0}),
        bpe({**VOCABULARY, "d": 6}),
        bpe(merges=[MERGES[1], MERGES[0], MERGES[2]]),
        Tokenizer(models.WordLevel(VOCABULARY, unk_token="a")),
    ],
    ids=["two ids", "one more token", "the merges' order", "no merges"],
)
def test_another_vocabulary_or_other_merges_are_another_tokenizer(other):
    assert hash_tokenizer(other) != hash_tokenizer(bpe())


def test_an_added_token_counts():
    longer = bpe()
    longer.add_special_tokens(["<end>"])
    assert hash_tokenizer(longer) != hash_tokenizer(bpe())


class OldFile:
    """A tokenizer as older files have it: each merge in one string."""

    def get_vocab(self):
        return VOCABULARY

    def to_str(self):
        return json.dumps({"model": {"merges": [" ".join(pair) for pair in MERGES]}})


def test_both_ways_to_write_merges_are_one():
    assert hash_tokenizer(OldFile()) == hash_tokenizer(bpe())


def test_a_vocabulary_alone_has_a_hash():
    tokenizer = Tokenizer(models.WordLevel(VOCABULARY, unk_token="a"))
    assert hash_tokenizer(tokenizer) == hash_vocabulary(VOCABULARY)
