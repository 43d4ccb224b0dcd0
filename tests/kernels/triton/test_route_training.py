"""The router's gradients on a GPU against those of the operations, and of float64."""

import pytest
import torch

from compare import assert_close
from headgate import Balance, Capacity, MoE, Router, RouterSpec
from headgate.kernels import route
from headgate.nn import router as nn_router
from headgate.nn.native_route import cast_router, make_formula
from headgate.nn.routing import rank_scores, weigh
from headgate.scores import compute_logits, compute_scores
from route_problems import SPECS, ZERO, draw

pytest.importorskip("triton", reason="Triton is not installed")

CLAMPED = {"norm_order": 2.0, "epsilon": 3.0, "epsilon_rule": "clamp"}
TRAINED = {name: spec for name, spec in SPECS.items() if spec.top_k <= route.MOST_CHOICES_ON_GPU} | {
    "norm 3": RouterSpec(num_experts=9, top_k=3, score="sigmoid", norm_order=3.0, epsilon=0.1),
    "clamped": RouterSpec(num_experts=9, top_k=3, score="sigmoid", **CLAMPED),
    "zero, softmax": RouterSpec(num_experts=24, top_k=5, normalise="softmax", **ZERO),
    # Of negative scores, those that a group masks to 0 are the best.
    "masked, chosen": RouterSpec(num_experts=24, top_k=5, score="linear", normalise="none", **ZERO),
}


@pytest.fixture(autouse=True)
def _on_gpu(device, monkeypatch):
    """Where there is no GPU, the interpreter routes on the CPU."""
    if device.type == "cpu":
        monkeypatch.setattr(route, "_backend", lambda *_: "triton")
        monkeypatch.setattr(route, "_route_now", route.route_on_gpu)


def route_by_operations(spec, ids, x, weight, bias, selection_bias):
    """Logits, scores and weights of given choices by PyTorch's own operations."""
    logits = compute_logits(x, weight, bias, linear_dtype=spec.linear_dtype)
    scores = compute_scores(logits, score=spec.score, score_dtype=spec.score_dtype, model_dtype=x.dtype)
    wide = logits.to(scores.dtype)
    _, weighed = rank_scores(spec, wide, scores, selection_bias)
    return wide, scores, weigh(spec, wide, weighed, ids, torch.ones_like(ids, dtype=torch.bool))


def differentiate(outputs, leaves, seeds):
    total = sum((output * seed.to(output)).sum() for output, seed in zip(outputs, seeds, strict=True))
    return torch.autograd.grad(total, leaves)


def as_leaves(tensors, dtype=None):
    return [t if t is None else t.detach().to(dtype or t.dtype).requires_grad_() for t in tensors]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", TRAINED)
def test_gradients_are_those_of_the_operations(name, dtype, device):
    spec = TRAINED[name]
    x, weight, bias, selection_bias = (t if t is None else t.to(device) for t in draw(spec, 7, 21, dtype))
    own = as_leaves((x, weight, bias))
    cast = cast_router((own[1], own[2], selection_bias), spec, dtype)
    routed = route.route(own[0], *cast, make_formula(spec))
    generator = torch.Generator().manual_seed(3)
    given = (routed.logits, routed.scores, routed.combine_weights)
    seeds = [torch.randn(output.shape, generator=generator).to(device) for output in given]
    theirs = as_leaves((x, weight, bias), torch.float64 if dtype == torch.float32 else None)
    exact = route_by_operations(spec, routed.expert_ids, *theirs, selection_bias)
    present = [place for place, leaf in enumerate(own) if leaf is not None]
    found = differentiate(given, [own[place] for place in present], seeds)
    wanted = differentiate(exact, [theirs[place] for place in present], seeds)
    for place, ours, reference in zip(present, found, wanted, strict=True):
        assert ours.dtype == dtype
        scale = reference.double().square().mean().sqrt().item()
        # A gradient is a sum over experts or tokens of rounded terms, some of which nearly cancel.
        title = ("x", "weight", "bias")[place]
        assert_close(title, ours.cpu(), reference.cpu(), dtype=dtype, terms=4 * (21 + spec.num_choices), scale=scale)


@pytest.mark.parametrize("output", ["logits", "scores", "combine_weights"])
def test_each_output_alone_has_its_gradient(output, device):
    spec = TRAINED["deepseek_v3"]
    x, weight, bias, selection_bias = (t if t is None else t.to(device) for t in draw(spec, 5, 21, torch.float32))
    leaf = x.requires_grad_()
    routed = route.route(leaf, weight, bias, selection_bias, make_formula(spec))
    (found,) = torch.autograd.grad(getattr(routed, output).sin().sum(), leaf)
    logits, scores, weights = route_by_operations(spec, routed.expert_ids, leaf, weight, bias, selection_bias)
    exact = {"logits": logits, "scores": scores, "combine_weights": weights}
    (wanted,) = torch.autograd.grad(exact[output].sin().sum(), leaf)
    assert_close(output, found, wanted, dtype=torch.float32, terms=60, scale=wanted.square().mean().sqrt().item())


@pytest.mark.parametrize("num_tokens", [0, 1])
def test_no_token_and_one(num_tokens, device):
    spec = RouterSpec(num_experts=5, top_k=2)
    x, weight, *_ = (t if t is None else t.to(device) for t in draw(spec, num_tokens, 6, torch.float32))
    leaves = as_leaves((x, weight))
    route.route(*leaves, None, None, make_formula(spec)).combine_weights.sum().backward()
    assert [leaf.grad.shape for leaf in leaves] == [(num_tokens, 6), (5, 6)]


def test_a_bad_token_spoils_only_its_own_gradient(device):
    spec = RouterSpec(num_experts=5, top_k=2)
    x, weight, *_ = (t if t is None else t.to(device) for t in draw(spec, 4, 6, torch.float32))
    x[2] = float("nan")
    leaf = x.requires_grad_()
    (route.route(leaf, weight, None, None, make_formula(spec)).combine_weights ** 2).sum().backward()
    assert leaf.grad[[0, 1, 3]].isfinite().all()
    assert leaf.grad[2].isnan().all()


def test_the_operator_is_well_formed(device):
    spec = RouterSpec(num_experts=5, top_k=2, linear_bias=True)
    inputs = [t if t is None else t.to(device) for t in draw(spec, 3, 6, torch.float32)]
    leaves = as_leaves(inputs[:3])
    torch.library.opcheck(route._route_op, (*leaves, None, *make_formula(spec)))


@pytest.mark.parametrize("balance", [Balance(z=0.1, switch=0.1, sequence=0.1, importance=0.1), None])
def test_a_router_that_trains_takes_the_kernels(balance, device, monkeypatch):
    spec = RouterSpec(num_experts=8, top_k=3, score="sigmoid", scale=2.5, selection_bias=True)
    router = Router(12, spec, balance=balance, device=device)
    x = torch.randn(10, 12, generator=torch.Generator().manual_seed(0)).to(device)
    seed = torch.randn(10, 3, generator=torch.Generator().manual_seed(1)).to(device)

    def train():
        leaf = x.clone().requires_grad_()
        routing = router(leaf)
        routing.choice.combine_weights.backward(seed)
        gradients = {"x": leaf.grad, "weight": router.weight.grad}
        router.weight.grad = None
        return routing, gradients

    ran = []
    real = nn_router.route_natively
    monkeypatch.setattr(nn_router, "route_natively", lambda *a: ran.append(1) or real(*a))
    found, ours = train()
    assert ran == [1]
    monkeypatch.setattr(nn_router, "runs_with_gradients", lambda *_: False)
    wanted, theirs = train()
    assert ran == [1]
    assert torch.equal(found.choice.expert_ids, wanted.choice.expert_ids)
    assert found.losses.keys() == wanted.losses.keys()
    for name, value in found.losses.items():
        assert_close(name, value, wanted.losses[name], dtype=torch.float32, terms=80)
    for name, gradient in ours.items():
        scale = theirs[name].square().mean().sqrt().item()
        assert_close(name, gradient, theirs[name], dtype=torch.float32, terms=80, scale=scale)


@pytest.mark.parametrize(
    "options",
    [{"jitter": 0.1}, {"noise": "learned"}, {"capacity": Capacity(factor=1.0)}, {"second_expert": "sampled"}],
)
def test_what_is_random_or_left_out_goes_another_way(options, device, monkeypatch):
    monkeypatch.setattr(nn_router, "route_natively", lambda *_: pytest.fail("the kernels don't know this"))
    router = Router(12, RouterSpec(num_experts=8, top_k=2, **options), device=device)
    assert router(torch.ones(3, 12, device=device)).choice.expert_ids.shape == (3, 2)


def test_training_compiles_without_a_break(uninstrumented, device):
    moe = uninstrumented("headgate.nn.moe").MoE
    layer = moe(8, 6, num_experts=4, top_k=2, device=device)
    compiled = torch.compile(layer.router, fullgraph=True, backend="aot_eager")
    x = torch.randn(5, 8, generator=torch.Generator().manual_seed(0)).to(device).requires_grad_()

    def train(router):
        return torch.autograd.grad(router(x).choice.combine_weights.square().sum(), (x, layer.router.weight))

    for found, wanted in zip(train(compiled), train(layer.router), strict=True):
        assert torch.equal(found, wanted)


def test_a_checkpointed_layer_repeats_its_choice(device):
    layer = MoE(8, 6, num_experts=4, top_k=2, device=device)
    x = torch.randn(5, 8, generator=torch.Generator().manual_seed(0)).to(device).requires_grad_()
    y = torch.utils.checkpoint.checkpoint(layer, x, use_reentrant=True)
    assert torch.equal(y, layer(x))
    y.sum().backward()
    assert x.grad.isfinite().all()
