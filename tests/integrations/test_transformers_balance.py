"""`balance` adds the gradient of each layer's own loss to any model of transformers, and nothing else."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import headgate.integrations.transformers as integration
from compare import assert_close
from headgate.balance import switch_loss, z_loss
from headgate.errors import InputError
from headgate.integrations.transformers.formulas import formula_from_config
from headgate.integrations.transformers.sites import find_sites
from headgate.integrations.transformers.wires import find_router, wire_of
from headgate.scores import compute_scores
from integrations import zoo


def train_once(model: nn.Module, inputs: dict[str, Tensor], more=lambda: 0.0) -> dict[str, Tensor]:
    model.zero_grad()
    out = zoo.output_of(model(**inputs))
    functional = torch.randn(out.shape, generator=torch.Generator().manual_seed(2))
    ((out * functional).sum() + more()).backward()
    return {path: p.grad.clone() for path, p in model.named_parameters() if p.grad is not None}


FAMILIES = ("mixtral", "deepseek_v3", "gpt_oss", "llama4", "jetmoe", "gemma4", "granitemoe")


@pytest.mark.parametrize(
    ("name", "backend"), [*((name, "eager") for name in FAMILIES), ("mixtral", "headgate"), ("llama4", "headgate")]
)
def test_the_gradient_is_that_of_the_losses_added_by_hand(name, backend):
    model = zoo.build(name).train()
    if backend == "headgate":
        integration.accelerate(model)
    inputs = zoo.example_inputs(model)
    mask = torch.ones_like(inputs["input_ids"])
    mask[0, :3] = 0
    inputs["attention_mask"] = mask
    expected = by_hand(model, inputs, mask.flatten() == 0)
    plain = train_once(model, inputs)
    handle = integration.balance(model, switch=0.5, z=0.25)
    assert handle.layers == tuple(site.path for site in find_sites(model))
    actual = train_once(model, inputs)
    scale = max(float(gradient.square().mean().sqrt()) for gradient in expected.values())
    for path, gradient in expected.items():
        assert_close(path, actual[path], gradient, dtype=torch.float32, terms=1000, scale=scale)
    assert any(not torch.equal(actual[path], plain[path]) for path in plain)
    handle.remove()
    assert all(torch.equal(gradient, plain[path]) for path, gradient in train_once(model, inputs).items())


def by_hand(model: nn.Module, inputs: dict[str, Tensor], is_padding: Tensor) -> dict[str, Tensor]:
    """Keep every router's logits with their graph, and add the losses to the training loss."""
    seen: list[tuple[object, Tensor]] = []
    handles = []
    for site in find_sites(model):
        keep = lambda module, args, result, site=site: seen.append((site, wire_of(site).logits(result)))  # noqa: E731
        handles.append(find_router(model, site)[1].register_forward_hook(keep))
    with integration.tap(model) as tape, torch.no_grad():
        model(**inputs)
    seen.clear()

    def losses() -> Tensor:
        total = torch.zeros(())
        for site, logits in seen:
            spec = formula_from_config(model.config, layer_index=site.layer_index).spec
            scores = compute_scores(logits, score=spec.score, score_dtype=spec.score_dtype, model_dtype=torch.float32)
            ids = tape[site.path][0].expert_ids[~is_padding]
            counts = torch.bincount(ids.flatten(), minlength=logits.shape[1])
            total = total + 0.5 * switch_loss(scores, counts, is_padding=is_padding)
            total = total + 0.25 * z_loss(logits, is_padding=is_padding)
        return total

    gradients = train_once(model, inputs, losses)
    for handle in handles:
        handle.remove()
    return gradients


def test_a_model_within_a_module_that_wraps_it_is_balanced_and_replayed_as_it_is_alone():
    model = zoo.build("mixtral").train()
    wrapper = nn.ModuleDict({"net": model})
    wrapper.config = {"rate": 0.1}  # none of transformers
    inputs = zoo.example_inputs(model)
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    inputs["attention_mask"][0, :3] = 0
    handle = integration.balance(model, switch=0.5)
    alone = train_once(model, inputs)
    handle.remove()
    handle = integration.balance(wrapper, switch=0.5)
    assert [path.partition(".")[0] for path in handle.layers] == ["net", "net"]
    assert all(torch.equal(gradient, alone[path]) for path, gradient in train_once(model, inputs).items())
    handle.remove()
    with integration.tap(wrapper) as tape:
        expected = model(**inputs).logits
    with integration.replay(wrapper, integration.make_trace(tape)):
        assert torch.equal(model(**inputs).logits, expected)


def test_in_accumulation_the_losses_are_the_mean_of_the_steps():
    """As the training loss is, which a loop divides by their number."""
    model = zoo.build("mixtral").train()
    ids = zoo.example_inputs(model)["input_ids"]
    router = "model.layers.0.mlp.gate.weight"

    def accumulate() -> Tensor:
        model.zero_grad()
        for row in ids:
            (model(row[None]).logits.sum() * 0.0 / len(ids)).backward()
        return model.get_parameter(router).grad.clone()

    balanced = integration.balance(model, switch=1.0)
    whole = accumulate()
    balanced.set_scale(1 / len(ids))
    torch.testing.assert_close(accumulate(), whole / len(ids))
    with pytest.raises(InputError, match=r"scale \(=-1.0\) must be finite and at least 0; pass 1 / accumulation_steps"):
        balanced.set_scale(-1.0)


def test_evaluation_is_left_alone():
    model = zoo.build("mixtral")
    inputs = zoo.example_inputs(model)
    plain = train_once(model, inputs)
    integration.balance(model, switch=10.0)
    assert all(torch.equal(gradient, plain[path]) for path, gradient in train_once(model, inputs).items())


def test_what_cannot_be_balanced_is_named():
    with pytest.raises(InputError, match=r"model \(=DogeForCausalLM\) has no layer to balance: its weights can't be"):
        integration.balance(zoo.build("doge"))
    model = zoo.build("mixtral")
    model.config.model_type = "newer_than_this"
    with pytest.raises(InputError, match=r"has no layer to balance: model_type \(='newer_than_this'\) is no MoE"):
        integration.balance(model)


def test_training_with_it_balances_a_collapsed_router():
    model = zoo.build("gpt_oss").train()
    routers = [find_router(model, site)[1] for site in find_sites(model)]
    for router in routers:
        nn.init.constant_(router.bias[: zoo.TOP_K], 4.0)
    integration.balance(model, switch=1.0)
    optimizer = torch.optim.SGD([parameter for router in routers for parameter in router.parameters()], lr=2.0)
    ids = torch.randint(3, zoo.VOCABULARY, (4, 16), generator=torch.Generator().manual_seed(0))
    assert busiest_share(model, ids) > 0.3  # nearly every token takes the same three experts
    for _ in range(30):
        optimizer.zero_grad()
        (model(ids).logits.sum() * 0.0).backward()
        optimizer.step()
    assert busiest_share(model, ids) < 0.25


def busiest_share(model: nn.Module, ids: Tensor) -> float:
    with integration.tap(model) as tape, torch.no_grad():
        model(ids)
    counts = integration.make_trace(tape).counts
    return float((counts.max(dim=1).values / counts.sum(dim=1)).max())
