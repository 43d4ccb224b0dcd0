"""`measure_norms`: how much each expert's output adds to a token, in a model of transformers, from outside."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from headgate.integrations.transformers.sites import Site
from headgate.integrations.transformers.tap import positional, require_sites
from headgate.integrations.transformers.wires import find_shared_experts, is_plain
from headgate.nn.norms import Norms, PassNorms, norm_of, sum_error
from headgate.nn.tape import is_compiled, is_recomputing

# Its forward squeezes a mask's axis of slots, so it fails where a token has a single one.
_NOT_ONE_BY_ONE = ("LongcatFlashExperts",)


@contextmanager
def measure_norms(model: nn.Module) -> Iterator[Norms]:
    """Measure the contributions to each token in every MoE layer, for as long as the context lasts.

    A contribution is what the experts return for one choice alone: they run a second time, slot by slot, on the same
    backend. What the model returns is unchanged. Each pass is checked: where the contributions do not add up to what
    the experts returned, or those and the shared experts' output not to what the layer returned, to rounding, the
    norms that would be wrong are NaN. Layers whose experts can't be called with one slot a token are left out.

    Args:
        model: any model of transformers with experts.

    Raises:
        InputError: the model has no MoE layer.
    """
    stance = torch.compiler.set_stance("force_eager") if any(map(is_compiled, model.modules())) else nullcontext()
    model = getattr(model, "_orig_mod", model)
    sites = [site for site in require_sites(model) if is_plain(site) and site.class_name not in _NOT_ONE_BY_ONE]
    norms: Norms = {site.path: [] for site in sites}
    with ExitStack() as stack:
        stack.enter_context(stance)
        for site in sites:
            stack.enter_context(_measured(_Meter(model, site, norms[site.path])))
        yield norms


class _Meter:
    """What is seen of one layer during a pass, until the layer returns."""

    def __init__(self, model: nn.Module, site: Site, record: list[PassNorms]) -> None:
        self.site, self.record = site, record
        path = site.path.rpartition(".")[0]
        # Where a decoder layer calls the experts itself there is no MoE layer around them.
        has_block = bool(path) and not path.rpartition(".")[2].isdecimal()
        self.block = model.get_submodule(path) if has_block else None
        self.shared = find_shared_experts(self.block) if self.block is not None else {}
        self.slots, self.routed, self.seen = torch.empty(0), torch.empty(0), dict[str, Tensor]()

    def see_arguments(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Run the experts on each slot by itself."""
        if not is_recomputing():
            x, ids, weights, *_ = positional(module, args, kwargs)
            self.slots = _run_slots(module, x, ids, weights)

    def see_experts(self, module: nn.Module, args: Any, y: Tensor) -> None:
        """Note what the experts returned; without a block that is all there is."""
        if is_recomputing():
            return
        self.routed = y.detach().reshape(-1, y.shape[-1])
        if self.block is None:
            unknown = torch.full_like(norm_of(self.routed), float("nan"))
            self.record.append(
                PassNorms(contributions=self._contributions(), shared=unknown, output=unknown, sum_error=unknown)
            )

    def see_block(self, module: nn.Module, args: Any, result: Any) -> None:
        """Put the pass together; the shared experts may have run before the others or after."""
        if is_recomputing():
            return
        y: Tensor = result[0] if isinstance(result, tuple) else result
        y = y.detach().reshape(self.routed.shape)
        shared = self._shared_output()
        norms = norm_of(shared)
        is_all = _agrees(y, [self.routed, shared], num_roundings=2 + len(self.shared))
        norms = norms if is_all else torch.full_like(norms, float("nan"))
        error = sum_error(y, self.slots.sum(1, dtype=torch.float64) + shared)
        self.record.append(
            PassNorms(contributions=self._contributions(), shared=norms, output=norm_of(y), sum_error=error)
        )

    def note(self, name: str) -> Any:
        """A hook that keeps what a module returns."""

        def keep(module: nn.Module, args: Any, y: Tensor) -> None:
            self.seen[name] = y.detach()

        return keep

    def _contributions(self) -> Float[Tensor, "T K"]:
        num_slots = self.slots.shape[1]
        norms = norm_of(self.slots)
        is_all = _agrees(self.routed, list(self.slots.unbind(1)), num_roundings=2 * num_slots)
        return norms if is_all else torch.full_like(norms, float("nan"))

    def _shared_output(self) -> Float[Tensor, "T D"]:
        """The shared experts' outputs, each times the sigmoid of its gate where it has one."""
        total = torch.zeros_like(self.routed)
        for name in self.shared:
            y = self.seen[name].reshape(self.routed.shape)
            gate = self.seen.get(f"{name}_gate")
            total += y if gate is None else gate.reshape(-1, 1).sigmoid() * y
        return total


@contextmanager
def _measured(meter: _Meter) -> Iterator[None]:
    experts, block = meter.site.module, meter.block
    handles = [
        experts.register_forward_pre_hook(meter.see_arguments, with_kwargs=True),
        experts.register_forward_hook(meter.see_experts),
    ]
    if block is not None:
        handles.append(block.register_forward_hook(meter.see_block))
        gates = {f"{name}_gate": getattr(block, f"{name}_gate", None) for name in meter.shared}
        for name, module in {**meter.shared, **gates}.items():
            if isinstance(module, nn.Module):
                handles.append(module.register_forward_hook(meter.note(name)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def _run_slots(
    experts: nn.Module, x: Float[Tensor, ...], ids: Int[Tensor, "T K"], weights: Float[Tensor, "T K"]
) -> Float[Tensor, "T K D"]:
    """What the experts return for each slot by itself."""
    num_slots = ids.shape[1]
    rows = x.detach().reshape(len(ids), -1).repeat_interleave(num_slots, dim=0)
    # Not called as a module, for this call is none of the model's: no hook may see it.
    y: Tensor = experts.forward(rows, ids.reshape(-1, 1), weights.detach().reshape(-1, 1))
    return y.reshape(len(ids), num_slots, -1)


def _agrees(total: Float[Tensor, "T D"], parts: list[Float[Tensor, "T D"]], *, num_roundings: int) -> bool:
    """Whether parts add up to a total: each rounding is off by at most eps times what there is to round."""
    scale = sum(norm_of(part) for part in parts)
    error = norm_of(total.double() - sum(part.double() for part in parts))
    return bool((error <= num_roundings * torch.finfo(total.dtype).eps * scale).all())
