"""A whole layer by the kernels of a GPU, which keep the rows of dropped slots, against the same layer on the CPU."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton", reason="no Triton: pip install 'headgate[gpu]'")

from compare import assert_close, assert_integers_equal
from headgate.kernels import route

D, F, E, K = 12, 10, 5, 2
CAPACITIES = ("position", "choice_position", "score", "batch_prioritised")


@pytest.fixture
def headgate(uninstrumented: Callable[[str], object]) -> object:
    """The package without the run-time checks, which a compiler can't see through."""
    uninstrumented("headgate.nn.moe")
    return uninstrumented("headgate")


@pytest.fixture
def on_gpu(headgate: object, device: torch.device, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """From its call on, the CPU's tensors go where a GPU's do, to the interpreter."""

    def begin() -> None:
        if device.type == "cpu":
            monkeypatch.setattr(headgate.nn.experts, "runs_in_triton", lambda *_: True)
            monkeypatch.setattr(headgate.experts.triton_ops, "runs_in_triton", lambda *_: True)
            monkeypatch.setattr(route, "_backend", lambda *_: "triton")
            monkeypatch.setattr(route, "_route_now", route.route_on_gpu)

    return begin


def make_layer(headgate: object, rule: str | None) -> torch.nn.Module:
    torch.manual_seed(0)
    capacity = None if rule is None else headgate.Capacity(factor=0.75, drop_rule=rule)
    spec = headgate.RouterSpec(num_experts=E, top_k=K, capacity=capacity)
    return headgate.MoE(D, F, router=spec, balance="switch")


def train(layer: torch.nn.Module, x: Tensor, mask: Tensor | None) -> dict[str, Tensor]:
    leaf = x.clone().requires_grad_()
    y = layer(leaf, padding_mask=mask)
    inputs = (leaf, *layer.parameters())
    names = ("x", *(name for name, _ in layer.named_parameters()))
    gradients = torch.autograd.grad(y.sin().sum(), inputs)
    return {"y": y.detach()} | dict(zip(names, gradients, strict=True))


@pytest.mark.parametrize(
    ("rule", "is_padded"), [*((rule, False) for rule in CAPACITIES), ("position", True), (None, True)]
)
def test_a_layer_that_keeps_dropped_rows_equals_one_that_cuts_them_off(
    rule: str | None, is_padded: bool, headgate: object, on_gpu: Callable[[], None], device: torch.device
) -> None:
    layer = make_layer(headgate, rule)
    x = torch.randn(2, 7, D, generator=torch.Generator().manual_seed(1))
    mask = torch.arange(14).view(2, 7) % 5 == 4 if is_padded else None
    wanted = train(layer, x, mask)
    on_gpu()
    layer, mask = layer.to(device), None if mask is None else mask.to(device)
    plans = []
    layer.router.register_forward_hook(lambda _, __, routing: plans.append(routing.plan))
    found = train(layer, x.to(device), mask)
    assert plans[0].num_rows == 14 * K  # whatever was dropped
    assert int(plans[0].expert_offsets[-1]) == int((plans[0].drop_reason == 0).sum())
    assert found.keys() == wanted.keys()
    for name, gradient in found.items():
        scale = wanted[name].square().mean().sqrt().item()
        assert_close(name, gradient.cpu(), wanted[name], dtype=torch.float32, terms=4 * (14 + D), scale=scale)


def test_a_capacity_compiles_without_a_break(
    headgate: object, on_gpu: Callable[[], None], device: torch.device
) -> None:
    on_gpu()
    layer = make_layer(headgate, "score").to(device).eval()
    x = torch.randn(2, 7, D, generator=torch.Generator().manual_seed(1)).to(device)
    mask = (torch.arange(14).view(2, 7) % 5 == 4).to(device)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        assert torch.equal(compiled(x, padding_mask=mask), layer(x, padding_mask=mask))


def test_an_expert_takes_no_more_than_its_capacity(headgate: object, on_gpu: Callable[[], None]) -> None:
    on_gpu()
    layer = make_layer(headgate, "position").eval()
    seen = []
    layer.router.register_forward_hook(lambda _, __, routing: seen.append(routing))
    layer(torch.ones(1, 8, D))
    assert_integers_equal("counts", seen[0].plan.expert_counts.sort().values, torch.tensor([0, 0, 0, 3, 3]))
