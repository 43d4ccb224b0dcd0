"""What must hold on a device before its times mean anything: errors against float64, bits, graphs, and no waiting."""

from __future__ import annotations

import contextlib
import functools
import itertools
import math
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
import torch.utils.deterministic
from torch import Tensor

import headgate
from headgate.dispatch import find_drops, plan_token_choice
from headgate.experts import ExpertWeights, run_experts
from headgate.kernels.function import ExpertFunction
from support.device_clock import is_gpu
from support.exact import relative_error

FUNCTIONS = {
    "silu": ExpertFunction(),
    "interleaved, clamped": ExpertFunction(interleaved=True, clamp=7.0, sigmoid_slope=1.702, up_offset=1.0),
    "gelu": ExpertFunction(activation="gelu"),
    "relu, no gate": ExpertFunction(activation="relu", gated=False),
}
ROUTERS = ("mixtral", "qwen3_moe", "deepseek_v3", "gpt_oss", "deepseek_v4")


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One thing that was looked at: whether it holds (None: not looked at), and the figures."""

    name: str
    holds: bool | None
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """T, D, F, E, K."""

    tokens: int
    d_model: int
    d_ff: int
    num_experts: int
    top_k: int


def list_checks(device: torch.device, sizes: list[Sizes], dtypes: list[torch.dtype]) -> list[Callable[[], Check]]:
    """Every check, the most important first. The last size and dtype are a layer's.

    Each size and dtype meets one function, each function with and without biases, and two routers: all combinations
    would be hundreds of kernels to compile.
    """
    layer = (device, sizes[-1], dtypes[-1])
    looks = (check_bits, check_waiting, check_compile, check_graph)
    checks: list[Callable[[], Check]] = [functools.partial(look, *layer) for look in looks]
    full = headgate.Capacity(factor=0.75)
    checks += [functools.partial(look, *layer, capacity=full) for look in (check_waiting, check_graph)]
    kinds, routers = itertools.cycle(itertools.product((True, False), FUNCTIONS)), itertools.cycle(ROUTERS)
    for size, dtype in itertools.product(sizes[::-1], dtypes[::-1]):
        # A step of three through eight kinds meets all of them.
        biased, name = next(itertools.islice(kinds, 2, None))
        checks.append(functools.partial(check_experts, device, size, dtype, name, biased=biased))
        checks.append(functools.partial(check_routers, device, size, dtype, tuple(itertools.islice(routers, 2))))
    return checks


@contextlib.contextmanager
def untuned() -> Iterator[None]:
    """Take each kernel's first configuration: to tune for a size that is only checked takes longer than the check."""
    fills = torch.utils.deterministic.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of float64 products that are compared with a tolerance
            yield
    finally:
        torch.use_deterministic_algorithms(False)
        torch.utils.deterministic.fill_uninitialized_memory = fills


@untuned()
def check_experts(device: torch.device, size: Sizes, dtype: torch.dtype, name: str, *, biased: bool) -> Check:
    """Output and every gradient of the experts' function against float64."""
    function = FUNCTIONS[name]
    leaves, ids = _draw_experts(device, size, dtype, function, biased=biased)
    grad = torch.randn(leaves["x"].shape, device=device).to(dtype)
    plan = plan_token_choice(ids, find_drops(ids, None), num_experts=size.num_experts, is_dropless=True)
    matrices = {key: leaves.get(key) for key in ("up", "down", "up_bias", "down_bias")}
    y = run_experts(leaves["x"], plan, leaves["combine_weights"], ExpertWeights(**matrices), function)
    y.backward(grad)
    wide = {key: leaf.detach().double().requires_grad_() for key, leaf in leaves.items()}
    exact = exact_experts(wide, ids, function)
    exact.backward(grad.double())
    errors = {"y": relative_error(y, exact)} | {
        key: relative_error(leaf.grad, wide[key].grad) for key, leaf in leaves.items()
    }
    if size.tokens == 0:  # 0 / 0; what remains to be seen is that gradients of nothing are zero
        errors = {key: float(leaf.grad.abs().sum()) for key, leaf in leaves.items()}
    # A few roundings to the dtype of hidden values and outputs, and sums of D, F or T products in float32.
    terms = size.d_model + size.d_ff + size.tokens
    bound = 4 * torch.finfo(dtype).eps + torch.finfo(torch.float32).eps * math.sqrt(terms)
    worst = max(errors, key=lambda key: errors[key])
    title = f"experts {name}{', bias' if biased else ''}, {_short(dtype)}, {size}"
    return Check(name=title, holds=errors[worst] <= bound, detail=f"{worst} {errors[worst]:.1e} of {bound:.1e}")


def exact_experts(leaves: dict[str, Tensor], ids: Tensor, function: ExpertFunction) -> Tensor:
    """The experts' function expert by expert, in the dtype of the leaves, by autograd's own operations."""
    x, weights = leaves["x"], leaves["combine_weights"]
    y = torch.zeros_like(x)
    for expert in range(leaves["up"].shape[0]):
        tokens, slots = (ids == expert).nonzero(as_tuple=True)
        up_bias, down_bias = (leaves[key][expert] if key in leaves else None for key in ("up_bias", "down_bias"))
        z = F.linear(x[tokens], leaves["up"][expert], up_bias)
        out = F.linear(_activate(z, function), leaves["down"][expert], down_bias)
        y = y.index_add(0, tokens, weights[tokens, slots, None] * out)
    return y


def _activate(z: Tensor, function: ExpertFunction) -> Tensor:
    act = {"silu": lambda v: v * torch.sigmoid(function.sigmoid_slope * v), "gelu": F.gelu, "relu": F.relu}
    if not function.gated:
        return act[function.activation](z)
    gate, up = (z[:, ::2], z[:, 1::2]) if function.interleaved else z.chunk(2, dim=1)
    if function.clamp is not None:
        gate, up = gate.clamp(max=function.clamp), up.clamp(-function.clamp, function.clamp)
    return act[function.activation](gate) * (up + function.up_offset)


def check_routers(device: torch.device, size: Sizes, dtype: torch.dtype, names: tuple[str, ...] = ROUTERS) -> Check:
    """The inference router's logits against float64, and that its choice is the best of its own scores."""
    worst, wrong = 0.0, []
    for name in names:
        # Groups need their number to divide E.
        num_experts, top_k = max(16, size.num_experts // 8 * 8), min(size.top_k, 8)
        router = headgate.Router(size.d_model, headgate.preset(name, num_experts=num_experts, top_k=top_k))
        router = router.to(device=device, dtype=dtype).eval()
        x = torch.randn(size.tokens, size.d_model, device=device).to(dtype)
        with torch.no_grad():
            routing = router(x)
        exact = F.linear(x.double(), router.weight.double(), None if router.bias is None else router.bias.double())
        worst = max(worst, relative_error(routing.logits, exact) if size.tokens else 0.0)
        ids = routing.choice.expert_ids
        is_distinct = (ids.sort(dim=1).values.diff(dim=1) > 0).all() & (ids >= 0).all() & (ids < num_experts).all()
        counts = torch.bincount(ids.flatten(), minlength=num_experts)
        has_plan = torch.equal(counts, routing.expert_counts) and bool(
            (routing.plan.token_offsets.diff() == top_k).all()
        )
        wrong += [] if bool(is_distinct) and has_plan else [name]
    # Logits are rounded to the dtype where the family does so, and sums of D products to float32 before.
    bound = 2 * torch.finfo(dtype).eps + torch.finfo(torch.float32).eps * math.sqrt(size.d_model)
    detail = f"logits {worst:.1e} of {bound:.1e}" + (f"; wrong choice or plan: {', '.join(wrong)}" if wrong else "")
    return Check(
        name=f"routers {' and '.join(names)}, {_short(dtype)}, {size}",
        holds=worst <= bound and not wrong,
        detail=detail,
    )


def check_bits(device: torch.device, size: Sizes, dtype: torch.dtype) -> Check:
    """Two runs, forward and backward, give the same bits."""
    layer, x = _make_layer(device, size, dtype)
    runs = [_train(layer.train(), x) for _ in range(2)]
    different = [name for name in runs[0] if not torch.equal(runs[0][name], runs[1][name])]
    return Check(name="two runs, same bits", holds=not different, detail=", ".join(different) or "forward and backward")


def check_waiting(
    device: torch.device, size: Sizes, dtype: torch.dtype, *, capacity: headgate.Capacity | None = None
) -> Check:
    """Neither inference nor training waits for the device."""
    name = _title("no host synchronisation", capacity)
    if not is_gpu(device):
        return Check(name=name, holds=None, detail="needs a GPU")
    layer, x = _make_layer(device, size, dtype, capacity)
    _infer(layer, x)
    _train(layer.train(), x)
    torch.cuda.set_sync_debug_mode("error")
    try:
        _infer(layer, x)
        _train(layer.train(), x)
    except RuntimeError as error:
        return Check(name=name, holds=False, detail=str(error)[:100])
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return Check(name=name, holds=True, detail="inference and training")


def check_compile(device: torch.device, size: Sizes, dtype: torch.dtype) -> Check:
    """`torch.compile(fullgraph=True)` of a layer's inference gives what the layer gives."""
    layer, x = _make_layer(device, size, dtype)
    compiled = torch.compile(layer, fullgraph=True, backend="inductor" if device.type == "cuda" else "aot_eager")
    return _compare("torch.compile(fullgraph=True)", lambda: _infer(layer, x), lambda: _infer(compiled, x))


def check_graph(
    device: torch.device, size: Sizes, dtype: torch.dtype, *, capacity: headgate.Capacity | None = None
) -> Check:
    """A captured decode step, replayed on other tokens, gives the bits of the layer on them."""
    name = _title("CUDA graph of a decode step", capacity)
    if not is_gpu(device):
        return Check(name=name, holds=None, detail="needs a GPU")
    layer, x = _make_layer(device, size, dtype, capacity)
    replay, static = capture(layer, x[:1])

    def on_new_tokens() -> Tensor:
        static.copy_(x[1:2])
        return replay().clone()

    return _compare(name, lambda: _infer(layer, x[1:2]), on_new_tokens)


@torch.no_grad()
def capture(layer: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Callable[[], Tensor], Tensor]:
    """A layer's inference on as many tokens as in `x` as a CUDA graph: what replays it, and where it reads tokens."""
    static = x.clone()
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):  # compiles and tunes what capture must not
            layer(static)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = layer(static)

    def replay() -> Tensor:
        graph.replay()
        return y

    return replay, static


def _compare(name: str, expected: Callable[[], Tensor], found: Callable[[], Tensor]) -> Check:
    try:
        ours = found()
    # Whatever a compiler or a capture says is the finding.
    except Exception as error:  # noqa: BLE001
        return Check(name=name, holds=False, detail=f"{type(error).__name__}: {str(error)[:100]}")
    same = torch.equal(ours, expected())
    return Check(name=name, holds=same, detail="same bits" if same else "other bits")


def _title(name: str, capacity: headgate.Capacity | None) -> str:
    return name if capacity is None else f"{name}, with a capacity"


def _make_layer(
    device: torch.device, size: Sizes, dtype: torch.dtype, capacity: headgate.Capacity | None = None
) -> tuple[headgate.MoE, Tensor]:
    torch.manual_seed(0)
    spec = headgate.RouterSpec(num_experts=size.num_experts, top_k=size.top_k, capacity=capacity)
    layer = headgate.MoE(size.d_model, size.d_ff, router=spec, device=device, dtype=dtype).eval()
    return layer, torch.randn(max(size.tokens, 2), size.d_model, device=device).to(dtype)


@torch.no_grad()
def _infer(layer: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    return layer(x)


def _train(layer: headgate.MoE, x: Tensor) -> dict[str, Tensor]:
    layer.zero_grad(set_to_none=True)
    leaf = x.clone().requires_grad_()
    y = layer(leaf)
    y.backward(torch.ones_like(y))
    layer_gradients = {name: value.grad.clone() for name, value in layer.named_parameters()}
    layer.eval()
    return {"y": y.detach(), "x": leaf.grad, **layer_gradients}


def _draw_experts(
    device: torch.device, size: Sizes, dtype: torch.dtype, function: ExpertFunction, *, biased: bool
) -> tuple[dict[str, Tensor], Tensor]:
    generator = torch.Generator().manual_seed(0)
    width = size.d_ff * (2 if function.gated else 1)
    experts = size.num_experts

    def draw(*shape: int, over: int = 1) -> Tensor:
        drawn = torch.randn(shape, generator=generator) / math.sqrt(over)
        return drawn.to(device=device, dtype=dtype).requires_grad_()

    leaves = {
        "x": draw(size.tokens, size.d_model),
        "combine_weights": draw(size.tokens, size.top_k),
        "up": draw(experts, width, size.d_model, over=size.d_model),
        "down": draw(experts, size.d_model, size.d_ff, over=size.d_ff),
    }
    if biased:
        leaves |= {"up_bias": draw(experts, width), "down_bias": draw(experts, size.d_model)}
    # Half of the experts are idle: their gradients must be zero.
    scores = torch.rand(size.tokens, max(size.top_k, experts // 2), generator=generator)
    return leaves, scores.argsort(dim=1)[:, : size.top_k].to(device)


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
