"""A layer's inference in one native call: the same bits as by its modules, and only where nobody looks."""

import pytest
import torch
from torch import nn

import headgate
from headgate.kernels import native
from headgate.kernels.experts_call import DTYPES
from headgate.nn.one_call import run_at_once

pytestmark = pytest.mark.skipif(native.library() is None, reason=f"no native library: {native.why_missing()}")

FAMILIES = ("mixtral", "olmoe", "deepseek_v2_lite", "deepseek_v3", "gpt_oss", "longcat_flash")


def build(family: str = "mixtral", dtype: torch.dtype = torch.float32, **fields: object) -> headgate.MoE:
    torch.manual_seed(0)
    layer = headgate.MoE.from_family(family, d_model=24, d_ff=16, num_experts=16, top_k=3, **fields).to(dtype).eval()
    layer.shared_expert = None
    if layer.router.selection_bias is not None:
        layer.router.selection_bias.uniform_(-0.1, 0.1)
    return layer.requires_grad_(False)


def by_modules(layer: headgate.MoE, x: torch.Tensor) -> torch.Tensor:
    """A hook is enough for the modules to be called."""
    handle = layer.router.register_forward_hook(lambda *_: None)
    try:
        return layer(x)
    finally:
        handle.remove()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("family", FAMILIES)
def test_same_bits_as_the_modules(family, dtype):
    layer = build(family, dtype)
    for shape in [(24,), (1, 24), (0, 24), (5, 24), (2, 9, 24), (2, 0, 24), (2, 3, 4, 24)]:
        x = torch.randn(shape).to(dtype)
        y = run_at_once(x, layer.router, layer.experts)
        assert y is not None
        assert y.shape == x.shape
        assert y.dtype == dtype
        assert torch.equal(y, by_modules(layer, x))
        assert torch.equal(y, layer(x))


@pytest.mark.parametrize("router_dtype", [torch.float32, torch.bfloat16])
def test_a_router_of_another_dtype(router_dtype):
    layer = build("deepseek_v3", torch.bfloat16)
    layer.router.to(router_dtype)
    x = torch.randn(7, 24).bfloat16()
    assert torch.equal(layer(x), by_modules(layer, x))


def test_strided_tokens_and_weights():
    layer = build()
    wide = torch.randn(2, 9, 60)
    for x in (wide[..., 30:54], wide.transpose(1, 2)[:, :24].transpose(1, 2), wide[0, :, ::2][:, :24]):
        assert run_at_once(x, layer.router, layer.experts) is not None
        assert torch.equal(layer(x), by_modules(layer, x.contiguous()))
    layer.router.weight = nn.Parameter(layer.router.weight.t().contiguous().t(), requires_grad=False)
    x = torch.randn(4, 24)
    assert torch.equal(layer(x), by_modules(layer, x))


def test_nan_tokens_harm_no_other():
    layer = build()
    x = torch.randn(6, 24)
    spoilt = x.clone()
    spoilt[2] = float("nan")
    y, harmed = layer(x), layer(spoilt)
    kept = [0, 1, 3, 4, 5]
    assert torch.equal(y[kept], harmed[kept])
    assert harmed[2].isnan().all()


def hook_router(layer):
    layer.router.register_forward_hook(lambda *_: None)


def hook_experts(layer):
    layer.experts.register_forward_pre_hook(lambda *_: None)


def train(layer):
    layer.train()


def want_gradients(layer):
    layer.experts.requires_grad_(True)


def want_router_gradients(layer):
    layer.router.requires_grad_(True)


def widen_experts(layer):
    layer.experts.float()


def subclass_experts(layer):
    layer.experts.__class__ = type("Other", (headgate.Experts,), {})


@pytest.mark.parametrize(
    "change",
    [hook_router, hook_experts, train, want_gradients, want_router_gradients, widen_experts, subclass_experts],
)
def test_the_modules_are_called_where_someone_looks(change):
    layer = build(dtype=torch.bfloat16)
    x = torch.randn(3, 24).bfloat16()
    assert run_at_once(x, layer.router, layer.experts) is not None
    change(layer)
    assert run_at_once(x, layer.router, layer.experts) is None


def test_the_modules_are_called_under_global_hooks_autocast_and_a_tape():
    layer = build()
    x = torch.randn(3, 24)
    handle = nn.modules.module.register_module_forward_hook(lambda *_: None)
    assert run_at_once(x, layer.router, layer.experts) is None
    handle.remove()
    with torch.autocast("cpu", torch.bfloat16):
        assert run_at_once(x, layer.router, layer.experts) is None
    with headgate.tap(layer) as tape:
        layer(x)
    assert len(tape[""]) == 1
    assert run_at_once(x, layer.router, layer.experts) is not None


@pytest.mark.parametrize("family", ["llama4", "switch", "expert_choice", "hash"])
def test_what_the_kernel_does_not_cover(family):
    fields = {"vocab_size": 50} if family == "hash" else {}
    layer = headgate.MoE.from_family(family, d_model=24, d_ff=16, num_experts=8, **fields).eval().requires_grad_(False)
    assert run_at_once(torch.randn(3, 24), layer.router, layer.experts) is None


def test_padding_goes_by_the_modules():
    layer = build()
    x, mask = torch.randn(4, 24), torch.tensor([False, True, False, False])
    y = layer(x, padding_mask=mask)
    assert y[1].abs().max() == 0
    assert y[0].abs().max() > 0
