import dataclasses
import json

import pytest
import torch
from safetensors import safe_open
from safetensors.numpy import save_file

import headgate
from headgate.errors import ArtifactError, InputError
from headgate.observe.reader import load_trace
from headgate.observe.record import RecordedLayer, choice_per_token, make_trace
from headgate.observe.writer import save_trace


def record(router="mixtral", *, num_experts=4, top_k=2, training=False, balance=None, **fields):
    """A layer, and its decisions on two forward passes over sequences of 5 and 5, then 3 tokens."""
    torch.manual_seed(0)
    spec = headgate.preset(router, num_experts=num_experts, top_k=top_k, **fields)
    layer = headgate.MoE(8, 4, router=spec, balance=balance).train(training)
    token_ids = torch.arange(13)
    with torch.no_grad(), headgate.tap(layer) as tape:
        layer(torch.randn(2, 5, 8), token_ids=token_ids[:10].view(2, 5))
        layer(torch.randn(1, 3, 8), token_ids=token_ids[10:].view(1, 3))
    recorded = RecordedLayer(
        path="layers.1.moe",
        layer_index=1,
        spec=layer.spec,
        selection_bias=layer.router.selection_bias,
        routings=tape[""],
    )
    return recorded, token_ids


def make(*layers, token_ids, **metadata):
    return make_trace(layers, token_ids=token_ids, seq_lengths=[5, 5, 3], metadata=metadata)


def assert_same(first, second):
    for field in dataclasses.fields(first):
        a, b = getattr(first, field.name), getattr(second, field.name)
        if isinstance(a, torch.Tensor):
            assert torch.equal(a, b), field.name
            assert a.dtype == b.dtype, field.name
        elif field.name != "metadata":
            assert a == b, field.name


@pytest.mark.parametrize(
    ("router", "options"),
    [
        ("mixtral", {}),
        ("mixtral", {"balance": "bias"}),
        ("mixtral", {"num_experts": 300, "top_k": 9}),
        ("switch", {"top_k": 1}),
        ("top_p", {}),
        ("expert_choice", {"training": True}),
        ("expert_choice", {"training": False}),
        ("hash", {"top_k": 1, "vocab_size": 13}),
        ("longcat_flash", {}),
    ],
)
def test_a_trace_survives_the_round_trip(tmp_path, router, options):
    layer, token_ids = record(router, **options)
    trace = make(layer, token_ids=token_ids, note="caf\u00e9")
    save_trace(tmp_path / "routing.safetensors", trace)
    found = load_trace(tmp_path / "routing.safetensors")
    assert_same(trace, found)
    assert found.metadata["note"] == "caf\u00e9"
    noted = {"path": "layers.1.moe", "router": layer.spec.to_dict(), "num_shared": None}
    assert found.metadata["layers"] == [noted]
    assert headgate.RouterSpec.from_dict(found.metadata["layers"][0]["router"]) == layer.spec


def test_what_is_in_a_trace():
    layer, token_ids = record()
    trace = make(layer, token_ids=token_ids)
    choices = [routing.choice for routing in layer.routings]
    assert torch.equal(trace.topk_ids[0], torch.cat([choice.expert_ids for choice in choices]))
    assert torch.equal(trace.topk_weights[0], torch.cat([choice.combine_weights for choice in choices]).half())
    assert trace.layer_index.tolist() == [1]
    assert trace.seq_offsets.tolist() == [0, 5, 10, 13]
    assert trace.token_ids.tolist() == list(range(13))
    assert trace.position.tolist() == [0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 0, 1, 2]
    assert trace.forward_id.tolist() == [0] * 10 + [1] * 3
    assert trace.phase.tolist() == [0] * 13
    assert trace.counts.sum().item() == 26
    assert trace.select_bias is None
    scores = torch.cat([routing.scores for routing in layer.routings]).sort(dim=1, descending=True).values
    assert torch.equal(trace.select_margin[0], (scores[:, 1] - scores[:, 2]).half())


def test_the_file_is_laid_out_as_documented(tmp_path):
    layer, token_ids = record("switch", top_k=1, capacity=headgate.Capacity(absolute=1, per="sequence"))
    save_trace(tmp_path / "t.safetensors", make(layer, token_ids=token_ids))
    with safe_open(tmp_path / "t.safetensors", framework="numpy") as file:
        arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
        (text,) = file.metadata().values()
    assert {name: (str(array.dtype), array.shape) for name, array in arrays.items()} == {
        "topk_ids": ("uint8", (1, 13, 1)),
        "topk_weights": ("float16", (1, 13, 1)),
        "layer_index": ("int32", (1,)),
        "seq_offsets": ("int64", (4,)),
        "token_ids": ("int32", (13,)),
        "position": ("int32", (13,)),
        "phase": ("uint8", (13,)),
        "forward_id": ("int32", (13,)),
        "select_margin": ("float16", (1, 13)),
        "router_entropy": ("float16", (1, 13)),
        "dropped": ("uint8", (1, 13, 1)),
        "counts": ("int64", (1, 4)),
    }
    kept = arrays["counts"].sum()
    assert 0 < kept < 13
    assert arrays["dropped"].sum() == 13 - kept  # Bit 0 of byte 0 is the first choice.
    header = json.loads(text)
    assert (header["format"], header["version"], header["dtype"]) == ("headgate-routing", 1, "float32")


def test_no_expert_is_all_ones(tmp_path):
    for num_experts, dtype, ones in ((4, "uint8", 255), (300, "uint16", 65535)):
        layer, token_ids = record("top_p", num_experts=num_experts, top_k=2, top_p=1e-6)
        save_trace(tmp_path / "t.safetensors", make(layer, token_ids=token_ids))
        with safe_open(tmp_path / "t.safetensors", framework="numpy") as file:
            ids = file.get_tensor("topk_ids")
        assert str(ids.dtype) == dtype
        assert (ids[0, :, 1] == ones).all()
        assert (load_trace(tmp_path / "t.safetensors").topk_ids[0, :, 1] == -1).all()


def test_the_ninth_choice_has_a_bit_in_the_second_byte(tmp_path):
    layer, token_ids = record(num_experts=9, top_k=9)
    trace = make(layer, token_ids=token_ids)
    dropped = torch.zeros_like(trace.is_dropped)
    dropped[0, 0, 8] = True
    save_trace(tmp_path / "t.safetensors", dataclasses.replace(trace, is_dropped=dropped))
    with safe_open(tmp_path / "t.safetensors", framework="numpy") as file:
        assert file.get_tensor("dropped")[0, 0].tolist() == [0, 1]
    assert torch.equal(load_trace(tmp_path / "t.safetensors").is_dropped, dropped)


def test_expert_choice_is_written_as_the_experts_of_each_token():
    layer, _ = record("expert_choice", training=True)
    routing = layer.routings[0]
    ids, weights, dropped = choice_per_token(routing)
    assert not dropped.any()
    for token in range(10):
        wanted = {
            expert: routing.choice.combine_weights[expert, slot].item()
            for expert, slot in (routing.choice.token_ids == token).nonzero().tolist()
        }
        found = [(e, w) for e, w in zip(ids[token].tolist(), weights[token].tolist(), strict=True) if e >= 0]
        assert dict(found) == wanted
        assert [w for _, w in found] == sorted(wanted.values(), reverse=True)
        assert weights[token][ids[token] < 0].sum() == 0
    assert ids.shape[1] == (ids >= 0).sum(1).max()


def test_layers_of_different_widths_share_a_trace():
    narrow, token_ids = record(num_experts=4, top_k=2)
    wide, _ = record(num_experts=8, top_k=3, balance="bias")
    wide.selection_bias.fill_(0.5)
    trace = make(narrow, wide, token_ids=token_ids)
    assert trace.topk_ids.shape == (2, 13, 3)
    assert (trace.topk_ids[0, :, 2] == -1).all()
    assert trace.counts[0].tolist()[4:] == [0, 0, 0, 0]
    assert trace.select_bias.tolist() == [[0.0] * 8, [0.5] * 8]


def test_a_recording_must_be_complete():
    layer, token_ids = record()
    with pytest.raises(InputError, match=r"^there are no routings to record; run the model inside the tap first$"):
        make(token_ids=token_ids)
    with pytest.raises(InputError, match=r"^seq_lengths add up to 13, not to the 12 token_ids; give both for T$"):
        make(layer, token_ids=token_ids[:12])
    half = dataclasses.replace(layer, routings=layer.routings[:1])
    with pytest.raises(InputError, match=r"^layers.1.moe routed 10 tokens, not 13; record the same forward passes$"):
        make(half, token_ids=token_ids)


def test_too_many_experts_for_the_format():
    layer, token_ids = record()
    trace = make(layer, token_ids=token_ids)
    huge = dataclasses.replace(trace, counts=torch.zeros(1, 65536, dtype=torch.int64))
    with pytest.raises(InputError, match=r"^E \(=65536\) must be at most 65535: a trace stores expert ids as u16$"):
        save_trace("nowhere.safetensors", huge)


def test_what_is_no_trace_says_so(tmp_path):
    with pytest.raises(ArtifactError, match=r"^there is no file .*absent; check the path$"):
        load_trace(tmp_path / "absent")
    (tmp_path / "text").write_text("not safetensors at all")
    with pytest.raises(
        ArtifactError, match=r"text is not a complete safetensors file: its header claims 7\d+ bytes, and"
    ):
        load_trace(tmp_path / "text")
    save_file({}, tmp_path / "other")
    with pytest.raises(
        ArtifactError, match=r"other is not a routing trace; give a file that Headgate recorded or imported$"
    ):
        load_trace(tmp_path / "other")
    save_file({}, tmp_path / "later", metadata={"headgate": '{"format": "headgate-routing", "version": 9}'})
    with pytest.raises(ArtifactError, match=r"later has trace version 9, this Headgate reads 1; use the Headgate that"):
        load_trace(tmp_path / "later")
    save_file({}, tmp_path / "empty", metadata={"headgate": '{"format": "headgate-routing", "version": 1}'})
    with pytest.raises(ArtifactError, match=r"empty lacks the array 'topk_ids'; record it again with this version$"):
        load_trace(tmp_path / "empty")
