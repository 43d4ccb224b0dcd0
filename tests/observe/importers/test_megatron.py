"""Megatron-Core's replay lists and router traces."""

import json

import numpy as np
import pytest
import torch

import headgate
from foreign import SHAPE, UNNAMED, assert_holds, choices, npy, save_pt, write
from headgate.errors import ArtifactError, InputError
from headgate.observe.importers.megatron import import_megatron
from headgate.observe.importers.shape import RouterShape
from headgate.observe.importers.vllm import import_vllm


def test_megatron_replay_lists_are_in_the_order_of_the_routers(tmp_path):
    ids = choices(5)
    path = save_pt(tmp_path / "a.pt", [torch.from_numpy(ids[:, layer]) for layer in range(3)])
    assert_holds(import_megatron([path], SHAPE), ids, tmp_path)
    with pytest.raises(InputError, match=r"does not say which decoder layers they are"):
        import_megatron([path], UNNAMED)
    with pytest.raises(InputError, match=r"replay lists \(=2\) have no token ids to tell ranks apart; import one at a"):
        import_megatron([path, path], SHAPE)
    for bad, said in (
        ({}, "is no list of tensors"),
        ([torch.zeros(2, 2), torch.zeros(2, 2)], "or not integers"),
        ([torch.zeros(2, 2, dtype=torch.int64), torch.zeros(3, 2, dtype=torch.int64)], "are of different shapes"),
    ):
        with pytest.raises(ArtifactError, match=said):
            import_megatron([save_pt(tmp_path / "b.pt", bad)], SHAPE)


def router_trace(ids, *, rank=0, steps=(0,), **changes):
    records = [
        {
            "step": step,
            "stage": "pre_dispatch",
            "block": "decoder",
            "layer": layer + 1,
            "rank": rank,
            "num_tokens": len(ids),
            "topk": ids.shape[2],
            "top_indices": ids[:, layer].tolist(),
            **changes,
        }
        for step in steps
        for layer in range(ids.shape[1])
    ]
    return "\n".join(map(json.dumps, records)) + "\n"


def test_megatron_router_trace_names_its_layers(tmp_path):
    ids = choices(5)
    mtp = router_trace(ids, block="mtp", mtp_idx=0)
    path = write(tmp_path / "router_trace_rank0.jsonl", router_trace(ids, steps=(0, 1)) + mtp)
    trace = import_megatron([path], UNNAMED)
    assert_holds(trace, np.concatenate([ids, ids]), tmp_path)
    assert trace.seq_offsets.tolist() == [0, 5, 10]


def test_megatron_ranks_are_asked_about(tmp_path):
    ids = choices(4), choices(4, seed=1)
    paths = [write(tmp_path / f"{rank}.jsonl", router_trace(ids[rank], rank=rank)) for rank in range(2)]
    with pytest.raises(
        InputError, match=r"router traces \(=2\) may hold different tokens \(data parallel\) or the same"
    ):
        import_megatron(paths, SHAPE)
    assert_holds(import_megatron(paths, SHAPE, ranks="tokens"), np.concatenate(ids), tmp_path)
    assert_holds(import_megatron(paths, SHAPE, ranks="same"), ids[0], tmp_path)


def test_megatron_bool_maps_have_lost_the_order(tmp_path):
    path = write(tmp_path / "a.jsonl", router_trace(np.sort(choices(20), axis=-1)))
    assert import_megatron([path], SHAPE).metadata["is_ordered"] is False


@pytest.mark.parametrize(
    ("content", "error", "said"),
    [
        ("[]\n", ArtifactError, "a record is no JSON object"),
        ("\n", InputError, "holds no record of the decoder; was anything recorded"),
        ("{}\n", ArtifactError, "a record has no step and layer"),
        (router_trace(choices(2), num_tokens=3), ArtifactError, "has not as many top_indices as it says"),
        (router_trace(choices(2), steps=(0, 0)), InputError, "has step 0, layer 1 twice, so runs were appended"),
        (
            router_trace(choices(2)).splitlines()[0] + "\n" + router_trace(choices(3), steps=(1,)),
            InputError,
            "not the sa",
        ),
        (
            router_trace(choices(2, layers=4)),
            InputError,
            r"has the layers \[1, 2, 3, 4\], and experts are in \[1, 2, 3\]",
        ),
        (router_trace(choices(2)) + "{", ArtifactError, r"line 4 is no JSON \(JSONDecodeError\)"),
    ],
)
def test_megatron_traces_that_can_not_be_right(tmp_path, content, error, said):
    with pytest.raises(error, match=said):
        import_megatron([write(tmp_path / "a.jsonl", content)], SHAPE)
    with pytest.raises(InputError, match=r"files end in \['.txt'\] and must be one .pt, or .jsonl router traces"):
        import_megatron([tmp_path / "a.txt"], SHAPE)


def test_megatron_pipeline_stage_has_a_part_of_the_layers(tmp_path):
    trace = import_megatron([write(tmp_path / "a.jsonl", router_trace(choices(2, layers=2)))], SHAPE)
    assert trace.layer_index.tolist() == [1, 2]


def test_megatron_passes_without_tokens(tmp_path):
    empty = choices(5)[:0]
    text = router_trace(choices(5)) + router_trace(empty, steps=(1,))
    trace = import_megatron([write(tmp_path / "router_trace_rank0.jsonl", text)], UNNAMED)
    assert trace.num_tokens == 5
    other_k = router_trace(choices(5)[:, :1]) + router_trace(choices(5, k=3)[:, :2]).replace('"layer": 1', '"layer": 3')
    with pytest.raises(InputError, match=r"step 0 has not the same tokens in each of the layers \[1, 2, 3\]"):
        import_megatron([write(tmp_path / "a.jsonl", other_k)], UNNAMED)


def with_logits(ids, logits):
    """A router trace that names its logits, and the bytes of the file beside it."""
    lines, content = [], b""
    for line in router_trace(ids).splitlines():
        record = json.loads(line)
        raw = logits[record["layer"] - 1].bfloat16().view(torch.int16).numpy().tobytes()
        place = {"logits_offset": len(content), "logits_bytes": len(raw), "logits_shape": [len(ids), 8]}
        lines.append(json.dumps({**record, **place}))
        content += raw
    return "\n".join(lines), content


def test_megatron_logits_beside_the_trace(tmp_path):
    ids, logits = choices(5), torch.randn(3, 5, 8, generator=torch.Generator().manual_seed(0))
    text, content = with_logits(ids, logits)
    path = write(tmp_path / "router_trace_rank0.jsonl", text)
    (tmp_path / "logits_rank0.bin").write_bytes(content)
    trace = import_megatron([path], UNNAMED)
    assert torch.equal(trace.router_logits, logits.bfloat16().half())
    assert_holds(trace, ids, tmp_path)
    (tmp_path / "logits_rank0.bin").write_bytes(content[:-1])
    with pytest.raises(ArtifactError, match=r"logits_rank0.bin ends before the logits that router_trace_rank0.jsonl"):
        import_megatron([path], UNNAMED)
    (tmp_path / "logits_rank0.bin").unlink()
    with pytest.raises(ArtifactError, match=r"^can't read .*logits_rank0.bin: No such file"):
        import_megatron([path], UNNAMED)


def test_megatron_logits_that_can_not_be_right(tmp_path):
    ids, logits = choices(5), torch.zeros(3, 5, 8)
    text, content = with_logits(ids, logits)
    (tmp_path / "logits_rank0.bin").write_bytes(content)
    path = tmp_path / "router_trace_rank0.jsonl"
    for before, after in (
        ('"logits_offset": 0', '"logits_offset": -1'),
        ("[5, 8]", "[4, 8]"),
        ("[5, 8]", "[5, 9]"),
        ("80, ", "80.0, "),
    ):
        with pytest.raises(ArtifactError, match=r"a record's logits are not \[5, E\] of bfloat16; record it again$"):
            import_megatron([write(path, text.replace(before, after))], UNNAMED)
    beyond = text.replace('"logits_offset": 0', f'"logits_offset": {2**80}')
    with pytest.raises(ArtifactError, match=r"logits_rank0.bin ends before the logits that"):
        import_megatron([write(path, beyond)], UNNAMED)
    with pytest.raises(InputError, match=r"only some of the records name logits; import those with and without apart"):
        import_megatron([write(path, text.replace("logits_offset", "other", 1))], UNNAMED)
    with pytest.raises(InputError, match=r"the logits are of 8 experts, and the model has 9; give its own"):
        import_megatron([write(path, text)], RouterShape(num_experts=9))


def test_an_imported_trace_can_be_compared(tmp_path):
    ids = choices(30)
    path = tmp_path / "a.npy"
    path.write_bytes(npy(ids))
    trace = import_vllm([path], SHAPE)
    assert isinstance(trace, headgate.RoutingTrace)
    from headgate.observe.diff import diff_traces

    assert diff_traces(trace, trace, assume_aligned=True).agreement.overlap == 1.0
