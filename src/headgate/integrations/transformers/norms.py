"""`measure_norms`: how much each expert's output adds to a token, in a model of transformers, from outside."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from types import MappingProxyType
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import pad

from headgate.integrations.transformers.sites import Site
from headgate.integrations.transformers.slots import PARTS, Parts, sum_of
from headgate.integrations.transformers.tap import positional, require_sites
from headgate.integrations.transformers.wires import find_router, find_shared_experts, is_plain, wire_of
from headgate.nn.norms import Norms, PassNorms, norm_of, sum_error
from headgate.nn.tape import is_compiled, is_recomputing

# Its forward squeezes a mask's axis of slots, so it fails where a token has a single one.
_NOT_ONE_BY_ONE = ("LongcatFlashExperts",)

# One choice a token: what the experts return is what that choice adds.
_ONE_CHOICE = ("SwitchTransformersExperts", "VitPoseNaiveMoe")

# A block that puts the experts' output beside the rest, instead of adding it.
_CONCATENATED = ("VitPoseNaiveMoe",)

UNMEASURED: Mapping[str, str] = MappingProxyType(
    {
        "JetMoeMoA": "attention runs between the two products of its experts, so that no choice adds by itself",
        "NllbMoeExperts": "its code runs experts 0 and 1, whatever is chosen, so that no choice is what it runs",
    }
)
"""Why the norms of a class are left out."""


@contextmanager
def measure_norms(model: nn.Module) -> Iterator[Norms]:
    """Measure the contributions to each token in every MoE layer, for as long as the context lasts.

    A contribution is what the experts return for one choice alone: they run a second time, slot by slot, on the same
    backend. What the model returns is unchanged. Each pass is checked: where the contributions do not add up to what
    the experts returned, or those and the shared experts' output not to what the layer returned, to rounding, the
    norms that would be wrong are NaN. Layers of the classes in `UNMEASURED` are left out. Blocks that are no such
    sum (`slots.PARTS`) are taken apart, and their stacked experts run on our kernels for it.

    Args:
        model: any model of transformers with experts.

    Raises:
        InputError: the model has no MoE layer.
    """
    stance = torch.compiler.set_stance("force_eager") if any(map(is_compiled, model.modules())) else nullcontext()
    model = getattr(model, "_orig_mod", model)
    sites = [site for site in require_sites(model) if site.class_name not in UNMEASURED]
    norms: Norms = {site.path: [] for site in sites}
    with ExitStack() as stack:
        stack.enter_context(stance)
        for site in sites:
            measured = _measured_as_block if site.class_name in PARTS else _measured
            stack.enter_context(measured(model, site, norms[site.path]))
        yield norms


def describe_unmeasured(model: nn.Module) -> list[str]:
    """A line for each class of a model whose norms are left out."""
    names = dict.fromkeys(site.class_name for site in require_sites(model))
    return [f"norms of {name} are left out: {UNMEASURED[name]}" for name in names if name in UNMEASURED]


class _Meter:
    """What is seen of one layer during a pass, until the layer returns."""

    def __init__(self, model: nn.Module, site: Site, record: list[PassNorms]) -> None:
        self.site, self.record = site, record
        path = site.path.rpartition(".")[0]
        # Where a decoder layer calls the experts itself there is no MoE layer around them.
        is_added = site.class_name not in _CONCATENATED
        has_block = is_added and bool(path) and not path.rpartition(".")[2].isdecimal()
        self.block = model.get_submodule(path) if has_block else None
        self.shared = find_shared_experts(self.block) if self.block is not None else {}
        self.slots, self.routed, self.seen = torch.empty(0), torch.empty(0), dict[str, Tensor]()

    def see_arguments(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Run the experts on each slot by itself."""
        if not is_recomputing() and is_plain(self.site):
            x, ids, weights, *_ = positional(module, args, kwargs)
            width = 2 if self.site.class_name in _NOT_ONE_BY_ONE else 1
            self.slots = _run_slots(module, x, ids, weights, width=width)

    def see_experts(self, module: nn.Module, args: Any, y: Tensor) -> None:
        """Note what the experts returned; without a block that is all there is."""
        if is_recomputing():
            return
        self.routed = y.detach().reshape(-1, y.shape[-1])
        if not is_plain(self.site):
            assert self.site.class_name in _ONE_CHOICE  # `measure_norms` takes no others.
            self.slots = self.routed[:, None]
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
def _measured_as_block(model: nn.Module, site: Site, record: list[PassNorms]) -> Iterator[None]:
    wire, router, results = wire_of(site), find_router(model, site), list[Any]()
    assert router is not None  # Every class in `PARTS` has one.

    def see_router(module: nn.Module, args: Any, result: Any) -> None:
        results[:] = [result]

    def see_block(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> None:
        if is_recomputing():
            return
        x: Tensor = positional(module, args, kwargs)[0].detach()
        y = (result[0] if isinstance(result, tuple) else result).detach().reshape(-1, x.shape[-1])
        with torch.no_grad():
            parts = PARTS[site.class_name](module, x.reshape(y.shape), wire.read(module, results[0]))
        record.append(_norms_of_parts(y, parts))

    handles = [
        router[1].register_forward_hook(see_router),
        site.module.register_forward_hook(see_block, with_kwargs=True),
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _norms_of_parts(y: Float[Tensor, "T D"], parts: Parts) -> PassNorms:
    added = sum_of(parts)
    known = _agrees(y, added, num_roundings=2 * len(added))
    contributions, shared = norm_of(parts.slots), norm_of(torch.zeros_like(y) if parts.shared is None else parts.shared)
    return PassNorms(
        contributions=contributions if known else torch.full_like(contributions, float("nan")),
        shared=shared if known else torch.full_like(shared, float("nan")),
        output=norm_of(y),
        sum_error=sum_error(y, torch.stack(added).sum(0, dtype=torch.float64)),
    )


@contextmanager
def _measured(model: nn.Module, site: Site, record: list[PassNorms]) -> Iterator[None]:
    meter = _Meter(model, site, record)
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
    experts: nn.Module, x: Float[Tensor, ...], ids: Int[Tensor, "T K"], weights: Float[Tensor, "T K"], *, width: int
) -> Float[Tensor, "T K D"]:
    """What the experts return for each slot by itself, or with others of the weight 0 where they need that width."""
    num_slots = ids.shape[1]
    rows = x.detach().reshape(len(ids), -1).repeat_interleave(num_slots, dim=0)
    # Not called as a module, for this call is none of the model's: no hook may see it.
    alone, weight = ids.reshape(-1, 1).expand(-1, width), weights.detach().reshape(-1, 1)
    y: Tensor = experts.forward(rows, alone, pad(weight, (0, width - 1)))
    return y.reshape(len(ids), num_slots, -1)


def _agrees(total: Float[Tensor, "T D"], parts: list[Float[Tensor, "T D"]], *, num_roundings: int) -> bool:
    """Whether parts add up to a total: each rounding is off by at most eps times what there is to round."""
    scale = sum(norm_of(part) for part in parts)
    error = norm_of(total.double() - sum(part.double() for part in parts))
    return bool((error <= num_roundings * torch.finfo(total.dtype).eps * scale).all())
