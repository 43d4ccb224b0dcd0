import dataclasses
import json

import pytest
import torch
from typer.testing import CliRunner

import headgate
from headgate.cli.app import app
from headgate.errors import InputError
from headgate.observe.pieces import count_rows, recount
from headgate.observe.reader import open_trace
from headgate.observe.whatif import what_if
from headgate.observe.writer import save_trace
from traces import random_trace

SPEC = headgate.preset("mixtral", num_experts=6, top_k=2)


def trace_with_logits(tokens=60):
    logits = torch.randn(2, tokens, 6, generator=torch.Generator().manual_seed(0)).half().float()
    top = logits.softmax(-1).topk(2, dim=-1)
    trace = random_trace(layers=(0, 1), lengths=(tokens,), full=False)
    return dataclasses.replace(
        trace,
        topk_ids=top.indices,
        topk_weights=(top.values / top.values.sum(-1, keepdim=True)).half(),
        router_logits=logits.half(),
        counts=count_rows(top.indices, num_experts=6),
        metadata={"layers": [{"path": f"layers.{n}", "router": SPEC.to_dict()} for n in range(2)]},
    )


def test_nothing_asked_changes_nothing():
    trace = random_trace(lengths=(50, 50))
    for layer, row in zip(what_if(trace), range(3), strict=True):
        assert layer.layer == trace.layer_index[row]
        assert layer.overlap == 1.0
        assert layer.drop_fraction[0] == pytest.approx(trace.is_dropped[row].float().mean().item())
        assert layer.drop_fraction[1] == 0.0
        assert layer.weight_kept == pytest.approx(1.0)


def test_fewer_choices_keep_the_best():
    trace = random_trace(top_k=3, drop=0)
    found = what_if(trace, top_k=1)
    for row, layer in enumerate(found):
        assert layer.overlap == pytest.approx(1 / 3)
        weights = trace.topk_weights[row].float()
        assert layer.weight_kept == pytest.approx((weights[:, 0].sum() / weights.sum()).item())


@pytest.mark.parametrize(("rule", "kept"), [("position", 0), ("score", 2)])
def test_capacity_by_hand(rule, kept):
    # Three tokens want expert 0 in one pass; it takes ceil(1.0 * 3 / 3) = 1 of them.
    ids = torch.tensor([[[0], [0], [0]]])
    trace = dataclasses.replace(
        random_trace(layers=[5], lengths=(3,), top_k=1, num_experts=3, drop=0),
        topk_ids=ids,
        topk_weights=torch.tensor([[[0.2], [0.3], [0.5]]]).half(),
        forward_id=torch.zeros(3, dtype=torch.int32),
    )
    (layer,) = what_if(dataclasses.replace(trace, counts=recount(trace)), capacity=1.0, drop_rule=rule)
    assert layer.load_ratio == (3.0, 3.0)
    assert layer.drop_fraction == (0.0, pytest.approx(2 / 3))
    weights = [0.2, 0.3, 0.5]
    assert layer.weight_kept == pytest.approx(weights[kept], abs=1e-3)


def test_capacity_is_of_each_pass_or_else_of_each_sequence():
    ids = torch.tensor([[[0], [0], [1], [1]]])
    trace = dataclasses.replace(
        random_trace(layers=[0], lengths=(2, 2), top_k=1, num_experts=2, full=False), topk_ids=ids
    )
    # Each sequence gives its expert 2 rows, of which ceil(1.0 * 2 / 2) = 1 fits.
    assert what_if(trace, capacity=1.0)[0].drop_fraction[1] == 0.5
    together = dataclasses.replace(trace, forward_id=torch.zeros(4, dtype=torch.int32))
    assert what_if(together, capacity=1.0)[0].drop_fraction[1] == 0.0


def test_a_bias_chooses_again():
    trace = trace_with_logits()
    assert [layer.overlap for layer in what_if(trace, bias=torch.zeros(2, 6))] == [1.0, 1.0]
    bias = torch.zeros(2, 6)
    bias[1, 3] = 10.0
    found = what_if(trace, bias=bias)
    assert found[0].overlap == 1.0
    assert found[1].overlap < 1.0
    assert found[1].load_ratio[1] == pytest.approx(3.0)  # Every token's first or second choice of 6.


def test_padding_is_left_out():
    trace = random_trace(lengths=(4,), top_k=1, num_experts=2, layers=[0], drop=0)
    padded = dataclasses.replace(trace, phase=torch.tensor([0, 0, 3, 3], dtype=torch.uint8))
    alone = dataclasses.replace(trace, phase=None)
    assert what_if(padded)[0].load_ratio != what_if(alone)[0].load_ratio or bool(
        torch.equal(trace.topk_ids[0, :2].sort(0).values, trace.topk_ids[0, 2:].sort(0).values)
    )


@pytest.mark.parametrize(
    ("trace", "options", "said"),
    [
        (random_trace(lengths=()), {}, "the trace has no tokens, so nothing can be replayed; record the choices"),
        (random_trace(), {"top_k": 3}, r"top_k \(=3\) must be between 1 and the choices that were recorded \(=2\)"),
        (random_trace(is_ordered=False), {"top_k": 1}, r"top_k \(=1\) needs choices in order, and the trace says it"),
        (random_trace(), {"capacity": -1.0}, r"capacity \(=-1.0\) must be positive and finite; 1.25 is a common"),
        (random_trace(full=False), {"capacity": 1.0, "drop_rule": "score"}, r"drop \(='score'\) goes by weights, and"),
        (
            random_trace(),
            {"bias": torch.zeros(3, 6)},
            "bias needs router_logits to choose from, and the trace has none",
        ),
        (trace_with_logits(), {"bias": torch.zeros(3, 6)}, r"bias.shape \(=\(3, 6\)\) must be \[L, E\] \(=\(2, 6\)\)"),
        (trace_with_logits(), {"bias": torch.full((2, 6), float("nan"))}, "bias holds NaN or infinite numbers, which"),
        (
            dataclasses.replace(trace_with_logits(), metadata={}),
            {"bias": torch.zeros(2, 6)},
            "bias needs to know the router, and the trace does not note it",
        ),
    ],
)
def test_what_can_not_be_answered(trace, options, said):
    with pytest.raises(InputError, match=said):
        what_if(trace, **options)


def invoke(*arguments):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def test_the_command(tmp_path):
    path = tmp_path / "a.safetensors"
    save_trace(path, trace_with_logits())
    result = invoke("replay", path, "--capacity", "1.0", "--drop", "score")
    assert result.exit_code == 0
    assert "weight kept" in result.stdout
    assert invoke("replay", path, "--top-k", "1", "-q").stdout == ""
    for options, said in (
        ((), "what if what?"),
        (("--top-k", "1", "--drop", "score"), "without --capacity nothing is"),
    ):
        result = invoke("replay", path, *options)
        assert result.exit_code == 2
        assert said in result.stderr
    found = json.loads(invoke("replay", path, "--bias", "0", "--json").stdout)
    assert [layer["overlap"] for layer in found] == [1.0, 1.0]
    (tmp_path / "bias.json").write_text(json.dumps([[0] * 6, [0, 0, 0, 10, 0, 0]]))
    found = json.loads(invoke("replay", path, "--bias", tmp_path / "bias.json", "--json").stdout)
    assert found[1]["overlap"] < 1.0
    (tmp_path / "bias.json").write_text('{"a": 1}')
    with pytest.raises(InputError, match=r"bias\.json\) holds no list \[L\]\[E\] of numbers; write one row per layer"):
        invoke("replay", path, "--bias", tmp_path / "bias.json")


@pytest.mark.parametrize("options", [{}, {"capacity": 0.7}, {"capacity": 1.2, "drop_rule": "score", "top_k": 1}])
def test_a_few_tokens_at_a_time_give_the_same(options, monkeypatch, tmp_path):
    trace = random_trace(lengths=(9, 14, 7, 12))
    # Passes that lie across the sequences, as those of a batch do; one of them larger than a batch of four tokens.
    passes = torch.arange(42, dtype=torch.int32) % 5 + (torch.arange(42) > 30).int() * 3
    trace = dataclasses.replace(trace, forward_id=passes)
    save_trace(tmp_path / "a.safetensors", trace)
    whole = what_if(trace, **options)
    monkeypatch.setattr("headgate.observe.whatif._BATCH_TOKENS", 4)
    for source in (trace, open_trace(tmp_path / "a.safetensors")):
        for a, b in zip(what_if(source, **options), whole, strict=True):
            for field in dataclasses.fields(a):
                assert getattr(a, field.name) == pytest.approx(getattr(b, field.name), rel=1e-6), field.name
