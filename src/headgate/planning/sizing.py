"""What it takes to run a model: parameters, memory, work of a token, and the ceiling on speed, in one report."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from headgate.errors import InputError
from headgate.planning.catalogue import Published
from headgate.planning.hardware import Device
from headgate.planning.memory import (
    Parallel,
    Precision,
    RankMemory,
    activation_bytes,
    cache_bytes,
    capacity_buffer_bytes,
    rank_memory,
    weight_bytes,
)
from headgate.planning.parameters import ModelShape
from headgate.planning.roofline import (
    Floor,
    StepWork,
    decode_work,
    exchanged_bytes,
    floor_time,
    prefill_work,
    refuse_broken_floor,
)
from headgate.planning.routes import Routes, uniform_routes

BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
"""Batches of the picture of speed and memory."""

RULE = (
    "Memory follows the total, compute the active count: every expert must be held, and a token runs only some. "
    "Sizing by the wrong one is the commonest mistake with these models."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """What is asked of a model.

    Attributes:
        batch: sequences at once, of all ranks together.
        context: tokens of each: the prompt when reading, what is kept when generating.
        drafts: tokens guessed ahead in each step, which the model then checks together with one of its own.
        parallel: the ranks.
        capacity: rows of an expert in even shares, where buffers have a fixed size; None for none.
        device: None to leave speed out.
        measured_s: a step of decoding that was measured on the device; None for none.
    """

    batch: int = 1
    context: int = 4096
    drafts: int = 0
    parallel: Parallel = field(default_factory=Parallel)
    capacity: float | None = None
    device: Device | None = None
    measured_s: float | None = None

    def __post_init__(self) -> None:
        """Refuse numbers that mean nothing."""
        for name, value, least in (("batch", self.batch, 1), ("context", self.context, 1), ("spec", self.drafts, 0)):
            if value < least:
                raise InputError(f"{name} (={value}) must be at least {least}; pass a larger number")
        if self.capacity is not None and not (self.capacity > 0 and math.isfinite(self.capacity)):
            raise InputError(
                f"capacity (={self.capacity:g}) must be above 0 and finite; 1 gives each expert an even share"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Speed:
    """The ceiling at one batch.

    Attributes:
        batch: sequences.
        decode, prefill: the floors of a step and of reading the prompts.
        tokens_per_s: generated, of all sequences together, if every step yields one token of each.
        prompt_tokens_per_s: read.
        rank_bytes: memory on the fullest rank.
        fits: whether the device holds that.
    """

    batch: int
    decode: Floor
    prefill: Floor
    tokens_per_s: float
    prompt_tokens_per_s: float
    rank_bytes: int
    fits: bool

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        floors = {
            name: {**asdict(floor), "time_s": floor.time_s, "bound": floor.bound}
            for name, floor in (("decode", self.decode), ("prefill", self.prefill))
        }
        return {**{name: value for name, value in asdict(self).items() if name not in floors}, **floors}


@dataclass(frozen=True, slots=True, kw_only=True)
class SizeReport:
    """Everything that `headgate size` prints.

    Attributes:
        shape, workload, precision: what was sized.
        published: of the vendor, where the catalogue has the model.
        routes: what the tokens touch.
        rank: memory on the fullest rank.
        decode, prefill: work of a step and of the prompts.
        speed: by batch, that of the workload among them; empty without a device.
        notes: what a reader of the figures must know.
    """

    shape: ModelShape
    workload: Workload
    precision: Precision
    published: Published | None
    routes: Routes
    rank: RankMemory
    decode: StepWork
    prefill: StepWork
    speed: tuple[Speed, ...]
    notes: tuple[str, ...]

    def at_batch(self) -> Speed | None:
        """The ceiling at the workload's own batch; None without a device."""
        return next((speed for speed in self.speed if speed.batch == self.workload.batch), None)

    def picture(self) -> dict[str, Any]:
        """Tokens per second and memory against the batch, as the page draws them.

        Raises:
            InputError: there is no device.
        """
        device = self.workload.device
        if device is None:
            raise InputError("device (=None) must be given for a picture of speed; pass Workload(device=...)")
        return {
            "model": self.shape.name,
            "device": device.title,
            "context": self.workload.context,
            "memory_bytes": device.memory_bytes,
            "by_batch": [
                [speed.batch, speed.tokens_per_s, speed.rank_bytes, speed.decode.bound] for speed in self.speed
            ],
        }

    def to_dict(self) -> dict[str, Any]:
        """The report as values that JSON can hold."""
        return {
            "model": self._model(),
            "parameters": self._parameters(),
            "memory": self._memory(),
            "routing": self._routing(),
            "step": self._step(),
            "speed": self._speed(),
            "notes": list(self.notes),
        }

    def _model(self) -> dict[str, Any]:
        shape = self.shape
        return {
            "name": shape.name,
            "model_type": shape.model_type,
            "class_name": shape.class_name,
            "is_moe": bool(shape.routed),
            "num_layers": shape.num_layers,
            "num_routed_layers": len(shape.routed),
            "dtype": self.precision.dense.name,
            "expert_dtype": self.precision.experts.name,
            "cache_dtype": self.precision.cache.name,
        }

    def _parameters(self) -> dict[str, Any]:
        active = self.shape.active()
        return {
            "total": self.shape.total,
            "by_role": {role.value: count for role, count in self.shape.by_role().items()},
            "active": {**active, "vendor": None if self.published is None else self.published.compare(active)},
            "vendor_total": None if self.published is None else self.published.total,
            "per_expert": sorted({layer.expert_parameters for layer in self.shape.routed}),
        }

    def _memory(self) -> dict[str, Any]:
        load, shape, precision = self.workload, self.shape, self.precision
        sizes = weight_bytes(shape, precision)
        cache = cache_bytes(shape, batch=load.batch, context=load.context, precision=precision)
        step = load.batch * (1 + load.drafts)
        return {
            "batch": load.batch,
            "context": load.context,
            "weight_bytes": sum(sizes.values()),
            "weight_bytes_by_role": {role.value: size for role, size in sizes.items()},
            "cache_bytes": cache,
            "cache_kinds": _count(layer.kind for layer in shape.cache),
            "activation_bytes": activation_bytes(shape, num_tokens=step, batch=load.batch, precision=precision),
            "capacity_buffer_bytes": self.capacity_bytes(),
            "ranks": asdict(load.parallel),
            "per_rank": self.rank.to_dict(),
        }

    def capacity_bytes(self) -> int:
        """Bytes of the largest layer's buffers of fixed capacity, in a step; 0 without a capacity."""
        load, item = self.workload, self.precision.wide.value_bits / 8
        if load.capacity is None:
            return 0
        tokens = load.batch * (1 + load.drafts)
        sizes = (
            capacity_buffer_bytes(layer, num_tokens=tokens, factor=load.capacity, item_bytes=item)
            for layer in self.shape.routed
        )
        return max(sizes, default=0)

    def _routing(self) -> dict[str, Any]:
        batch = self.workload.batch
        return {
            "source": self.routes.source,
            "tokens_per_sequence_and_step": 1 + self.workload.drafts,
            "layers": [
                {
                    "layer_index": layer.layer_index,
                    "num_experts": layer.num_experts,
                    "num_zero_experts": layer.num_zero_experts,
                    "top_k": layer.top_k,
                    "mean_choices": touch.mean_choices,
                    "distinct_experts": touch.distinct(batch),
                    "distinct_ranks_per_token": ranks,
                }
                for layer, touch, ranks in zip(self.shape.routed, self.routes.step, self.routes.ranks, strict=True)
            ],
        }

    def _step(self) -> dict[str, Any]:
        tokens = self.workload.batch * (1 + self.workload.drafts)
        return {
            name: {
                **asdict(work),
                "num_bytes": work.num_bytes,
                "total_flops": work.total_flops,
                "flops_per_token": work.total_flops / count,
                "bytes_per_token": work.num_bytes / count,
            }
            for name, work, count in (
                ("decode", self.decode, tokens),
                ("prefill", self.prefill, self.workload.batch * self.workload.context),
            )
        }

    def _speed(self) -> dict[str, Any] | None:
        device = self.workload.device
        if device is None:
            return None
        return {"device": device.to_dict(), "by_batch": [speed.to_dict() for speed in self.speed]}


def size_model(
    shape: ModelShape,
    workload: Workload,
    precision: Precision,
    *,
    published: Published | None = None,
    routes: Routes | None = None,
) -> SizeReport:
    """Work out what a workload takes.

    Args:
        shape: the model.
        workload: what is asked of it.
        precision: formats.
        published: the vendor's figures, to compare with.
        routes: what a trace shows; None for uniform routing.

    Raises:
        InputError: more ranks than experts, or a measured time below the floor.
    """
    _refuse_too_many_ranks(shape, workload.parallel)
    chosen = routes or uniform_routes(shape, span=1 + workload.drafts, num_ranks=workload.parallel.expert)
    decode, prefill = _work(shape, workload, precision, chosen)
    device = workload.device
    if device is not None and workload.measured_s is not None:
        floor = floor_time(decode, device, workload.parallel)
        refuse_broken_floor(floor.time_s, workload.measured_s, device=device.name)
    batches = sorted({*BATCHES, workload.batch}) if device is not None else ()
    return SizeReport(
        shape=shape,
        workload=workload,
        precision=precision,
        published=published,
        routes=chosen,
        rank=_rank(shape, workload, precision),
        decode=decode,
        prefill=prefill,
        speed=tuple(_speed(shape, replace(workload, batch=batch), precision, chosen) for batch in batches),
        notes=(*_notes(shape, workload, device), *shape.notes),
    )


def _work(shape: ModelShape, workload: Workload, precision: Precision, routes: Routes) -> tuple[StepWork, StepWork]:
    """Work of a decoding step and of the prompts, with what ranks exchange."""
    load, copies = workload, workload.parallel.num_ranks // workload.parallel.expert
    span = 1 + load.drafts
    decode = decode_work(
        shape, precision, routes.step, batch=load.batch, context=load.context, span=span, copies=copies
    )
    prefill = prefill_work(shape, precision, routes.token, batch=load.batch, context=load.context, copies=copies)
    item = precision.wide.value_bits / 8
    sent = [
        exchanged_bytes(shape, routes.ranks, num_tokens=tokens, num_ranks=load.parallel.expert, item=item)
        for tokens in (load.batch * span, load.batch * load.context)
    ]
    return replace(decode, exchanged_bytes=sent[0]), replace(prefill, exchanged_bytes=sent[1])


def _rank(shape: ModelShape, workload: Workload, precision: Precision) -> RankMemory:
    load = workload
    return rank_memory(
        shape,
        precision,
        load.parallel,
        batch=load.batch,
        context=load.context,
        step_tokens=load.batch * (1 + load.drafts),
    )


def _speed(shape: ModelShape, workload: Workload, precision: Precision, routes: Routes) -> Speed:
    device = workload.device
    assert device is not None
    decode, prefill = (
        floor_time(work, device, workload.parallel) for work in _work(shape, workload, precision, routes)
    )
    rank = _rank(shape, workload, precision)
    return Speed(
        batch=workload.batch,
        decode=decode,
        prefill=prefill,
        tokens_per_s=workload.batch / decode.time_s,
        prompt_tokens_per_s=workload.batch * workload.context / prefill.time_s,
        rank_bytes=rank.total_bytes,
        fits=rank.total_bytes <= device.memory_bytes,
    )


def _refuse_too_many_ranks(shape: ModelShape, parallel: Parallel) -> None:
    fewest = min((layer.num_experts for layer in shape.routed), default=None)
    if fewest is not None and parallel.expert > fewest:
        raise InputError(
            f"ep (={parallel.expert}) must not exceed the experts of a layer (={fewest}), or a rank would have none; "
            f"use ep={fewest} or fewer"
        )


def _notes(shape: ModelShape, workload: Workload, device: Device | None) -> list[str]:
    notes = []
    if not shape.routed:
        notes.append(
            f"{shape.name} is a dense model: it has no routed experts, so every parameter but the embedding is active."
        )
    if any(layer.num_zero_experts for layer in shape.routed):
        notes.append("Choices of zero-compute experts cost nothing; the active count is the mean over uniform choices.")
    if any(layer.selection == "expert_choice" for layer in shape.routed):
        notes.append("Experts choose their tokens, so a step touches all of them.")
    if device is not None and workload.parallel.num_ranks > 1 and device.link_bandwidth is None:
        notes.append(f"{device.title} has no link of its own: what ranks exchange is not in the times.")
    return notes


def _count(kinds: Iterable[str]) -> Mapping[str, int]:
    found: dict[str, int] = {}
    for kind in kinds:
        found[kind] = found.get(kind, 0) + 1
    return found
