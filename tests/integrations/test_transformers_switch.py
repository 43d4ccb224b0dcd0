"""The backend "headgate" of transformers: what is switched, what isn't and why, and every flag of the interface."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM
from transformers.integrations.finegrained_fp8 import ALL_FP8_EXPERTS_FUNCTIONS, FP8Experts
from transformers.integrations.moe import (
    ALL_EXPERTS_FUNCTIONS,
    batched_mm_experts_forward,
    use_experts_implementation,
)

import headgate.integrations.transformers as integration
from compare import assert_close
from headgate.errors import BackendError, InputError
from headgate.integrations.transformers.backend import experts_forward
from headgate.integrations.transformers.gates import known_function
from headgate.integrations.transformers.provenance import hash_weights
from headgate.integrations.transformers.sites import find_sites
from headgate.kernels.function import ExpertFunction
from integrations import zoo


def experts_of(name: str, layer: int = 0) -> nn.Module:
    return find_sites(zoo.build(name))[layer].module


@pytest.mark.parametrize(
    ("name", "function"),
    [
        ("mixtral", ExpertFunction()),
        ("beam", ExpertFunction()),
        ("gemma4", ExpertFunction(activation="gelu_tanh")),
        ("deepseek_v4", ExpertFunction(clamp=10.0)),
        ("minimax_m3_vl", ExpertFunction(clamp=7.0, sigmoid_slope=1.702, up_offset=1.0)),
        ("gpt_oss", ExpertFunction(clamp=7.0, sigmoid_slope=1.702, up_offset=1.0, interleaved=True)),
        ("openai_privacy_filter", ExpertFunction(clamp=7.0, sigmoid_slope=1.702, up_offset=1.0)),
    ],
)
def test_a_gate_is_recognised_by_what_it_computes(name, function):
    assert known_function(experts_of(name)) == function


@pytest.mark.parametrize("name", ["inkling2", "nemotron_h"])
def test_a_gate_that_the_kernel_lacks_is_not_recognised(name):
    assert known_function(experts_of(name)) is None


def test_a_clamp_after_the_activation_is_not_taken_for_one_before_it():
    assert known_function(experts_of("step3p7", layer=0)) == ExpertFunction()
    assert known_function(experts_of("step3p7", layer=1)) is None


@pytest.mark.parametrize("limit", [0.01, 3.0, 5000.0])
def test_a_limit_is_found_wherever_it_lies(limit):
    experts = experts_of("deepseek_v4")
    experts.limit = limit
    assert known_function(experts).clamp == limit


def test_a_gate_with_a_parameter_is_left_to_the_model():
    experts = experts_of("mixtral")
    experts.slope = nn.Parameter(torch.ones(()))
    experts._apply_gate = lambda hidden: hidden[:, : zoo.D_FF] * experts.slope
    assert known_function(experts) is None


def test_registering_twice_is_registering_once():
    integration.register()
    integration.register()
    assert ALL_EXPERTS_FUNCTIONS["headgate"] is experts_forward


@pytest.mark.parametrize("name", ["mixtral", "gpt_oss", "deepseek_v3"])
def test_a_checkpoint_loads_with_the_backend_and_runs_on_its_own_weights(name, tmp_path):
    integration.register()
    model = zoo.build(name)
    model.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path, experts_implementation="headgate").eval()
    weight = find_sites(loaded)[0].module.gate_up_proj
    address = weight.data_ptr()
    inputs = zoo.example_inputs(model)
    assert_close("logits", loaded(**inputs).logits, model(**inputs).logits, dtype=torch.float32, terms=500)
    assert weight.data_ptr() == address
    options = {"max_new_tokens": 4, "min_new_tokens": 4, "do_sample": False}
    assert torch.equal(loaded.generate(**inputs, **options), model.generate(**inputs, **options))
    loaded.set_experts_implementation("eager")
    assert torch.equal(loaded(**inputs).logits, model(**inputs).logits)


def test_the_table_says_what_runs_each_layer_and_restore_leaves_nothing_behind():
    model = zoo.build("jetmoe")
    before = [set(vars(module)) for module in model.modules()]
    table = integration.accelerate(model)
    assert table.num_switched == 2
    assert [layer.path for layer in table.layers if layer.is_switched] == ["model.layers.0.mlp", "model.layers.1.mlp"]
    assert str(table).splitlines() == [
        "2 of 4 MoE layers run on headgate",
        "   2 x JetMoeMoE                    E=8     headgate  adapter: one fused pass",
        "   2 x JetMoeMoA                    E=8     theirs    "
        "a mixture of attention heads: attention runs between its two products",
    ]
    integration.restore(model)
    assert [set(vars(module)) for module in model.modules()] == before


def test_accelerating_twice_restores_to_what_was_first():
    model = zoo.build("olmoe")
    integration.accelerate(model)
    assert integration.accelerate(model).num_switched == 2
    integration.restore(model)
    assert model.config._experts_implementation == "eager"


def test_a_model_without_experts_is_refused():
    with pytest.raises(InputError, match=r"model \(=Linear\) has no MoE layer of transformers; only layers with"):
        integration.accelerate(nn.Linear(2, 2))


def test_without_a_kernel_for_the_dtype_theirs_is_kept_unless_asked():
    model = zoo.build("mixtral").double()
    table = integration.accelerate(model)
    assert table.num_switched == 0
    assert "no kernel of ours for float64 on cpu" in table.layers[0].reason
    inputs = zoo.example_inputs(model)
    expected = model(**inputs).logits
    assert integration.accelerate(model, any_device=True).num_switched == 2
    assert_close("logits", model(**inputs).logits, expected, dtype=torch.float64, terms=500)


def test_a_model_on_the_meta_device_keeps_its_own():
    with torch.device("meta"):
        model = zoo.model_class("mixtral")(zoo.build("mixtral").config)
    assert "meta" in integration.accelerate(model).layers[0].reason


def test_quantised_experts_keep_their_own_code_and_so_do_those_that_share_their_configuration():
    model = zoo.build("mixtral")
    experts = find_sites(model)[1].module
    experts.gate_up_proj = nn.Parameter(experts.gate_up_proj.to(torch.int8), requires_grad=False)
    table = integration.accelerate(model)
    assert table.num_switched == 0
    assert table.layers[1].reason == "quantised experts (torch.int8), which keep their own code"
    assert table.layers[0].reason.startswith("shares its configuration with model.layers.1.mlp.experts: quantised")
    with pytest.raises(BackendError, match=r"MixtralExperts.gate_up_proj \(=torch.int8\) must be of a plain floating"):
        experts_forward(experts, torch.zeros(1, 32), torch.zeros(1, 2, dtype=torch.int64), torch.ones(1, 2))


def test_a_forward_that_other_code_replaced_is_left_alone():
    model = zoo.build("dbrx")
    experts = find_sites(model)[0].module
    experts.forward = experts.forward
    table = integration.accelerate(model)
    assert [layer.is_switched for layer in table.layers] == [False, True]
    assert table.layers[0].reason == "its forward has been replaced by other code"


@pytest.mark.parametrize("name", ["mixtral", "gpt_oss", "muse_spark", "nemotron_h"])
def test_ids_of_other_ranks_count_nothing_and_get_no_gradient(name):
    experts = experts_of(name)
    experts._is_expert_parallel = True
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, zoo.NUM_EXPERTS + 1, (9, 3), generator=generator)
    values = torch.rand(9, 3, generator=generator).masked_fill(ids == zoo.NUM_EXPERTS, 0.0)
    x = torch.randn(9, zoo.D_MODEL, generator=generator)
    results = []
    for run in (experts_forward, batched_mm_experts_forward):
        weights, tokens = values.clone().requires_grad_(), x.clone().requires_grad_()
        y = run(experts, tokens, ids, weights)
        y.square().sum().backward()
        results.append((y, weights.grad, tokens.grad))
    for label, actual, expected in zip(("y", "d weights", "d x"), *results, strict=True):
        assert_close(label, actual, expected, dtype=torch.float32, terms=100)
    assert (results[0][1][ids == zoo.NUM_EXPERTS] == 0).all()


def test_tokens_in_another_dtype_than_the_weights_come_back_in_theirs():
    experts = experts_of("mixtral")
    ids = torch.tensor([[0, 1, 2]])
    y = experts_forward(experts, torch.randn(1, 32, dtype=torch.bfloat16), ids, torch.ones(1, 3))
    assert y.dtype == torch.bfloat16


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("cache", ["dynamic", "static"])
def test_generation_in_a_padded_batch_is_that_of_eager(side, cache):
    model = zoo.build("qwen3_moe")
    ids = torch.randint(3, zoo.VOCABULARY, (2, 6), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[0, :2] = 0
    mask, ids = (mask.flip(1), ids.flip(1)) if side == "right" else (mask, ids)
    options = {"attention_mask": mask, "max_new_tokens": 5, "do_sample": False, "cache_implementation": cache}
    options["min_new_tokens"] = 5
    expected = model.generate(ids, **options)
    integration.accelerate(model)
    assert torch.equal(model.generate(ids, **options), expected)


def test_a_copy_of_an_accelerated_model_runs_alone():
    model = zoo.build("step3p7")
    integration.accelerate(model)
    other = copy.deepcopy(model)
    inputs = zoo.example_inputs(model)
    expected = zoo.output_of(model(**inputs))
    nn.init.zeros_(find_sites(model)[0].module.down_proj)
    assert torch.equal(zoo.output_of(other(**inputs)), expected)
    integration.restore(other)
    assert not any("forward" in vars(module) for module in other.modules())


@pytest.mark.parametrize("name", ["gpt_oss", "muse_spark"])
def test_it_compiles_in_one_graph(name, uninstrumented):
    """On modules without the run-time checks of shapes, which a compiler can't trace."""
    forward = uninstrumented("headgate.integrations.transformers.backend").experts_forward
    experts = experts_of(name)
    x, ids, weights = torch.randn(6, 32), torch.arange(18).view(6, 3) % 8, torch.rand(6, 3)
    compiled = torch.compile(lambda *call: forward(experts, *call), backend="aot_eager", fullgraph=True)
    with torch.no_grad():
        assert torch.equal(compiled(x, ids, weights), forward(experts, x, ids, weights))


@pytest.mark.parametrize("name", ["qwen3_moe", "gpt_oss"])
def test_a_whole_model_compiles_in_one_graph_with_its_gradients(name, uninstrumented):
    uninstrumented("headgate.integrations.transformers").register()
    model = zoo.build(name)
    model.set_experts_implementation("headgate")
    inputs = zoo.example_inputs(model)
    expected, gradients = differentiate(model, model.forward, inputs)
    compiled = torch.compile(model.forward, backend="aot_eager", fullgraph=True)
    actual, found = differentiate(model, compiled, inputs)
    # The compiler takes operations apart, and so rounds elsewhere.
    assert_close("logits", actual, expected, dtype=torch.float32, terms=500)
    scale = max(float(gradient.square().mean().sqrt()) for gradient in gradients.values())
    for path, gradient in gradients.items():
        assert_close(path, found[path], gradient, dtype=torch.float32, terms=500, scale=scale)


def differentiate(model, forward, inputs):
    model.zero_grad()
    logits = forward(**inputs).logits
    logits.square().sum().backward()
    return logits, {path: p.grad.clone() for path, p in model.named_parameters() if p.grad is not None}


class Int8Weight(Tensor):
    """What torchao makes of a weight: integers and a scale, in a tensor that passes for a floating one."""

    @staticmethod
    def __new__(cls, integers: Tensor, scale: Tensor) -> Int8Weight:
        return Tensor._make_wrapper_subclass(cls, integers.shape, dtype=scale.dtype)

    def __init__(self, integers: Tensor, scale: Tensor) -> None:
        self.integers, self.scale = integers, scale

    def __tensor_flatten__(self) -> tuple[list[str], None]:
        return ["integers", "scale"], None

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        if function is torch.ops.aten.detach.default:
            return cls(args[0].integers, args[0].scale)
        plain = [one.integers * one.scale if isinstance(one, cls) else one for one in args]
        return function(*plain, **(kwargs or {}))


def test_experts_whose_quantised_weights_pass_for_floating_ones_keep_their_own_code():
    model = zoo.build("mixtral")
    for site in find_sites(model):
        weight = site.module.down_proj.detach()
        scale = weight.abs().amax(-1, keepdim=True) / 127
        packed = Int8Weight((weight / scale).round().to(torch.int8), scale)
        site.module.down_proj = nn.Parameter(packed, requires_grad=False)
    inputs = zoo.example_inputs(model)
    with torch.no_grad():
        expected = model(**inputs).logits
    table = integration.accelerate(model)
    assert {layer.reason for layer in table.layers} == {"quantised experts (Int8Weight), which keep their own code"}
    with torch.no_grad(), integration.tap(model) as tape:
        assert torch.equal(model(**inputs).logits, expected)
    assert len(tape.passes) == 1
    before = hash_weights(model)
    find_sites(model)[0].module.down_proj.data.integers[0, 0, 0] += 1
    assert hash_weights(model) != before
    model.set_experts_implementation("headgate")
    with pytest.raises(BackendError, match=r"MixtralExperts.down_proj \(=Int8Weight\) must be of a plain"):
        model(**inputs)


def test_experts_with_an_interface_of_their_own_keep_it_and_their_neighbours_too():
    model = zoo.build("mixtral")
    # As the quantiser makes it: a class of its own that dispatches through the interface for FP8.
    made = type("QuantisedExperts", (FP8Experts,), {})
    quantised = use_experts_implementation(made, experts_interface=ALL_FP8_EXPERTS_FUNCTIONS)(model.config, (4, 4))
    model.model.layers[1].mlp.experts = quantised
    table = integration.accelerate(model)
    assert [layer.is_switched for layer in table.layers] == [False, False]
    assert table.layers[1].reason == "quantised experts, which run on a backend of their own"
    assert model.config._experts_implementation == "eager"
