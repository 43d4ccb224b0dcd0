import math

import pytest
import torch

from headgate.demo.corpus import (
    Corpus,
    held_out_pieces,
    load_corpus,
    make_corpus,
    save_corpus,
    training_batch,
    unigram_loss,
)
from headgate.demo.data import Document
from headgate.demo.tokenizer import END_ID, load_tokenizer, save_tokenizer, token_strings, train_tokenizer
from headgate.errors import ArtifactError, InputError
from tiny_demo import documents


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer((document.text for document in documents()), vocab_size=280)


@pytest.fixture(scope="module")
def corpus(tokenizer):
    return make_corpus(documents(), tokenizer)


def plain_corpus(num_tokens):
    return Corpus(
        train_ids=torch.arange(num_tokens),
        held_out_ids=torch.arange(10),
        held_out_offsets=torch.tensor([0, 10]),
        held_out_names=("a",),
    )


def test_the_tokenizer_gives_back_every_text(tokenizer):
    for text in ("the gate lets water in", "caf\u00e9 \u6c34\n\ttabs", ""):
        ids = tokenizer.encode(text).ids
        assert tokenizer.decode(ids) == text
        assert "".join(token_strings(tokenizer, tokenizer.encode("the gate").ids)) == "the gate"


def test_the_tokenizer_is_the_same_each_time(tokenizer, tmp_path):
    again = train_tokenizer((document.text for document in documents()), vocab_size=280)
    assert again.to_str() == tokenizer.to_str()
    assert tokenizer.get_vocab_size() <= 280
    assert tokenizer.token_to_id("<|end|>") == END_ID
    save_tokenizer(tokenizer, tmp_path / "tokenizer.json")
    assert load_tokenizer(tmp_path / "tokenizer.json").to_str() == tokenizer.to_str()


def test_a_missing_package_says_how_to_get_it(run_fresh):
    said = run_fresh(
        "import sys\n"
        "sys.modules['tokenizers'] = None\n"
        "from headgate.errors import HeadgateError\n"
        "try:\n"
        "    import headgate.demo.launch\n"
        "except HeadgateError as error:\n"
        "    print(error)\n"
    )
    assert said == "the demo needs the package tokenizers; install it with: pip install 'headgate[demo]'\n"


def test_a_missing_tokenizer_says_so(tmp_path):
    with pytest.raises(ArtifactError, match=r"tokenizer.json is missing; start the run again in another folder$"):
        load_tokenizer(tmp_path / "tokenizer.json")


def test_the_split_is_by_document(corpus, tokenizer):
    held_out = [document for document in documents() if document.is_held_out]
    assert corpus.held_out_names == tuple(document.name for document in held_out)
    begin, end = corpus.held_out_offsets[:2].tolist()
    assert tokenizer.decode(corpus.held_out_ids[begin : end - 1].tolist()) == held_out[0].text
    num_train = len(documents()) - len(held_out)
    assert (corpus.train_ids == END_ID).sum() == num_train
    assert (corpus.held_out_ids[corpus.held_out_offsets[1:] - 1] == END_ID).all()


def test_a_corpus_needs_both_parts(tokenizer):
    with pytest.raises(InputError, match=r"^1 documents are too few to hold one out; add documents$"):
        make_corpus([Document(name="module textwrap", text="the gate")], tokenizer)


def test_the_corpus_survives_the_round_trip(corpus, tmp_path):
    save_corpus(corpus, tmp_path / "c.safetensors")
    found = load_corpus(tmp_path / "c.safetensors")
    assert found.held_out_names == corpus.held_out_names
    for name in ("train_ids", "held_out_ids", "held_out_offsets"):
        assert torch.equal(getattr(found, name), getattr(corpus, name))
    (tmp_path / "c.safetensors").write_bytes(b"broken")
    with pytest.raises(ArtifactError, match=r"c.safetensors can't be read \(.*\); start the run again"):
        load_corpus(tmp_path / "c.safetensors")


def test_a_batch_is_a_function_of_its_step():
    corpus = plain_corpus(103)
    first = training_batch(corpus, 7, seed=1, batch_size=3, sequence_length=10)
    again = training_batch(corpus, 7, seed=1, batch_size=3, sequence_length=10)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert torch.equal(first[0] + 1, first[1])  # The text counts upwards, so the target is the input plus 1.
    other = training_batch(corpus, 7, seed=2, batch_size=3, sequence_length=10)
    assert not torch.equal(first[0], other[0])


def test_an_epoch_reads_every_piece_once():
    corpus = plain_corpus(103)  # 102 // 10 - 1 = 9 pieces
    epochs = [
        torch.cat(
            [training_batch(corpus, 3 * epoch + i, seed=0, batch_size=3, sequence_length=10)[0] for i in range(3)]
        )
        for epoch in range(2)
    ]
    for tokens in epochs:
        assert len(tokens.unique()) == 90
        assert tokens.max() < 103
    assert not torch.equal(epochs[0], epochs[1])


def test_too_little_text_for_a_sequence():
    with pytest.raises(InputError, match=r"^sequence_length \(=60\) must be under half of the text's 103 tokens"):
        training_batch(plain_corpus(103), 0, seed=0, batch_size=1, sequence_length=60)


def test_held_out_pieces_overlap_by_one():
    assert held_out_pieces(plain_corpus(50), 4).tolist() == [[0, 1, 2, 3, 4], [4, 5, 6, 7, 8]]


def test_the_unigram_loss_worked_by_hand():
    # Counts 3, 1, 0 over a vocabulary of 3, each plus 1, divided by 7: 4/7, 2/7, 1/7.
    loss = unigram_loss(torch.tensor([0, 0, 1, 0]), torch.tensor([0, 2]), vocab_size=3)
    assert loss.item() == pytest.approx(-(math.log(4 / 7) + math.log(1 / 7)) / 2, rel=1e-12)
