"""Every MoE architecture of the installed transformers, on our backend: outputs and gradients are theirs."""

from __future__ import annotations

import copy
import dataclasses
import math
import statistics
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

import headgate.integrations.transformers as integration
from compare import assert_close
from headgate.integrations.transformers.formulas import Formula
from headgate.integrations.transformers.sites import find_sites
from headgate.nn.routing import Batch, RouterState, route
from headgate.observe.trace import RoutingTrace
from headgate.scores import compute_scores
from integrations import zoo

NAMES = zoo.architectures()

# Outside the interface, and no adapter: the reason is in the table that `accelerate` returns.
KEPT = {"doge", "nllb_moe", "switch_transformers", "vitpose_backbone"}

# Its experts take the router's mask for ids, so that no id changes the output; docs/transformers.md shows how.
DEAF_TO_IDS = {"nllb_moe"}

# Nothing is routed; the formula's note says why.
NO_FORMULA = {"vitpose_backbone"}

# Their weights for other choices than their own follow from more than the logits, so they are replayed as recorded.
NO_OWN_WEIGHTS = {*NO_FORMULA, "diffusion_gemma", "gemma4", "inkling", "phimoe"}

# Built without a head, as parts of models that see pictures or hear; or no language models.
NOT_GENERATING = {
    *("deepseek_ocr2", "diffusion_gemma", "ernie4_5_vl_moe", "glm4v_moe", "glm5_next", "mistral_large4", "muse_spark"),
    *("openai_privacy_filter", "qwen3_omni_moe", "qwen3_vl_moe", "step3p7", "unlimited_ocr", "vitpose_backbone"),
}

# Its own code has no static cache: a KeyError on every backend.
NO_STATIC_CACHE = {"deepseek_v4"}

# The longest chain of sums from the embedding to the output: per layer about 12 of D and 2 of F terms.
TERMS = zoo.NUM_LAYERS * (12 * zoo.D_MODEL + 2 * zoo.D_FF)


def test_architectures_are_found_and_every_one_is_built():
    inside = [name for name in NAMES if zoo.is_in_interface(name)]
    assert len(inside) >= 64
    assert len(NAMES) - len(inside) >= 9


@pytest.mark.parametrize("name", NAMES)
def test_layers_are_found_and_switched(name):
    model = zoo.build(name)
    table = integration.accelerate(model)
    assert len(table.layers) >= 1
    reasons = [layer.reason for layer in table.layers if not layer.is_switched]
    if name in KEPT:
        assert table.num_switched == 0
    else:
        assert [reason for reason in reasons if "attention heads" not in reason] == []


@pytest.mark.parametrize("name", [name for name in NAMES if name not in KEPT])
def test_outputs_are_those_of_eager_in_float32(name):
    model = zoo.build(name)
    expected = run(model)
    integration.accelerate(model)
    assert_close("output", run(model), expected, dtype=torch.float32, terms=TERMS)
    integration.restore(model)
    assert torch.equal(run(model), expected)


@pytest.mark.parametrize("name", [name for name in NAMES if name not in KEPT])
def test_gradients_are_those_of_eager_in_float32(name):
    model = zoo.build(name)
    expected = differentiate(model)
    integration.accelerate(model)
    actual = differentiate(model)
    # Where an architecture saturates, a gradient is what is left of terms of the usual size.
    scale = statistics.median(gradient.square().mean().sqrt().item() for gradient in expected.values())
    for path, gradient in actual.items():
        wanted = expected.get(path, torch.zeros_like(gradient))
        assert_close(path, gradient, wanted, dtype=torch.float32, terms=TERMS, scale=scale)
    assert expected.keys() <= actual.keys()


@pytest.mark.parametrize("name", [name for name in NAMES if name not in KEPT])
def test_experts_in_bfloat16_are_as_near_to_float64_as_eager(name):
    """Each layer's experts on what the bfloat16 model feeds them.

    The factor: eager rounds the output at least, an error of e; we round the rows between the two products and the
    output, two independent errors of e each: sqrt(2) * e. Most architectures round more often than we do.
    """
    model = zoo.cast(zoo.build(name), torch.bfloat16)
    calls = record_calls(model)
    eager = run_calls(model, calls, torch.bfloat16)
    exact = run_calls(zoo.cast(model, torch.float64), calls, torch.float64)
    integration.accelerate(model)
    ours = run_calls(model, calls, torch.bfloat16)
    for path, reference in exact.items():
        theirs, mine = distance(eager[path], reference), distance(ours[path], reference)
        assert mine <= math.sqrt(2) * theirs, f"{path}: {mine:.2e} from float64, eager {theirs:.2e}"


@pytest.mark.parametrize("name", [name for name in NAMES if zoo.is_in_interface(name)])
def test_tap_sees_what_the_experts_are_called_with(name):
    """Seen by a backend of the interface, which is another way than the tap's."""
    model = zoo.build(name)
    calls = []

    def spy(module: nn.Module, hidden: Tensor, ids: Tensor, weights: Tensor) -> Tensor:
        calls.append((ids.clone(), weights.clone()))
        return ALL_EXPERTS_FUNCTIONS["batched_mm"](module, hidden, ids, weights)

    ALL_EXPERTS_FUNCTIONS.register("spy", spy)
    for site in find_sites(model):
        site.module.config._experts_implementation_internal = "spy"
    with integration.tap(model) as tape:
        run(model)
    decisions = [decision for layer in tape.layers.values() for decision in layer.decisions]
    assert len(decisions) == len(calls) > 0
    for decision, (ids, weights) in zip(decisions, calls, strict=True):
        if name == "zaya":  # It gives a token that skips the experts to the first, with the weight 0.
            ids = ids.masked_fill(weights == 0, zoo.NUM_EXPERTS)
        assert torch.equal(decision.expert_ids, ids)
        assert torch.equal(decision.combine_weights, weights)
        assert decision.logits.shape[0] == len(ids)


@pytest.mark.parametrize("implementation", ["eager", "headgate"])
@pytest.mark.parametrize("name", NAMES)
def test_replay_gives_the_output_bit_for_bit_and_other_ids_another(name, implementation):
    model = zoo.build(name)
    if implementation == "headgate":
        integration.accelerate(model)
    with integration.tap(model) as tape:
        expected = run(model)
    trace = make_trace(tape, name)
    # What computes nothing is left where it is: another expert would get Zaya's weight for it, which is 0.
    ids = trace.topk_ids
    moved = dataclasses.replace(trace, topk_ids=((ids + 1) % zoo.NUM_EXPERTS).where(ids < zoo.NUM_EXPERTS, ids))
    for weights in ("recorded",) if name in NO_OWN_WEIGHTS else ("recorded", "own"):
        with integration.replay(model, trace, weights=weights):
            assert torch.equal(run(model), expected)
        with integration.replay(model, moved, weights=weights), integration.tap(model) as other:
            # Own weights of other experts are other weights.
            assert torch.equal(run(model), expected) == (name in DEAF_TO_IDS and weights == "recorded")
        # Llama 4 shows its choice by weight, whatever order it came in.
        assert torch.equal(make_trace(other, name).topk_ids.sort().values, moved.topk_ids.sort().values)
    assert torch.equal(run(model), expected)


@pytest.mark.parametrize("name", NAMES)
def test_the_formula_gives_the_models_own_ids_and_weights_from_its_logits(name):
    model = zoo.build(name)
    with integration.tap(model) as tape:
        run(model)
    for layer in tape.layers.values():
        formula = integration.formula_from_config(model.config, layer_index=layer.layer_index)
        if formula.spec is None:
            assert formula.gives == "nothing"
            assert name in NO_FORMULA
            continue
        assert name not in NO_FORMULA
        for decision in layer.decisions:
            check_formula(formula, layer, decision)


@pytest.mark.parametrize("name", NAMES)
def test_generation_in_a_padded_batch_is_that_of_eager_and_its_padding_is_seen(name):
    model = zoo.build(name)
    assert model.can_generate() == (name not in NOT_GENERATING)
    if name in NOT_GENERATING:
        return
    ids = zoo.example_inputs(model)["input_ids"]
    mask = torch.ones_like(ids)
    mask[1, :2] = 0
    options = {"max_new_tokens": 3, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    options |= {"attention_mask": mask, "cache_implementation": "dynamic" if name in NO_STATIC_CACHE else "static"}
    has_encoder = model.config.is_encoder_decoder
    if has_encoder:
        options["decoder_start_token_id"] = 2
    expected = model.generate(ids, **options)
    integration.accelerate(model)
    with integration.tap(model) as tape:
        assert torch.equal(model.generate(ids, **options), expected)
    phases = make_trace(tape, name).phase.bincount(minlength=4).tolist()
    # Behind an encoder, the decoder's first token is its prompt. The last token is chosen and never routed.
    assert phases == [2, 4, 0, 0] if has_encoder else [12, 4, 0, 2]


def check_formula(formula: Formula, layer: integration.LayerTape, decision: integration.Decision) -> None:
    spec, logits = formula.spec, decision.logits
    scores = compute_scores(logits, score=spec.score, score_dtype=spec.score_dtype, model_dtype=torch.float32)
    table = None
    if spec.selection == "hash":  # by token id, from the model's own table
        table, spec = decision.expert_ids, dataclasses.replace(spec, vocab_size=len(logits))
    state = RouterState(selection_bias=layer.selection_bias if spec.selection_bias else None, expert_table=table)
    batch = Batch(sequence_length=7, training=False, token_ids=torch.arange(len(logits)))
    choice, plan = route(spec, logits, scores, batch, state)
    kept, weights = choice.expert_ids.where(plan.drop_reason == 0, -1), choice.combine_weights
    if layer.class_name == "ZayaExperts":  # as the formula's note says
        weights = weights.masked_fill(kept == spec.num_experts, 0.0)
    ours, theirs = weigh(kept, weights), weigh(decision.expert_ids, decision.combine_weights)
    assert torch.equal(ours.isfinite(), theirs.isfinite())
    if formula.gives == "ids and weights":
        assert_close("weights", ours.nan_to_num(0.0), theirs.nan_to_num(0.0), dtype=torch.float32, terms=zoo.D_MODEL)


def weigh(ids: Tensor, weights: Tensor) -> Tensor:
    """[T, E]: each expert's weight, NaN where it isn't chosen."""
    table = torch.full((len(ids), 2 * zoo.NUM_EXPERTS + 1), float("nan"))
    return table.scatter(1, ids.where(ids >= 0, 2 * zoo.NUM_EXPERTS), weights.float())[:, :-1]


def make_trace(tape: integration.Tape, name: str) -> RoutingTrace:
    """A trace; an image model is called without token ids, so they are given here."""
    if name == "vitpose_backbone":
        passes = [dataclasses.replace(one, token_ids=torch.zeros(2, 4, dtype=torch.int64)) for one in tape.passes]
        tape = dataclasses.replace(tape, passes=passes)
    return integration.make_trace(tape)


def run(model: nn.Module) -> Tensor:
    with torch.no_grad():
        return zoo.output_of(model(**zoo.example_inputs(model)))


def differentiate(model: nn.Module) -> dict[str, Tensor]:
    """The gradient of a fixed functional of the output for every parameter that it reaches."""
    model.zero_grad()
    out = zoo.output_of(model(**zoo.example_inputs(model)))
    functional = torch.randn(out.shape, generator=torch.Generator().manual_seed(2))
    (out * functional).sum().backward()
    return {path: p.grad.clone() for path, p in model.named_parameters() if p.grad is not None}


def record_calls(model: nn.Module) -> dict[str, tuple[Any, Any]]:
    """What each module that runs experts is called with in one forward pass."""
    calls: dict[str, tuple[Any, Any]] = {}

    def keep(path: str, args: Any, kwargs: Any) -> None:
        calls[path] = copy.deepcopy((args, kwargs))

    handles = [
        site.module.register_forward_pre_hook(lambda _, *call, path=site.path: keep(path, *call), with_kwargs=True)
        for site in find_sites(model)
    ]
    run(model)
    for handle in handles:
        handle.remove()
    return calls


def run_calls(model: nn.Module, calls: dict[str, tuple[Any, Any]], dtype: torch.dtype) -> dict[str, Tensor]:
    """The output of each of these modules on those calls, in a dtype."""
    outputs = {}
    for path, (args, kwargs) in calls.items():
        with torch.no_grad():
            result = model.get_submodule(path)(*zoo.cast_values(args, dtype), **zoo.cast_values(kwargs, dtype))
        outputs[path] = result[0] if isinstance(result, tuple) else result
    return outputs


def distance(actual: Tensor, exact: Tensor) -> float:
    return (actual.double() - exact).square().mean().sqrt().item()
