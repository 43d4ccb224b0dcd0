"""The golden files: read value by value, and written again byte for byte.

They change only with the version of the format. `python tests/observe/test_golden.py` writes them, for a new version.
"""

import dataclasses
from pathlib import Path

import pytest
import torch

from headgate.observe.reader import load_trace, open_trace
from headgate.observe.trace import RoutingTrace
from headgate.observe.validate import validate_trace
from headgate.observe.writer import TraceWriter, save_trace

FOLDER = Path(__file__).parent / "golden"


def full_trace() -> RoutingTrace:
    """Every array but the norms, nine choices among ten experts, values by arithmetic."""
    token, choice = torch.arange(4), torch.arange(9)
    ids = (token[None, :, None] + choice + torch.tensor([0, 3])[:, None, None]) % 10
    ids[1, 3, 4:] = -1
    is_dropped = (token[None, :, None] == 2) & (choice == 8) & torch.ones(2, 1, 1, dtype=torch.bool)
    is_row = (ids >= 0) & ~is_dropped
    counts = (ids[..., None] == torch.arange(10)).logical_and(is_row[..., None]).sum((1, 2))
    weights = (0.5 ** (choice + 1.0)).expand(2, 4, 9).masked_fill(is_dropped | (ids < 0), 0)
    return RoutingTrace(
        topk_ids=ids,
        layer_index=torch.tensor([0, 5], dtype=torch.int32),
        seq_offsets=torch.tensor([0, 3, 4]),
        counts=counts,
        metadata={
            "format": "headgate-routing",
            "version": 1,
            "model": "golden",
            "layers": [{"path": "layers.0.mlp", "router": None}, {"path": "layers.5.mlp", "router": None}],
            "token_strings": {"0": "a", "7": '\u00e9\x1b"\\', "14": "\ud800"},
        },
        topk_weights=weights.half(),
        token_ids=(7 * token).int(),
        position=torch.tensor([0, 1, 2, 0], dtype=torch.int32),
        phase=torch.tensor([0, 1, 2, 0], dtype=torch.uint8),
        forward_id=torch.tensor([0, 1, 1, 0], dtype=torch.int32),
        select_margin=torch.tensor([[0.5, 0.25, 0.125, float("inf")]]).expand(2, 4).half(),
        router_entropy=torch.tensor([[1.5, 2.0, 0.0, 1.0]]).expand(2, 4).half(),
        router_logits=(torch.arange(80).view(2, 4, 10) / 8 - 5).half(),
        is_dropped=is_dropped,
        select_bias=torch.arange(20).view(2, 10) / 16.0,
    )


def wide_trace() -> RoutingTrace:
    """Only what must be there, with ids of two bytes."""
    ids = torch.tensor([[[299, 0], [256, -1], [255, 1]]])
    return RoutingTrace(
        topk_ids=ids,
        layer_index=torch.tensor([3], dtype=torch.int32),
        seq_offsets=torch.tensor([0, 3]),
        counts=torch.bincount(ids[ids >= 0], minlength=300)[None],
        metadata={"format": "headgate-routing", "version": 1},
    )


def counts_trace() -> RoutingTrace:
    return RoutingTrace(
        topk_ids=torch.zeros(2, 0, 2, dtype=torch.int64),
        layer_index=torch.tensor([1, 2], dtype=torch.int32),
        seq_offsets=torch.tensor([0]),
        counts=torch.tensor([[5, 0, 2**40], [1, 2, 3]]),
        metadata={"format": "headgate-routing", "version": 1, "content": "counts"},
    )


def norms_trace() -> RoutingTrace:
    """The norms of one layer of two, and the model's shape."""
    ids = torch.tensor([[[1, 0], [2, -1]], [[0, 2], [1, 0]]])
    known, unknown = torch.tensor([[3.0, 0.5], [0.25, 0.0]]), torch.full((2, 2), float("nan"))
    return RoutingTrace(
        topk_ids=ids,
        layer_index=torch.tensor([0, 1], dtype=torch.int32),
        seq_offsets=torch.tensor([0, 2]),
        counts=torch.tensor([[1, 1, 1], [2, 1, 1]]),
        metadata={
            "format": "headgate-routing",
            "version": 1,
            "model_shape": {
                "d_model": 8,
                "d_ff": 16,
                "num_layers": 2,
                "vocab_size": None,
                "dtype": "float32",
                "num_parameters": 2400,
                "num_expert_parameters": 384,
                "num_routed_parameters": 2304,
                "num_shared_parameters": 0,
                "num_other_parameters": 96,
            },
        },
        contribution_norms=torch.stack([known, unknown]).half(),
        shared_norms=torch.stack([torch.tensor([0.0, 1.5]), unknown[0]]).half(),
        output_norms=torch.stack([torch.tensor([2.75, float("inf")]), unknown[0]]).half(),
    )


GOLDEN = {"full": full_trace, "wide": wide_trace, "counts": counts_trace, "norms": norms_trace}


def write_shards(path: Path) -> None:
    first = full_trace()
    second = dataclasses.replace(first, metadata={**first.metadata, "token_strings": {"7": "seven"}})
    with TraceWriter(path, shard_bytes=1, overwrite=True) as writer:
        writer.append(first)
        writer.append(second, continues=True)


def assert_equal(found: RoutingTrace, wanted: RoutingTrace) -> None:
    for field in dataclasses.fields(RoutingTrace):
        a, b = getattr(found, field.name), getattr(wanted, field.name)
        if isinstance(b, torch.Tensor):
            # NaN stands for what isn't known, and is kept as such.
            assert (
                torch.equal(a.nan_to_num(-1.0), b.nan_to_num(-1.0)) if a.is_floating_point() else torch.equal(a, b)
            ), field.name
            assert a.dtype == b.dtype, field.name
        else:
            assert a == b, field.name


@pytest.mark.parametrize("name", GOLDEN)
def test_a_golden_file_is_read_value_by_value(name):
    assert_equal(load_trace(FOLDER / f"{name}.safetensors"), GOLDEN[name]())
    assert validate_trace(open_trace(FOLDER / f"{name}.safetensors")) == []


@pytest.mark.parametrize("name", GOLDEN)
def test_a_golden_file_is_written_again_byte_for_byte(name, tmp_path):
    save_trace(tmp_path / "a.safetensors", GOLDEN[name]())
    assert (tmp_path / "a.safetensors").read_bytes() == (FOLDER / f"{name}.safetensors").read_bytes()


def test_the_golden_shards():
    found = open_trace(FOLDER / "shards.safetensors")
    assert found.is_complete
    assert found.seq_offsets.tolist() == [0, 3, 7, 8]
    assert found.metadata["token_strings"]["7"] == "seven"
    whole = found.load()
    assert torch.equal(whole.topk_ids, full_trace().topk_ids.repeat(1, 2, 1))
    assert torch.equal(whole.counts, 2 * full_trace().counts)


def test_the_golden_shards_are_written_again_byte_for_byte(tmp_path):
    write_shards(tmp_path / "shards.safetensors")
    written = sorted(path.name for path in tmp_path.iterdir())
    assert written == ["shards-00000.safetensors", "shards-00001.safetensors", "shards.safetensors.index.json"]
    for name in written:
        assert (tmp_path / name).read_bytes() == (FOLDER / name).read_bytes()


def test_there_are_no_other_golden_files():
    assert len(list(FOLDER.iterdir())) == len(GOLDEN) + 3


if __name__ == "__main__":
    for name, make in GOLDEN.items():
        save_trace(FOLDER / f"{name}.safetensors", make())
    write_shards(FOLDER / "shards.safetensors")
