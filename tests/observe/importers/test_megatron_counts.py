"""Megatron-Core's tokens_per_expert: a rank counts the experts that it holds, for each micro-batch."""

import json

import numpy as np
import pytest

from foreign import SHAPE, UNNAMED, write
from headgate.errors import ArtifactError, InputError
from headgate.observe.importers.megatron import import_megatron
from headgate.observe.importers.shape import RouterShape


def counts(seed=0, experts=8):
    """[micro-batches, layers, experts]."""
    return np.random.default_rng(seed).integers(0, 50, (2, 3, experts))


def records(values, *, iterations=(100,), **changes):
    """To the letter of the docstring of `save_tpe`."""
    lines = [
        {"iter": number, "block": "decoder", "layer": layer, "tpe": values[:, layer].tolist(), **changes}
        for number in iterations
        for layer in range(values.shape[1])
    ]
    return "".join(json.dumps(line) + "\n" for line in lines)


def test_micro_batches_and_iterations_are_summed(tmp_path):
    values = counts()
    mtp = records(values, block="mtp", mtp_idx=0)
    path = write(tmp_path / "rank0.jsonl", records(values, iterations=(100, 200)) + mtp)
    trace = import_megatron([path], SHAPE)
    # The first decoder layer is dense by the config, so the file's layers 0, 1, 2 of one stage are 1, 2, 3.
    assert trace.layer_index.tolist() == [1, 2, 3]
    assert np.array_equal(trace.counts.numpy(), 2 * values.sum(0))
    assert (trace.num_tokens, trace.metadata["content"]) == (0, "counts")
    assert import_megatron([path], UNNAMED).layer_index.tolist() == [0, 1, 2]


def test_ranks_have_their_own_tokens_or_experts_or_all_the_same(tmp_path):
    values = counts()
    halves = [write(tmp_path / f"half{rank}.jsonl", records(values[..., 4 * rank : 4 * rank + 4])) for rank in range(2)]
    whole = [write(tmp_path / f"rank{rank}.jsonl", records(values)) for rank in range(2)]
    assert np.array_equal(import_megatron(halves, SHAPE, ranks="experts").counts.numpy(), values.sum(0))
    assert np.array_equal(import_megatron(whole, SHAPE, ranks="tokens").counts.numpy(), 2 * values.sum(0))
    assert np.array_equal(import_megatron(whole, SHAPE, ranks="same").counts.numpy(), values.sum(0))
    with pytest.raises(InputError, match=r"^ranks \(=2\) may have counted different tokens, the same, or different"):
        import_megatron(whole, SHAPE)
    with pytest.raises(InputError, match=r"has counts of 4 experts, and the model has 8: a rank counts those that it"):
        import_megatron(halves[:1], SHAPE)
    with pytest.raises(InputError, match=r"has counts of 16 experts, and the model has 8"):
        import_megatron(whole, SHAPE, ranks="experts")
    with pytest.raises(InputError, match=r"and other ranks count \[4, 8\] experts; if each rank holds its own, say"):
        import_megatron([halves[0], whole[0]], SHAPE, ranks="tokens")


def test_stages_are_imported_apart(tmp_path):
    first, second = (write(tmp_path / f"{n}.jsonl", records(counts()[:, : 3 - n])) for n in range(2))
    with pytest.raises(InputError, match=r"has the layers \[0, 1\], and .* \[0, 1, 2\]; with pipeline stages, import"):
        import_megatron([first, second], SHAPE, ranks="tokens")
    with pytest.raises(InputError, match=r"has 2 layers, and the model 3 routed ones; name those of this stage by --l"):
        import_megatron([second], SHAPE)
    stage = RouterShape(num_experts=8, moe_layers=(2, 3))
    assert import_megatron([second], stage).layer_index.tolist() == [2, 3]


@pytest.mark.parametrize(
    ("text", "error", "said"),
    [
        (records(counts(), block="mtp"), InputError, "holds no record of the decoder"),
        (records(counts(), tpe=[[1, 2], [3]]), ArtifactError, "tpe's lists are of different lengths"),
        (records(counts(), tpe=[[0.5]]), ArtifactError, "tpe is no list of lists of whole numbers"),
        (records(counts(), tpe=[]), ArtifactError, "tpe is no list of lists of whole numbers"),
        (records(counts()) + '{"iter": 1}', ArtifactError, "a record has no layer and tpe"),
        (records(counts()) + records(counts(experts=4)), InputError, "layer 0 has now 4 experts, now 8; split it"),
        (records(-counts() - 1), InputError, "has counts below 0"),
    ],
)
def test_what_can_not_be_right(tmp_path, text, error, said):
    with pytest.raises(error, match=said):
        import_megatron([write(tmp_path / "rank0.jsonl", text)], SHAPE)
