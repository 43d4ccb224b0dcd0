"""Tap and replay of transformers models beyond one forward pass: generation, padding, training, files, errors."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

import headgate.integrations.transformers as integration
from headgate.errors import InputError
from headgate.integrations.transformers.sites import find_sites, layer_index_of
from headgate.integrations.transformers.tap import describe_pass
from headgate.observe.noted import noted_layers
from headgate.observe.pieces import select, widen
from headgate.observe.reader import load_trace
from headgate.observe.trace import Phase, RoutingTrace
from headgate.observe.writer import save_trace
from integrations import zoo

IDS = torch.randint(3, zoo.VOCABULARY, (2, 6), generator=torch.Generator().manual_seed(0))


def record(model: nn.Module, ids: Tensor = IDS, **inputs: Tensor) -> RoutingTrace:
    with integration.tap(model) as tape, torch.no_grad():
        model(ids, **inputs)
    return integration.make_trace(tape)


@pytest.mark.parametrize("cache", ["dynamic", "static"])
def test_generated_tokens_follow_their_prompt_and_say_so(cache):
    model = zoo.build("olmoe")
    mask = torch.ones_like(IDS)
    mask[0, :2] = 0
    options = {"max_new_tokens": 3, "min_new_tokens": 3, "do_sample": False, "cache_implementation": cache}
    with integration.tap(model) as tape:
        generated = model.generate(IDS, attention_mask=mask, **options)
    trace = integration.make_trace(tape)
    # The last token is chosen and never routed.
    assert trace.seq_offsets.tolist() == [0, 8, 16]
    assert torch.equal(trace.token_ids.view(2, 8), generated[:, :-1].int())
    prompt, new, pad = int(Phase.PROMPT), int(Phase.GENERATED), int(Phase.PADDING)
    assert trace.phase.view(2, 8).tolist() == [[pad] * 2 + [prompt] * 4 + [new] * 2, [prompt] * 6 + [new] * 2]
    assert trace.position.view(2, 8).tolist() == [list(range(8))] * 2
    assert trace.forward_id.view(2, 8)[0].tolist() == [0] * 6 + [1, 2]
    assert trace.counts.sum(1).tolist() == [14 * zoo.TOP_K] * 2


def test_a_window_that_has_moved_on_says_nothing_of_padding():
    mask = {"sliding_attention": torch.ones(2, 1, 1, 4, dtype=torch.bool)}
    cache = SimpleNamespace(get_seq_length=lambda: 9)
    seen = describe_pass({"input_ids": IDS[:, :1], "attention_mask": mask, "past_key_values": cache})
    assert seen.is_padding is None


def test_generation_behind_an_encoder_is_a_trace_of_the_decoder():
    model = zoo.build("nllb_moe")
    with integration.tap(model) as tape:
        generated = model.generate(IDS, max_new_tokens=4, min_new_tokens=4, do_sample=False)
    trace = integration.make_trace(tape)
    assert torch.equal(trace.token_ids.view(2, 4), generated[:, :-1].int())
    assert {layer["path"].partition(".layers")[0] for layer in trace.metadata["layers"]} == {"model.decoder"}
    with integration.replay(model, trace, weights="recorded"):
        assert torch.equal(model.generate(IDS, max_new_tokens=4, min_new_tokens=4, do_sample=False), generated)


def test_a_replayed_generation_is_the_recorded_one():
    model = zoo.build("qwen3_moe")
    options = {"max_new_tokens": 4, "min_new_tokens": 4, "do_sample": False}
    with integration.tap(model) as tape:
        expected = model.generate(IDS, **options)
    trace = integration.make_trace(tape)
    with torch.no_grad():
        for site in find_sites(model):
            model.get_submodule(site.path.replace("experts", "gate")).weight.neg_()
    assert not torch.equal(model.generate(IDS, **options), expected)
    with integration.replay(model, trace, weights="recorded"):
        assert torch.equal(model.generate(IDS, **options), expected)
    with integration.replay(model, trace), integration.tap(model) as again:
        model.generate(IDS, **options)
    assert torch.equal(integration.make_trace(again).topk_ids, trace.topk_ids)


def test_a_trace_survives_its_file_and_replays_to_half_precision(tmp_path):
    model = zoo.build("mixtral")
    trace = record(model)
    save_trace(tmp_path / "trace.safetensors", trace)
    loaded = load_trace(tmp_path / "trace.safetensors")
    assert torch.equal(loaded.topk_ids, trace.topk_ids)
    with integration.replay(model, loaded), torch.no_grad():
        replayed = model(IDS).logits
    assert torch.equal(replayed, model(IDS).logits)


def test_a_layer_is_named_by_its_path_and_its_decoder_layer():
    trace = record(zoo.build("jetmoe"))
    assert [layer["path"] for layer in trace.metadata["layers"]] == [
        f"model.layers.{i}.{part}" for i in range(2) for part in ("mlp", "self_attention.experts")
    ]
    assert trace.layer_index.tolist() == [0, 0, 1, 1]


@pytest.mark.parametrize(("path", "index"), [("model.layers.12.mlp.experts", 12), ("h.3", 3), ("mlp2.experts", -1)])
def test_the_layer_index_is_the_first_number_of_the_path(path, index):
    assert layer_index_of(path) == index


@pytest.mark.parametrize("name", ["glm4_moe", "minimax_m2", "afmoe", "lfm2_moe", "ernie4_5_moe", "zaya"])
def test_the_selection_bias_is_found_wherever_a_model_keeps_it(name):
    model = zoo.build(name)
    with integration.tap(model) as tape:
        pass
    buffers = {**dict(model.named_buffers()), **dict(model.named_parameters())}
    kept = [t for path, t in buffers.items() if path.endswith(("correction_bias", "expert_bias", "balancing_biases"))]
    assert [layer.selection_bias.tolist() for layer in tape.layers.values()] == [t.flatten().tolist() for t in kept]


def test_recording_leaves_nothing_behind_and_can_leave_out_logits():
    model = zoo.build("mixtral")
    before = [(set(vars(module)), module.forward.__func__) for module in model.modules()]
    with integration.tap(model, logits=False) as tape, torch.no_grad():
        model(IDS)
    assert [decision.logits for layer in tape.layers.values() for decision in layer.decisions] == [None, None]
    assert [(set(vars(module)), module.forward.__func__) for module in model.modules()] == before
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in model.modules())


@pytest.mark.parametrize("implementation", ["eager", "headgate"])
def test_a_pass_that_checkpointing_repeats_is_recorded_once_and_replayed_twice(implementation):
    integration.register()
    model = zoo.build("qwen3_moe").train()
    model.set_experts_implementation(implementation)
    expected = gradients(model)
    model.activation_checkpointing_enable({"use_reentrant": False})
    with integration.tap(model) as tape:
        assert gradients(model).keys() == expected.keys()
    assert [len(layer.decisions) for layer in tape.layers.values()] == [1, 1]
    trace = integration.make_trace(tape)
    with integration.replay(model, trace):
        replayed = gradients(model)
    assert all(torch.equal(replayed[path], expected[path]) for path in expected)


def test_recorded_weights_are_constants_and_own_ones_have_gradients():
    model = zoo.build("mixtral")
    trace = record(model)
    router = "model.layers.0.mlp.gate.weight"
    with integration.replay(model, trace, weights="recorded"):
        assert router not in gradients(model)
    with integration.replay(model, trace):
        assert gradients(model)[router].abs().max() > 0


def test_own_weights_of_another_choice_are_those_of_the_routers_formula_with_gradients():
    model = zoo.build("mixtral")
    trace = record(model)
    moved = dataclasses.replace(trace, topk_ids=(trace.topk_ids + 1) % zoo.NUM_EXPERTS)
    with integration.replay(model, moved), integration.tap(model) as tape:
        grads = gradients(model)
    assert grads["model.layers.0.mlp.gate.weight"].abs().max() > 0
    (decision,) = tape["model.layers.0.mlp.experts"]
    assert torch.equal(decision.expert_ids, moved.topk_ids[0])
    scores = decision.logits.softmax(1).gather(1, moved.topk_ids[0])
    torch.testing.assert_close(decision.combine_weights, scores / scores.sum(1, keepdim=True))
    with integration.replay(model, moved, weights="recorded"), integration.tap(model) as tape, torch.no_grad():
        model(IDS)
    assert torch.equal(integration.make_trace(tape).topk_weights[0], trace.topk_weights[0])


def test_the_order_of_a_choice_does_not_change_the_weight_of_an_expert():
    model = zoo.build("olmoe")
    trace = record(model)
    turned = dataclasses.replace(trace, topk_ids=trace.topk_ids.flip(-1))
    with integration.replay(model, turned), integration.tap(model) as tape, torch.no_grad():
        model(IDS)
    assert torch.equal(tape["model.layers.0.mlp.experts"][0].combine_weights, trace.topk_weights[0].flip(-1))


def test_a_trace_without_paths_and_weights_is_replayed_by_its_decoder_layers():
    """As an engine's is that records ids alone."""
    model = zoo.build("qwen3_moe")
    trace = record(model)
    bare = dataclasses.replace(trace, metadata={}, topk_weights=None, forward_id=None)
    with torch.no_grad():
        expected = model(IDS).logits
        with integration.replay(model, bare):
            assert torch.equal(model(IDS).logits, expected)
    with pytest.raises(InputError, match=r"topk_weights \(=None\) must be in the trace for weights='recorded'"):
        integration.replay(model, bare, weights="recorded").__enter__()
    with pytest.raises(
        InputError, match=r"is of decoder layers \[0, 1\] and names no layer by its path, and the model"
    ):
        integration.replay(zoo.build("jetmoe"), bare).__enter__()


def test_a_compiled_model_is_seen_too():
    model = zoo.build("mixtral")
    expected = record(model)
    trace = record(torch.compile(model, backend="eager"))
    assert torch.equal(trace.topk_ids, expected.topk_ids)
    assert trace.metadata == expected.metadata


def test_experts_called_by_keyword_are_seen():
    experts = nn.Sequential(find_sites(zoo.build("gpt_oss"))[0].module)
    ids, weights = torch.tensor([[1, 2]]), torch.rand(1, 2)
    with integration.tap(experts) as tape, torch.no_grad():
        experts[0](hidden_states=torch.randn(1, 32), router_indices=ids, routing_weights=weights)
    assert torch.equal(tape["0"][0].expert_ids, ids)
    assert tape["0"][0].logits is None
    assert torch.equal(tape["0"][0].choice.expert_ids, ids)
    assert dict(tape) == {"0": tape["0"]}


def gradients(model: nn.Module) -> dict[str, Tensor]:
    model.zero_grad()
    model(IDS, use_cache=False).logits.square().sum().backward()
    return {path: p.grad.clone() for path, p in model.named_parameters() if p.grad is not None}


def test_errors_say_what_to_do():
    model = zoo.build("mixtral")
    with pytest.raises(InputError, match="has no MoE layer of transformers; for layers of Headgate use"):
        integration.tap(nn.Linear(2, 2)).__enter__()
    with integration.tap(model) as tape:
        pass
    with pytest.raises(InputError, match="there are no token ids to record; call the model with input_ids"):
        integration.make_trace(tape)
    with integration.tap(model) as tape, torch.no_grad():
        model(IDS)
        model(IDS[:1])
    with pytest.raises(InputError, match=r"the passes have \[2, 1\] sequences; record one batch per tap"):
        integration.make_trace(tape)
    with integration.tap(model) as tape, torch.no_grad():
        model(IDS)
        model.model.layers[0](torch.randn(1, 3, 32), position_embeddings=(torch.ones(1, 3, 8), torch.zeros(1, 3, 8)))
    assert [layer["path"] for layer in integration.make_trace(tape).metadata["layers"]] == [
        "model.layers.1.mlp.experts"
    ]


@pytest.mark.parametrize(
    ("name", "num_shared"),
    [
        ("mixtral", 0),
        ("afmoe", 2),  # two in one module, as the configuration says
        ("qwen2_moe", 1),  # the configuration names a width alone
        ("llama4", 1),
        ("granitemoeshared", 1),  # beside the block
        ("ernie4_5_vl_moe", 2),  # of text and pictures
    ],
)
def test_a_layer_says_how_many_experts_every_token_gets_besides(name, num_shared):
    trace = record(zoo.build(name))
    assert {layer["num_shared"] for layer in trace.metadata["layers"]} == {num_shared}
    assert {layer.num_shared for layer in noted_layers(trace, top_k=zoo.TOP_K)} == {num_shared}


def test_zero_compute_experts_are_noted_with_the_router():
    trace = record(zoo.build("longcat_flash"))
    layers = noted_layers(trace, top_k=zoo.TOP_K)
    assert {(layer.num_experts, layer.num_zero_experts, layer.num_shared) for layer in layers} == {(8, 4, 0)}


def test_doge_generates_as_recorded_and_has_its_own_forward_again():
    model = zoo.build("doge")

    def generate() -> Tensor:
        options = {"max_new_tokens": 3, "min_new_tokens": 3, "do_sample": False}
        found = model.generate(IDS, output_logits=True, return_dict_in_generate=True, **options)
        return torch.stack(found.logits)

    with integration.tap(model) as tape:
        expected = generate()
    trace = integration.make_trace(tape)
    blocks = [site.module for site in find_sites(model)]
    with torch.no_grad():
        for block in blocks:
            block.router_gate.weight.neg_()
    assert not torch.equal(generate(), expected)
    with integration.replay(model, trace, weights="recorded"), integration.tap(model) as again:
        assert torch.equal(generate(), expected)
    seen = integration.make_trace(again)
    assert torch.equal(seen.topk_ids, trace.topk_ids)
    assert torch.equal(seen.topk_weights, trace.topk_weights)
    assert all("forward" not in vars(block) for block in blocks)


def test_replay_refuses_what_does_not_fit():
    model = zoo.build("mixtral")
    trace = record(model)
    with (
        integration.replay(model, trace),
        pytest.raises(InputError, match="was called with 2 tokens in pass 0, and 12 were recorded; call the model"),
    ):
        model(IDS[:1, :2])
    with pytest.raises(InputError, match=r"the trace names model.layers.0.mlp.experts, .* which the model \(=Llama4"):
        integration.replay(zoo.build("llama4"), trace).__enter__()
    more = dataclasses.replace(trace, topk_ids=trace.topk_ids + zoo.NUM_EXPERTS)
    with pytest.raises(
        InputError, match=r"^model.layers.0.mlp.experts has 8 experts, and the trace 16; replay a trace"
    ):
        integration.replay(model, more).__enter__()
    with pytest.raises(InputError, match=r"the trace has expert 15 in model.layers.0.mlp.experts, .* choose 0 to 7;"):
        integration.replay(model, more, weights="recorded").__enter__()
    with pytest.raises(InputError, match=r"has model.layers.1.mlp.experts, which the trace lacks; replay its own"):
        integration.replay(model, select(trace, layers=[0])).__enter__()
    with (
        integration.replay(model, trace),
        pytest.raises(InputError, match=r"^token 0 of pass 0 is \d+ here and \d+ in the trace; replay the same text$"),
    ):
        model(IDS.flip(1))


def test_replay_refuses_another_k():
    model = zoo.build("mixtral")
    trace = record(model)
    layers = [{**layer, "router": {**layer["router"], "top_k": 1}} for layer in trace.metadata["layers"]]
    with pytest.raises(InputError, match=r"^model.layers.0.mlp.experts chooses k = 3 experts, and the trace 1; replay"):
        integration.replay(model, dataclasses.replace(trace, metadata={"layers": layers})).__enter__()
    wide = widen(trace, zoo.TOP_K + 1)
    wide.topk_ids[..., -1] = 0
    with (
        integration.replay(model, wide, weights="recorded"),
        pytest.raises(InputError, match=r"^model.layers.0.mlp.experts chooses k = 3 experts, and the trace 4; replay"),
    ):
        model(IDS)


def test_replay_refuses_code_that_was_put_in_a_forward_and_weights_without_a_formula():
    doge = zoo.build("doge")
    trace = record(doge)
    doge.model.layers[0].mlp.forward = doge.model.layers[0].mlp.forward
    with pytest.raises(InputError, match=r"the forward of model.layers.0.mlp \(=DogeCDMoE\) has been replaced by"):
        integration.replay(doge, trace, weights="recorded").__enter__()
    gemma = zoo.build("gemma4")
    with pytest.raises(InputError, match=r"weights \(='own'\) of .* can't be computed: the router norms and scales"):
        integration.replay(gemma, record(gemma)).__enter__()


def test_margin_and_entropy_follow_the_models_own_router():
    model = zoo.build("mixtral")
    with integration.tap(model) as tape, torch.no_grad():
        model(IDS)
    trace = integration.make_trace(tape)
    scores = tape["model.layers.0.mlp.experts"][0].logits.softmax(1)
    ranked = scores.sort(dim=1, descending=True).values
    torch.testing.assert_close(trace.select_margin[0], (ranked[:, 2] - ranked[:, 3]).half(), rtol=2e-3, atol=1e-6)
    entropy = -(scores * scores.log()).sum(1)
    torch.testing.assert_close(trace.router_entropy[0], entropy.half(), rtol=2e-3, atol=1e-6)
    assert trace.metadata["layers"][0]["router"]["normalise"] == "sum"
    unknown = integration.make_trace(tape, specs={})
    assert unknown.select_margin.isnan().all()
    assert unknown.metadata["layers"][0]["router"] is None


def test_a_model_on_the_meta_device_can_not_be_recorded_and_keeps_its_own_code():
    model = zoo.build("mixtral").to("meta")
    with pytest.raises(InputError, match=r"model \(=MixtralForCausalLM\) has experts on the meta device"):
        integration.tap(model).__enter__()
    assert integration.accelerate(model).num_switched == 0
    assert "no kernel of ours for float32 on meta" in integration.accelerate(model).layers[0].reason
