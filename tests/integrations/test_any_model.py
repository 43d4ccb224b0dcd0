"""One front door: `headgate.tap`, `trace_of`, `replay` and `measure_norms` on models of either kind and of both."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import Tensor, nn

import headgate
import headgate.integrations.transformers as integration
from headgate.errors import InputError
from headgate.observe.reader import open_trace
from headgate.observe.validate import validate_trace
from integrations import zoo

IDS = torch.randint(3, zoo.VOCABULARY, (2, 6), generator=torch.Generator().manual_seed(0))
OURS, THEIRS = "model.layers.1.mlp", "model.layers.0.mlp.experts"


@pytest.fixture(params=["theirs", "mixture"])
def model(request) -> nn.Module:
    built = zoo.build("mixtral")
    if request.param == "mixture":
        torch.manual_seed(0)
        built.model.layers[1].mlp = headgate.MoE.from_family(
            "deepseek_v3", 32, 8, num_experts=6, top_k=2, group_limit=None
        )
    return built.eval()


def run(model: nn.Module) -> Tensor:
    """Two passes, of a prompt and of tokens after it."""
    with torch.no_grad():
        first = model(IDS[:, :4], use_cache=True)
        second = model(IDS[:, 4:], past_key_values=first.past_key_values)
    return torch.cat([first.logits, second.logits], dim=1)


def assert_same(model: nn.Module, found: Tensor, expected: Tensor) -> None:
    """Bit for bit where weights are those of the model's own code; Headgate's layers compute them again."""
    if any(isinstance(module, headgate.MoE) for module in model.modules()):
        # Some hundred roundings lie between a weight and the logits.
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    else:
        assert torch.equal(found, expected)


def test_a_model_is_recorded_and_replayed(model, tmp_path):
    with headgate.tap(model) as tape, headgate.measure_norms(model) as norms:
        expected = run(model)
    trace = headgate.trace_of(model, tape, norms=norms, with_logits=True)
    assert torch.equal(trace.token_ids.view(2, 6), IDS.int())
    assert trace.contribution_norms[trace.topk_ids >= 0].isfinite().all()
    with headgate.replay(model, trace, token_ids=IDS):
        assert_same(model, run(model), expected)
    headgate.save_trace(tmp_path / "a.safetensors", trace)
    assert validate_trace(open_trace(tmp_path / "a.safetensors")) == []
    with headgate.replay(model, headgate.load_trace(tmp_path / "a.safetensors")):
        assert_same(model, run(model), expected)


def test_another_model_follows_the_recording_with_its_own_weights(model):
    with headgate.tap(model) as tape:
        run(model)
    trace = headgate.trace_of(model, tape)
    with torch.no_grad():
        for path, parameter in model.named_parameters():
            if path.endswith(("gate.weight", "router.weight")):
                parameter.neg_()
    with headgate.replay(model, trace), headgate.tap(model) as again:
        run(model)
    assert torch.equal(headgate.trace_of(model, again).topk_ids, trace.topk_ids)
    with headgate.tap(model) as free:
        run(model)
    assert not torch.equal(headgate.trace_of(model, free).topk_ids, trace.topk_ids)


def test_gradients_reach_every_router_in_a_replay(model):
    with headgate.tap(model) as tape:
        model(IDS, use_cache=False)
    with headgate.replay(model, headgate.trace_of(model, tape)):
        model(IDS, use_cache=False).logits.square().sum().backward()
    routers = {path: p for path, p in model.named_parameters() if path.endswith(("gate.weight", "router.weight"))}
    assert len(routers) == 2
    assert all(p.grad.abs().max() > 0 for p in routers.values())


def test_a_tape_of_both_kinds_is_one_mapping():
    built = zoo.build("mixtral")
    built.model.layers[1].mlp = headgate.MoE(32, 8, num_experts=6, top_k=2)
    with headgate.tap(built) as tape:
        run(built)
    assert set(tape) == {OURS, THEIRS}
    assert len(tape) == 2
    assert [tape[path][0].choice.expert_ids.shape for path in (THEIRS, OURS)] == [(8, 3), (8, 2)]
    trace = headgate.trace_of(built, tape)
    assert [layer["path"] for layer in trace.metadata["layers"]] == [THEIRS, OURS]
    assert trace.layer_index.tolist() == [0, 1]
    assert trace.metadata["layers"][1]["router"]["num_experts"] == 6
    # Six experts in the second layer, filled up to eight.
    assert trace.counts[:, 6:].sum(1).tolist()[1] == 0
    assert torch.equal(trace.counts.sum(1), torch.tensor([12 * 3, 12 * 2]))
    assert (trace.topk_ids[1, :, 2] == -1).all()


def test_drops_in_one_of_the_layers_are_kept():
    built = zoo.build("mixtral")
    spec = headgate.preset("switch", num_experts=4, capacity=headgate.Capacity(factor=0.5))
    built.model.layers[1].mlp = headgate.MoE(32, 8, router=spec)
    with headgate.tap(built) as tape:
        expected = run(built.eval())
    trace = headgate.trace_of(built, tape)
    assert trace.is_dropped[1].any()
    assert trace.counts[1].sum() == (~trace.is_dropped[1, :, 0]).sum()
    with headgate.replay(built, trace):
        assert_same(built, run(built), expected)


def test_tapes_of_each_kind_alone_are_understood():
    theirs, ours = zoo.build("mixtral"), headgate.MoE(8, 16, num_experts=4, top_k=2)
    with integration.tap(theirs) as tape:
        run(theirs)
    assert torch.equal(headgate.trace_of(theirs, tape).topk_ids, integration.make_trace(tape).topk_ids)
    with headgate.tap(ours) as both:
        ours(torch.randn(3, 8))
    assert headgate.trace_of(ours, both.ours, token_ids=torch.arange(3)).num_tokens == 3


def test_wrong_use_is_refused():
    theirs, ours = zoo.build("mixtral"), headgate.MoE(8, 16, num_experts=4, top_k=2)
    with headgate.tap(ours) as tape:
        ours(torch.randn(3, 8))
    with pytest.raises(InputError, match=r"token_ids \(=None\) are not seen by Headgate's layers"):
        headgate.trace_of(ours, tape)
    trace = headgate.trace_of(ours, tape, token_ids=torch.arange(3))
    with pytest.raises(InputError, match=r"weights \(='recorded'\) must be 'own' for Headgate's layers"):
        headgate.replay(ours, trace, weights="recorded").__enter__()
    with headgate.tap(theirs) as tape:
        run(theirs)
    with pytest.raises(InputError, match=r"token_ids \(given\) are seen with a model of transformers"):
        headgate.trace_of(theirs, tape, token_ids=IDS)
    with pytest.raises(InputError, match="token 0 is 0 here and"):
        headgate.replay(theirs, headgate.trace_of(theirs, tape), token_ids=torch.zeros_like(IDS)).__enter__()
    for use in (headgate.tap, headgate.measure_norms):
        with pytest.raises(InputError, match=r"model \(=Linear\) holds no"):
            use(nn.Linear(2, 2)).__enter__()


def test_models_of_headgate_alone_import_no_transformers():
    code = """
import sys, torch, headgate
layer = headgate.MoE(8, 16, num_experts=4, top_k=2)
with headgate.tap(layer) as tape, headgate.measure_norms(layer) as norms:
    layer(torch.randn(3, 8))
with headgate.replay(layer, headgate.trace_of(layer, tape, token_ids=torch.arange(3), norms=norms)):
    layer(torch.randn(3, 8))
assert "transformers" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)
