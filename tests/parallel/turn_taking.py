"""What ranks run in the tests of batches that take turns."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor.parallel import parallelize_module
from torch.utils.checkpoint import checkpoint

from headgate.parallel import ExpertParallel, measure_traffic, run_in_turns
from parallel.layers import Case, spread
from parallel.manners import gradients_of, logged, own
from parallel.two_levels import make_mesh

Calls = list[Callable[[], Any]]


def run_one_after_the_other(calls: Calls) -> list[Any]:
    return [call() for call in calls]


def halves(case: Case) -> list[Tensor]:
    """This rank's tokens as two batches."""
    return list(own(case, case.make_tokens()).tensor_split(2))


def order_of_events(case: Case) -> list[str]:
    """What two batches did in their forward passes: choose experts, begin to send, and wait."""
    layer, events = spread(case), []
    layer.router.register_forward_hook(lambda *_: events.append("gate"))
    with logged(events), torch.no_grad():
        run_in_turns([partial(layer, x) for x in halves(case)])
    return events


def outputs(case: Case, num_nodes: int | None) -> tuple[list[Tensor], list[Tensor]]:
    """Of two batches, one after the other and in turns."""
    layer = spread(case) if num_nodes is None else spread_over_nodes(case, num_nodes)
    calls = [partial(layer, x) for x in halves(case)]
    with torch.no_grad():
        return run_one_after_the_other(calls), run_in_turns(calls)


def spread_over_nodes(case: Case, num_nodes: int) -> nn.Module:
    return parallelize_module(case.make_layer(), make_mesh(num_nodes), ExpertParallel(case.layout))


def train(case: Case) -> list[dict[str, Tensor]]:
    """Gradients of two batches that went through two layers and back: one after the other, and twice in turns."""
    found = []
    for run in (run_one_after_the_other, run_in_turns, run_in_turns):
        model = nn.Sequential(spread(case), spread(case))
        run([partial(backpropagate, model, x) for x in halves(case)])
        found.append(gradients_of(model))
    return found


def backpropagate(model: nn.Sequential, x: Tensor) -> None:
    """A batch's whole step but for the optimizer's; the second layer's activations are computed again."""
    checkpoint(model[1], model[0](x), use_reentrant=False).square().sum().backward()


def see_conditions(case: Case) -> tuple[list[bool], list[int]]:
    """Whether outputs need gradients outside `no_grad` and within, and the bytes of a row under autocast."""
    layer, x = spread(case), own(case, case.make_tokens())
    needs = [y.requires_grad for y in run_in_turns([partial(layer, x)])]
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16), measure_traffic(layer) as traffic:
        needs += [y.requires_grad for y in run_in_turns([partial(layer, x), partial(layer, x)])]
    return needs, [each.row_bytes for each in traffic[""]]


def fail_in_the_second(case: Case) -> tuple[str, int]:
    """What is raised where one call fails while the other has tokens on their way; and what a collective gives then."""
    layer, x = spread(case), own(case, case.make_tokens())

    def fail() -> None:
        raise ValueError("no such batch")

    try:
        run_in_turns([partial(layer, x), fail])
    except ValueError as error:
        message = str(error)
    total = torch.tensor(1)
    dist.all_reduce(total)
    return message, int(total)
