"""Norms of contributions and the shape of a model, for models of transformers."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor

import headgate.integrations.transformers as integration
from headgate.errors import InputError
from headgate.integrations.transformers.norms import UNMEASURED, describe_unmeasured
from headgate.integrations.transformers.recorded_shape import count_experts, shape_of
from headgate.integrations.transformers.sites import find_sites
from headgate.observe.reader import load_trace
from headgate.observe.trace import RoutingTrace
from headgate.observe.writer import save_trace
from integrations import zoo

# Gates with and without bias, transposed, outside the interface, shared experts with a gate and without, a norm.
NAMES = ["mixtral", "gpt_oss", "dbrx", "qwen2_moe", "deepseek_v3", "ernie4_5_moe", "inkling2", "nemotron_h", "step3p7"]


def record(model, **options) -> tuple[RoutingTrace, dict[str, tuple[Tensor, ...]]]:
    """A trace with norms, and what each layer's experts were called with."""
    calls: dict[str, tuple[Tensor, ...]] = {}
    handles = [
        site.module.register_forward_pre_hook(lambda module, args, path=site.path: calls.update({path: args}))
        for site in find_sites(model)
    ]
    with integration.tap(model) as tape, integration.measure_norms(model) as norms, torch.no_grad():
        model(**zoo.example_inputs(model))
    for handle in handles:
        handle.remove()
    return integration.make_trace(tape, norms=norms, **options), calls


@pytest.mark.parametrize("name", NAMES)
def test_a_contribution_is_what_the_layer_returns_where_the_other_weights_are_zero(name):
    model = zoo.build(name)
    trace, calls = record(model)
    assert trace.shared_norms.isfinite().all()
    for row, layer in enumerate(trace.metadata["layers"]):
        x, ids, weights = calls[layer["path"]]
        experts = model.get_submodule(layer["path"])
        for slot in range(ids.shape[1]):
            alone = torch.zeros_like(weights)
            alone[:, slot] = weights[:, slot]
            with torch.no_grad():
                y = experts(x.clone(), ids, alone).reshape(len(ids), -1)
            # Rounded to half precision in the trace.
            torch.testing.assert_close(
                trace.contribution_norms[row, :, slot].float(), y.norm(dim=1), rtol=2**-10, atol=1e-6
            )


@pytest.mark.parametrize("name", ["longcat_flash", "doge", "jetmoe", "llama4", "switch_transformers", "zaya"])
def test_a_contribution_is_what_the_output_lacks_without_that_choice(name):
    """By replaying the recorded choices with one weight put to 0, in classes that are called in ways of their own."""
    model = zoo.build(name)
    integration.accelerate(model)
    outputs: list[Tensor] = []
    site = next(site for site in find_sites(model) if site.class_name != "JetMoeMoA")
    site.module.register_forward_hook(lambda module, args, y: outputs.append(y[0] if isinstance(y, tuple) else y))
    with integration.tap(model) as tape, integration.measure_norms(model) as norms, torch.no_grad():
        model(**zoo.example_inputs(model))
    trace = integration.make_trace(tape)
    row = list(tape).index(site.path)
    contributions = norms[site.path][0].contributions
    assert not contributions.isnan().any()
    for slot in range(contributions.shape[1]):
        weights = trace.topk_weights.clone()
        weights[row, :, slot] = 0.0
        outputs[1:] = []
        without = dataclasses.replace(trace, topk_weights=weights)
        with integration.replay(model, without, weights="recorded"), torch.no_grad():
            model(**zoo.example_inputs(model))
        whole, rest = (y.reshape(len(weights[row]), -1) for y in outputs)
        # Each output is a sum of K parts and what all tokens get, each off by eps of what there is.
        bound = 2 * (contributions.shape[1] + 2) * torch.finfo(torch.float32).eps * 2 * whole.norm(dim=1).max().item()
        torch.testing.assert_close(contributions[:, slot], (whole - rest).norm(dim=1), rtol=1e-5, atol=bound)


def test_norms_that_are_not_to_be_had_are_named():
    assert describe_unmeasured(zoo.build("mixtral")) == []
    (line,) = describe_unmeasured(zoo.build("nllb_moe"))
    assert line == f"norms of NllbMoeExperts are left out: {UNMEASURED['NllbMoeExperts']}"
    model = zoo.build("jetmoe")
    assert [line.split()[2] for line in describe_unmeasured(model)] == ["JetMoeMoA"]
    trace, _ = record(model)
    is_known = [bool(row.isfinite().all()) for row in trace.contribution_norms]
    assert is_known == [site.class_name == "JetMoeMoE" for site in find_sites(model)]


def test_an_expert_whose_output_is_put_beside_the_rest_has_a_norm_and_the_sum_has_none():
    model = zoo.build("vitpose_backbone")
    outputs = []
    experts = find_sites(model)[0].module
    experts.register_forward_hook(lambda module, args, y: outputs.append(y))
    with integration.measure_norms(model) as norms, torch.no_grad():
        model(**zoo.example_inputs(model))
    measured = next(iter(norms.values()))[0]
    assert torch.equal(measured.contributions[:, 0], outputs[0].flatten(0, 1).norm(dim=1))
    assert measured.output.isnan().all()


@pytest.mark.parametrize(
    ("name", "unknown"),
    [
        *((name, {"shared"}) for name in ("axk1", "beam", "minimax_m3_vl", "muse_spark", "openai_privacy_filter")),
        *((name, {"shared", "output", "sum_error"}) for name in ("diffusion_gemma", "gemma4")),
        ("deepseek_v3", set()),
    ],
)
def test_where_a_layer_is_no_plain_sum_contributions_are_known_and_the_rest_is_nan(name, unknown):
    """As docs/transformers.md lists them."""
    model = zoo.build(name)
    with integration.measure_norms(model) as norms, torch.no_grad():
        model(**zoo.example_inputs(model))
    for (measured,) in norms.values():
        names = {field.name for field in dataclasses.fields(measured)}
        assert {name for name in names if getattr(measured, name).isnan().any()} == unknown


def test_shared_and_output_norms_are_those_of_the_block():
    model = zoo.build("qwen2_moe")
    seen = {}
    block = model.model.layers[1].mlp
    block.register_forward_hook(lambda module, args, y: seen.update(x=args[0], y=y))
    trace, _ = record(model)
    x, y = (seen[name].reshape(-1, zoo.D_MODEL) for name in ("x", "y"))
    with torch.no_grad():
        shared = block.shared_expert_gate(x).sigmoid() * block.shared_expert(x)
    torch.testing.assert_close(trace.output_norms[1].float(), y.norm(dim=1), rtol=2**-10, atol=1e-6)
    torch.testing.assert_close(trace.shared_norms[1].float(), shared.norm(dim=1), rtol=2**-10, atol=1e-6)
    # Two roundings in float32 for each part: the slots', the shared experts' and their gate's.
    parts = trace.contribution_norms[1].float().sum(1) + trace.shared_norms[1].float()
    error = trace.sum_error[1] * trace.output_norms[1].float()
    assert (error <= 2 * (trace.topk_ids.shape[2] + 2) * torch.finfo(torch.float32).eps * parts).all()


def test_what_does_not_add_up_is_unknown_and_the_rest_is_known():
    """AXK1 norms the sum of both kinds of experts, and Gemma 4 has no module around its experts alone."""
    trace, _ = record(zoo.build("axk1"))
    assert trace.shared_norms.isnan().all()
    assert trace.output_norms.isfinite().all()
    assert (trace.sum_error > 0.01).all()
    trace, _ = record(zoo.build("gemma4"))
    assert trace.sum_error.isnan().all()
    assert trace.output_norms.isnan().all()
    assert trace.contribution_norms.isfinite().all()


def test_contributions_that_do_not_add_up_are_unknown(monkeypatch):
    model = zoo.build("mixtral")
    experts = model.model.layers[0].mlp.experts
    forward = experts.forward
    # An experts' function whose output for all slots is not the sum of its outputs for each.
    monkeypatch.setattr(experts, "forward", lambda x, ids, weights: forward(x, ids, weights) * ids.shape[1])
    trace, _ = record(model)
    assert trace.contribution_norms[0].isnan().all()
    assert trace.contribution_norms[1].isfinite().all()


def test_measuring_changes_nothing_on_any_backend_and_leaves_no_hook():
    model = zoo.build("deepseek_v3")
    integration.accelerate(model)
    inputs = zoo.example_inputs(model)
    with torch.no_grad():
        expected = model(**inputs).logits
        with integration.measure_norms(model) as norms:
            assert torch.equal(model(**inputs).logits, expected)
    assert [len(passes) for passes in norms.values()] == [1, 1]
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_a_pass_that_checkpointing_repeats_is_measured_once():
    model = zoo.build("qwen2_moe").train()
    model.activation_checkpointing_enable({"use_reentrant": False})
    with integration.measure_norms(model) as norms:
        model(**zoo.example_inputs(model)).logits.sum().backward()
    assert [len(passes) for passes in norms.values()] == [1, 1]


def test_norms_and_logits_survive_the_file(tmp_path):
    trace, _ = record(zoo.build("mixtral"), with_logits=True)
    save_trace(tmp_path / "a.safetensors", trace)
    loaded = load_trace(tmp_path / "a.safetensors")
    for name in ("contribution_norms", "shared_norms", "output_norms", "router_logits"):
        assert torch.equal(getattr(loaded, name), getattr(trace, name))
    assert loaded.router_logits.shape == (2, 14, zoo.NUM_EXPERTS)
    # Each token's best logit is that of the expert that it chose first.
    assert torch.equal(loaded.router_logits.argmax(-1), loaded.topk_ids[..., 0])


def test_logits_that_are_not_to_be_had_are_unknown_and_norms_of_other_passes_are_refused():
    model = zoo.build("mixtral")
    with integration.tap(model, logits=False) as tape, torch.no_grad():
        model(**zoo.example_inputs(model))
    assert integration.make_trace(tape, with_logits=True).router_logits.isnan().all()
    with pytest.raises(InputError, match=r"\(=0 passes\) must be of the passes that the tap saw \(=1\)"):
        integration.make_trace(tape, norms={path: [] for path in tape.layers})


@pytest.mark.parametrize(
    ("name", "d_ff", "num_expert", "num_shared"),
    [
        ("mixtral", 16, 3 * 32 * 16, 0),
        ("gpt_oss", 16, 3 * 32 * 16 + 2 * 16 + 32, 0),
        ("dbrx", zoo.D_FF, 3 * 32 * zoo.D_FF, 0),
        ("deepseek_v3", zoo.D_FF, 3 * 32 * zoo.D_FF, 2 * 3 * 32 * zoo.D_FF),
        ("llama4", 16, 3 * 32 * 16, 2 * 3 * 32 * 16),
        ("switch_transformers", 16, 2 * 32 * 16, 0),
        ("granitemoeshared", 16, 3 * 32 * 16, 2 * 3 * 32 * 16),
        ("doge", 1, 2 * 32, 0),
    ],
)
def test_the_shape_of_a_model(name, d_ff, num_expert, num_shared):
    model = zoo.build(name)
    sites = find_sites(model)
    shape = shape_of(model, sites)
    assert (shape.d_model, shape.d_ff, shape.num_layers, shape.vocab_size) == (32, d_ff, 2, zoo.VOCABULARY)
    assert shape.num_expert_parameters == num_expert
    assert shape.num_shared_parameters == num_shared
    assert shape.num_routed_parameters == len(sites) * count_experts(sites[0]) * num_expert
    parts = shape.num_routed_parameters + shape.num_shared_parameters + shape.num_other_parameters
    assert parts == shape.num_parameters == sum(p.numel() for p in model.parameters())


def test_packed_weights_have_no_shape():
    model = zoo.build("mixtral")
    sites = find_sites(model)
    experts = sites[0].module
    experts.down_proj = torch.nn.Parameter(experts.down_proj.detach().to(torch.uint8), requires_grad=False)
    assert shape_of(model, sites) is None
    with integration.tap(model) as tape:
        pass
    assert tape.shape is None
