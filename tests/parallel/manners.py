"""What ranks run in the tests of how sharded experts go with the rest of torch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor.parallel import parallelize_module
from torch.utils.checkpoint import checkpoint

import headgate
from headgate.errors import BackendError, InputError
from headgate.parallel import ExpertParallel, measure_traffic, relayout
from headgate.parallel.style import chunk_experts
from parallel.layers import Case, D, spread, to_local


def own(case: Case, whole: Tensor) -> Tensor:
    """This rank's part of all tokens."""
    return whole.split(list(case.tokens))[dist.get_rank()]


def gradients_of(layer: nn.Module) -> dict[str, Tensor]:
    return {name: to_local(parameter.grad).clone() for name, parameter in layer.named_parameters()}


def run_once(case: Case) -> dict[str, Tensor]:
    """Output and gradients of one step."""
    layer = spread(case)
    y = layer(own(case, case.make_tokens()))
    (y * own(case, case.make_targets())).sum().backward()
    return {"y": y.detach(), **gradients_of(layer)}


def recompute(case: Case, use_reentrant: bool) -> dict[str, Tensor]:
    """The same with the layer's activations computed again in the backward pass."""
    layer = spread(case)
    x = own(case, case.make_tokens()).clone().requires_grad_()
    y = checkpoint(layer, x, use_reentrant=use_reentrant)
    (y * own(case, case.make_targets())).sum().backward()
    return {"y": y.detach(), **gradients_of(layer)}


def accumulate(case: Case, parts: int) -> dict[str, Tensor]:
    """The same in several passes over parts of each rank's tokens, their gradients added."""
    layer = spread(case)
    x, target = own(case, case.make_tokens()), own(case, case.make_targets())
    ys = []
    for some, wanted in zip(x.tensor_split(parts), target.tensor_split(parts), strict=True):
        ys.append(layer(some))
        (ys[-1] * wanted).sum().backward()
    return {"y": torch.cat(ys).detach(), **gradients_of(layer)}


def cast_automatically(case: Case) -> tuple[Tensor, int]:
    """The output under autocast, and the bytes of a row that travels."""
    layer = spread(case)
    with torch.autocast("cpu", dtype=torch.bfloat16), measure_traffic(layer) as traffic:
        y = layer(own(case, case.make_tokens()))
    return y.detach(), traffic[""][0].row_bytes


def compile_around(case: Case) -> tuple[Tensor, Tensor, int]:
    """A model's output uncompiled and compiled, and how many graphs were compiled."""
    model = nn.Sequential(nn.Linear(D, D), nn.SiLU(), spread(case), nn.Linear(D, D)).to(case.dtype)
    x, graphs = own(case, case.make_tokens()), []

    def count(graph: torch.fx.GraphModule, inputs: Any) -> Callable[..., Any]:
        graphs.append(graph)
        return graph.forward

    expected = model(x)
    torch._dynamo.reset()
    found = torch.compile(model, backend=count)(x)
    found.sum().backward()
    return expected.detach(), found.detach(), len(graphs)


@contextmanager
def logged(events: list[str]) -> Iterator[None]:
    """Note when all-to-alls begin and when they are waited for."""
    original = dist.all_to_all_single

    class Noted:
        def __init__(self, work: Any, name: str) -> None:
            self.work, self.name = work, name

        def wait(self) -> None:
            events.append(f"wait {self.name}")
            self.work.wait()

    def begin(output: Tensor, rows: Tensor, *args: Any, **options: Any) -> Any:
        work = original(output, rows, *args, **options)
        if not options.get("async_op"):
            return work
        name = f"{rows.dtype} x {rows.shape[1]}" if rows.dim() > 1 else f"{rows.dtype}"
        events.append(f"begin {name}")
        return Noted(work, name)

    dist.all_to_all_single = begin
    try:
        yield
    finally:
        dist.all_to_all_single = original


def order_of_events(case: Case) -> tuple[list[str], list[str]]:
    """What happened in the forward pass, and in the backward pass."""
    layer, forward, backward = spread(case), [], []
    assert layer.shared_expert is not None
    layer.shared_expert.register_forward_hook(lambda *_: forward.append("shared expert"))
    layer.shared_expert.down_proj.register_hook(lambda _: backward.append("shared expert"))
    x = own(case, case.make_tokens()).requires_grad_()
    with logged(forward):
        y = layer(x)
    with logged(backward):
        y.sum().backward()
    return forward, backward


def count_bytes(case: Case) -> tuple[Any, Tensor, dict[str, int]]:
    """What the layer says it sent, its choice, and what was given to the collectives for other ranks, by dtype."""
    layer, seen = spread(case), {}
    original, rank = dist.all_to_all_single, dist.get_rank()

    def count(output: Tensor, rows: Tensor, takes: Any = None, gives: Any = None, **options: Any) -> Any:
        lengths = gives or [len(rows) // case.num_ranks] * case.num_ranks
        kind = f"{rows.dtype} x {rows.shape[1:].numel()}"
        seen[kind] = seen.get(kind, 0) + (sum(lengths) - lengths[rank]) * rows.shape[1:].numel() * rows.element_size()
        return original(output, rows, takes, gives, **options)

    with measure_traffic(layer) as traffic, headgate.tap(layer) as tape, torch.no_grad():
        dist.all_to_all_single = count
        try:
            layer(own(case, case.make_tokens()))
        finally:
            dist.all_to_all_single = original
    return traffic[""][0], tape[""][0].choice.expert_ids, seen


def build_on_meta(case: Case) -> dict[str, Tensor]:
    """A layer that never was whole: spread on the meta device, given memory, and drawn."""
    mesh = dist.init_device_mesh("cpu", (dist.get_world_size(),), mesh_dim_names=("ep",))
    with torch.device("meta"):
        layer = case.make_layer()
    parallelize_module(layer, mesh["ep"], ExpertParallel(case.layout))
    held = len(layer.experts.local_experts)
    assert all(to_local(parameter).shape[0] == held for parameter in layer.experts.parameters())
    assert all(parameter.is_meta for parameter in layer.parameters())
    layer.to_empty(device="cpu")
    torch.manual_seed(11)
    layer.experts.reset_parameters()
    layer.router.reset_parameters()
    return {"next": torch.rand(1), **{name: to_local(value.detach()) for name, value in layer.named_parameters()}}


def draw_whole(case: Case) -> dict[str, Tensor]:
    """The same draws on one process."""
    layer = case.make_layer()
    torch.manual_seed(11)
    layer.experts.reset_parameters()
    layer.router.reset_parameters()
    return {"next": torch.rand(1), **{name: value.detach() for name, value in layer.named_parameters()}}


def train_two_ways(case: Case) -> tuple[Tensor, Tensor, str]:
    """Losses of four steps on a 2-D mesh, experts over its one dimension and FSDP over both, beside one process's.

    And what is said when its experts are to move.
    """
    mesh = dist.init_device_mesh("cpu", (2, 2), mesh_dim_names=("dp", "ep"))

    def make() -> nn.Sequential:
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(D, D), case.make_layer(), nn.Linear(D, D)).to(case.dtype)

    whole, model = make(), make()
    parallelize_module(model, mesh["ep"], {"1": ExpertParallel(case.layout)})
    fully_shard(model[1].experts, mesh=mesh["dp"])
    fully_shard(model, mesh=mesh["dp", "ep"]._flatten("all"))
    # With eps, a step is no quotient of two roundings.
    optimizers = [torch.optim.AdamW(each.parameters(), lr=0.1, eps=1.0) for each in (model, whole)]
    x, losses = case.make_tokens(), []
    for _ in range(4):
        mine, everyone = model(own(case, x)).square().mean(), whole(x).square().mean()
        for loss, optimizer in zip((mine, everyone), optimizers, strict=True):
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        mean = mine.detach() / dist.get_world_size()
        dist.all_reduce(mean)
        losses.append(torch.stack([mean, everyone.detach()]))
    try:
        relayout(model, chunk_experts(case.num_experts, num_ranks=2))
    except InputError as error:
        return (*torch.stack(losses, dim=1), str(error))
    raise AssertionError("FSDP's shards moved as if they were a rank's")


def record_and_replay(case: Case) -> tuple[list[list[int]], Tensor, Tensor]:
    """The ids in this rank's trace, its output, and that of a replay of the trace."""
    layer, x = spread(case), own(case, case.make_tokens())
    with headgate.tap(layer) as tape, torch.no_grad():
        y = layer(x)
    trace = headgate.trace_of(layer, tape, token_ids=torch.arange(len(x)))
    with headgate.replay(layer, trace), torch.no_grad():
        again = layer(x)
    return trace.topk_ids[0].tolist(), y, again


def run_alone_and_together(case: Case) -> tuple[Tensor, Tensor, str]:
    """Outputs of this rank's tokens one at a time, and all at once; and what is said where there are replicas."""
    layer, x = spread(case).eval(), own(case, case.make_tokens())
    replicated = replace(case, slots=((0, 1, 2, 3), (3, 4, 5, 0)))
    message = ""
    with torch.no_grad():
        try:
            spread(replicated).eval()(x)
        except BackendError as error:
            message = str(error)
        return torch.cat([layer(token) for token in x.split(1)]), layer(x), message
