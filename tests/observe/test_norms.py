"""Norms of contributions: those of each expert run by itself, and in the order of the trace's choices."""

import pytest
import torch

import headgate
from headgate.nn import measure_norms
from headgate.nn.norms import sum_error
from headgate.observe.reader import load_trace, open_trace
from headgate.observe.shape import RecordedShape, shape_of
from headgate.observe.trace import decode_metadata, encode_metadata
from headgate.observe.validate import validate_trace

D, F, E, T = 8, 12, 6, 7
# The widest f16 step near 1, and one rounding of the product in float32.
HALF = 2**-11


def make_layer(name):
    torch.manual_seed(0)
    fields = {"capacity": headgate.Capacity(factor=0.5)} if name == "switch" else {}
    fields |= {"group_limit": None, "top_k": 2} if name == "deepseek_v3" else {}
    fields |= {"top_k": 4} if name == "longcat_flash" else {}
    return headgate.MoE.from_family(name, D, F, num_experts=E, **fields).eval()


def record(layer, x):
    with headgate.tap(layer) as tape, measure_norms(layer) as norms, torch.no_grad():
        outputs = [layer(part) for part in x.split(4)]
    trace = headgate.trace_of(layer, tape, token_ids=torch.arange(len(x)), norms=norms, seq_lengths=[len(x)])
    return trace, torch.cat(outputs)


@pytest.mark.parametrize("name", ["mixtral", "llama4", "expert_choice", "switch", "deepseek_v3", "longcat_flash"])
def test_norms_are_those_of_each_expert_by_itself(name):
    layer, x = make_layer(name), torch.randn(T, D, generator=torch.Generator().manual_seed(1))
    trace, y = record(layer, x)
    torch.testing.assert_close(trace.output_norms[0].float(), y.norm(dim=1), rtol=2 * HALF, atol=1e-6)
    for token in range(T):
        for slot, expert in enumerate(trace.topk_ids[0, token].tolist()):
            found = trace.contribution_norms[0, token, slot].item()
            wanted = one_expert(layer, x[token], expert, trace.topk_weights[0, token, slot].item())
            # The weight that is multiplied here is the trace's, rounded to half precision.
            assert found == pytest.approx(wanted, rel=8 * HALF, abs=1e-6), (token, slot, expert)
    shared = 0.0 * y[:, 0] if layer.shared_expert is None else layer.shared_expert(x).norm(dim=1)
    torch.testing.assert_close(trace.shared_norms[0].float(), shared.detach(), rtol=2 * HALF, atol=1e-6)
    # Each part is rounded when weighted and when added, the output once more; all in float32, the norms in half.
    scale = trace.contribution_norms[0].float().sum(1) + trace.shared_norms[0].float()
    error = trace.sum_error[0] * trace.output_norms[0].float()
    assert (error <= 2 * (trace.topk_ids.shape[2] + 2) * torch.finfo(torch.float32).eps * scale).all()


def one_expert(layer, x, expert, weight):
    """The norm of one expert's contribution, from its matrices; 0 for none, the token itself for a zero expert."""
    if expert < 0:
        return 0.0
    is_on_input = layer.spec.apply_to == "input"
    x = x * weight if is_on_input else x
    if expert >= E:
        return (weight * x).norm().item()
    experts = layer.experts
    if experts.spec.gated:
        gate, up = (experts.gate_up_proj[expert] @ x).chunk(2)
        hidden = torch.nn.functional.silu(gate) * up
    else:
        hidden = (experts.up_proj[expert] @ x).relu()
    return ((1.0 if is_on_input else weight) * (experts.down_proj[expert] @ hidden)).norm().item()


def test_an_output_that_is_not_the_sum_of_its_parts_is_told_by_how_much():
    layer, x = make_layer("deepseek_v3"), torch.randn(T, D)
    with layer.register_forward_hook(lambda module, args, y: y * 2.0), measure_norms(layer) as norms:
        layer(x)
    torch.testing.assert_close(norms[""][0].sum_error, torch.full((T,), 0.5))


def test_the_error_of_a_sum_of_nothing():
    y = torch.tensor([[0.0, 0.0], [0.0, 0.0], [3.0, 4.0], [float("nan"), 0.0]])
    parts = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 0.0], [0.0, 0.0]]).double()
    found = sum_error(y, parts)
    torch.testing.assert_close(found, torch.tensor([0.0, float("inf"), 1.0, float("nan")]), equal_nan=True)


def test_measuring_changes_nothing_and_leaves_no_hook():
    layer, x = make_layer("deepseek_v3"), torch.randn(T, D)
    expected = layer(x)
    with measure_norms(layer):
        assert torch.equal(layer(x), expected)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in layer.modules())


def test_a_pass_that_checkpointing_repeats_is_measured_once():
    layer, x = make_layer("mixtral").train(), torch.randn(T, D)
    with measure_norms(layer) as norms:
        torch.utils.checkpoint.checkpoint(layer, x, use_reentrant=False).sum().backward()
    assert len(norms[""]) == 1


def test_a_compiled_layer_is_measured_too():
    layer, x = make_layer("mixtral"), torch.randn(T, D)
    with measure_norms(torch.compile(layer, backend="eager")) as norms:
        y = layer(x)
    torch.testing.assert_close(norms[""][0].output, y.norm(dim=1))


def test_layers_that_were_not_measured_are_unknown_and_the_file_keeps_it(tmp_path):
    layers = torch.nn.ModuleList([make_layer("mixtral"), make_layer("mixtral")])
    with headgate.tap(layers) as tape, measure_norms(layers[1]) as norms, torch.no_grad():
        layers[1](layers[0](torch.randn(T, D)))
    trace = headgate.trace_of(layers, tape, token_ids=torch.arange(T), norms={"1": norms[""]}, with_logits=True)
    assert trace.contribution_norms[0].isnan().all()
    assert trace.sum_error[0].isnan().all()
    assert trace.output_norms[1].isfinite().all()
    headgate.save_trace(tmp_path / "a.safetensors", trace)
    loaded = load_trace(tmp_path / "a.safetensors")
    assert torch.equal(loaded.contribution_norms[1], trace.contribution_norms[1])
    assert torch.equal(loaded.sum_error[1], trace.sum_error[1])
    assert torch.equal(loaded.router_logits[0], tape["0"][0].logits.half())
    assert validate_trace(open_trace(tmp_path / "a.safetensors")) == []
    assert (
        len(list(open_trace(tmp_path / "a.safetensors").chunks(chunk_bytes=2 * (2 * (8 + 2 + 2 + 1 + 2) + 8 + 12))))
        == T
    )


def test_a_norm_that_breaks_the_format_is_found(tmp_path):
    trace, _ = record(make_layer("mixtral"), torch.randn(T, D))
    trace.contribution_norms[0, 3, 1] = -1.0
    trace.output_norms[0, 2] = -1.0
    trace.sum_error[0, 1] = -1.0
    headgate.save_trace(tmp_path / "a.safetensors", trace)
    found = {one.rule: one.where for one in validate_trace(open_trace(tmp_path / "a.safetensors"))}
    assert found == {
        "contribution_norms": "layer 0, token 3",
        "output_norms": "layer 0, token 2",
        "sum_error": "layer 0, token 1",
    }


def test_norms_of_other_passes_are_refused():
    layer, x = make_layer("mixtral"), torch.randn(T, D)
    with headgate.tap(layer) as tape:
        layer(x)
    with measure_norms(layer) as norms:
        pass
    with pytest.raises(headgate.InputError, match=r"norms of the layer \(=0 passes\) must be of the passes"):
        headgate.trace_of(layer, tape, token_ids=torch.arange(T), norms=norms)
    with pytest.raises(headgate.InputError, match=r"model \(=Linear\) holds no MoE layer to measure"):
        measure_norms(torch.nn.Linear(2, 2)).__enter__()


def test_the_shape_adds_up_and_comes_back_from_the_metadata(tmp_path):
    layer = make_layer("deepseek_v3")
    shape = shape_of(layer, num_layers=1, vocab_size=50)
    assert shape.num_expert_parameters == 3 * D * F
    assert shape.num_routed_parameters == E * 3 * D * F
    assert shape.num_shared_parameters == 3 * D * F
    assert shape.num_other_parameters == E * D
    assert (shape.d_model, shape.d_ff, shape.num_layers, shape.vocab_size, shape.dtype) == (D, F, 1, 50, "float32")
    trace, _ = record(layer, torch.randn(T, D))
    found = RecordedShape.from_metadata(trace.metadata)
    assert found == shape_of(layer)
    assert RecordedShape.from_metadata({"model_shape": {"d_model": 8}}) is None
    header = encode_metadata({"model_shape": {"d_model": [8]}})
    with pytest.raises(headgate.ArtifactError, match="model_shape is no object of numbers"):
        decode_metadata(header, path=tmp_path)


def test_a_router_alone_has_no_shape():
    router = headgate.Router(D, headgate.preset("mixtral", num_experts=E))
    with headgate.tap(router) as tape:
        router(torch.randn(T, D), sequence_length=T)
    assert "model_shape" not in headgate.trace_of(router, tape, token_ids=torch.arange(T)).metadata
