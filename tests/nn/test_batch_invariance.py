"""`MoE(..., batch_invariant=True)`: the same bits alone and in any batch, or a refusal."""

import pytest
import torch

import headgate
from headgate.errors import BackendError, InputError, SpecError
from headgate.kernels import native
from headgate.spec import RouterSpec, SharedSpec

needs_library = pytest.mark.skipif(native.library() is None, reason=f"no native library: {native.why_missing()}")


def make_layer(shared: SharedSpec | None, dtype: torch.dtype, router: str | None = None) -> headgate.MoE:
    torch.manual_seed(0)
    layer = headgate.MoE(40, 24, num_experts=16, top_k=3, router=router, shared=shared, batch_invariant=True)
    return layer.to(dtype).eval()


@needs_library
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("shared", [None, SharedSpec(d_ff=56), SharedSpec(d_ff=56, gated_output=True, bias=True)])
@pytest.mark.parametrize("router", [None, "deepseek_v3", "qwen3_moe"])
def test_same_bits_alone_and_together(router: str | None, shared: SharedSpec | None, dtype: torch.dtype) -> None:
    layer = make_layer(shared, dtype, router)
    x = torch.randn(300, 40, generator=torch.Generator().manual_seed(1)).to(dtype)
    with torch.no_grad():
        together = layer(x)
        for begin, size in ((0, 1), (7, 1), (7, 2), (20, 5), (100, 33), (299, 1), (0, 0)):
            assert torch.equal(layer(x[begin : begin + size]), together[begin : begin + size])


@needs_library
@pytest.mark.parametrize("gated", [False, True])
def test_shared_expert_equals_operation_by_operation(gated: bool) -> None:
    layer = make_layer(SharedSpec(d_ff=56, gated_output=gated), torch.float32).shared_expert
    assert layer is not None
    x = torch.randn(9, 40, generator=torch.Generator().manual_seed(1))
    wanted = layer.double()(x.double())
    layer.float()
    with torch.no_grad():
        torch.testing.assert_close(layer(x).double(), wanted, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(layer(x).double(), wanted, rtol=1e-5, atol=1e-6)


@needs_library
def test_refuses_where_it_can_not_be_kept() -> None:
    layer = make_layer(None, torch.float32)
    x = torch.randn(3, 40)
    with pytest.raises(BackendError, match=r"batch_invariant \(=True\) can't be kept for torch.float32 on cpu"):
        layer(x)
    with torch.no_grad(), pytest.raises(BackendError, match="training=True"):
        layer.train()(x)
    with torch.no_grad(), pytest.raises(BackendError, match=r"torch\.float64"):
        layer.eval().double()(x.double())
    with torch.no_grad(), pytest.raises(InputError, match="padding_mask"):
        layer.float()(x, padding_mask=torch.zeros(3, dtype=torch.bool))


@pytest.mark.parametrize(
    "spec",
    [
        headgate.preset("expert_choice", num_experts=4),
        RouterSpec(num_experts=4, top_k=2, capacity=headgate.Capacity(factor=1.0)),
    ],
)
def test_refuses_routers_that_compare_tokens(spec: RouterSpec) -> None:
    with pytest.raises(SpecError, match=r"batch_invariant \(=True\) needs a router that ranks"):
        headgate.MoE(16, 8, router=spec, batch_invariant=True)
