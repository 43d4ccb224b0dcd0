"""The least time that a step can take on a device: bytes over bandwidth, operations over peak, the longer of the two.

Units: bytes, bytes/s, FLOP (a multiply-add is two), FLOP/s, seconds. What comes out is a ceiling on speed: kernels,
launches and waiting come on top. What it leaves out (norms, softmax, states' updates, an indexer's scores) only makes
the true time longer, so it stays a ceiling.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from headgate.errors import InputError
from headgate.planning.hardware import Device
from headgate.planning.memory import Parallel, Precision, bytes_per_expert_parameter, kept_tokens, weight_bytes
from headgate.planning.parameters import NOT_FOR_A_TEXT_TOKEN, CacheLayer, ModelShape, Role
from headgate.planning.touch import LayerTouch


@dataclass(frozen=True, slots=True, kw_only=True)
class StepWork:
    """What one forward pass reads, computes and sends, over all ranks.

    Attributes:
        dense_bytes: weights that every rank of a data-parallel group reads once.
        experts_bytes: of the distinct experts that are touched, each read once.
        cache_bytes: kept by the sequences, read once.
        flops: by the arithmetic of the weights' format.
        exchanged_bytes: that tokens take to experts on other ranks, and back.
    """

    dense_bytes: float
    experts_bytes: float
    cache_bytes: float
    flops: Mapping[str, float]
    exchanged_bytes: float = 0.0

    @property
    def num_bytes(self) -> float:
        """Read from memory."""
        return self.dense_bytes + self.experts_bytes + self.cache_bytes

    @property
    def total_flops(self) -> float:
        """In any arithmetic."""
        return sum(self.flops.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class Floor:
    """The least time of a step, and what it comes from.

    Attributes:
        memory_s, arithmetic_s, exchange_s: what each would take alone.
    """

    memory_s: float
    arithmetic_s: float
    exchange_s: float = 0.0

    @property
    def time_s(self) -> float:
        """The longest of them: at best they overlap entirely."""
        return max(self.memory_s, self.arithmetic_s, self.exchange_s)

    @property
    def bound(self) -> str:
        """What decides."""
        times = {"memory": self.memory_s, "arithmetic": self.arithmetic_s, "exchange": self.exchange_s}
        return max(times, key=lambda name: times[name])


def dense_weight_bytes(shape: ModelShape, precision: Precision) -> float:
    """Bytes of weights that every step reads, whatever it routes: no experts, no towers, no rows of the embedding.

    A tied embedding is read as the head.
    """
    sizes = weight_bytes(shape, precision)
    left_out = (Role.ROUTED_EXPERTS, Role.EMBEDDING, *NOT_FOR_A_TEXT_TOKEN)
    read = sum(size for role, size in sizes.items() if role not in left_out)
    return read + shape.tied_head * precision.wide.value_bits / 8


def experts_read_bytes(shape: ModelShape, precision: Precision, touches: Sequence[LayerTouch], *, batch: int) -> float:
    """Bytes of the distinct experts that a step touches, over all layers.

    Args:
        shape: the model.
        precision: formats.
        touches: of each routed layer.
        batch: sequences.
    """
    per_parameter = bytes_per_expert_parameter(shape, precision)
    pairs = zip(shape.routed, touches, strict=True)
    return float(sum(touch.distinct(batch) * layer.expert_parameters * per_parameter for layer, touch in pairs))


def matrix_flops(shape: ModelShape, precision: Precision, *, num_tokens: int, num_logits: int) -> dict[str, float]:
    """FLOP of all products with weights: 2 x active matrix parameters x tokens; the head for tokens that need logits.

    Args:
        shape: the model.
        precision: formats, which say the arithmetic.
        num_tokens: in the pass.
        num_logits: of them, those whose logits are wanted.
    """
    flops = {precision.experts.arithmetic: 0.0, precision.dense.arithmetic: 0.0, precision.wide.arithmetic: 0.0}
    left_out = (Role.ROUTED_EXPERTS, Role.EMBEDDING, Role.HEAD, *NOT_FOR_A_TEXT_TOKEN)
    head = shape.tied_head
    for group in shape.weights:
        if group.role is Role.HEAD:
            head += group.num_parameters
        elif group.is_matrix and group.role not in left_out:
            flops[precision.format_of(group).arithmetic] += 2.0 * group.num_parameters * num_tokens
    flops[precision.experts.arithmetic] += 2.0 * shape.active_experts() * num_tokens
    flops[precision.wide.arithmetic] += 2.0 * head * num_logits
    return {arithmetic: count for arithmetic, count in flops.items() if count}


def attended_pairs(layer: CacheLayer, *, context: int, new_tokens: int) -> int:
    """Pairs of a new token and a token that it attends to, itself included.

    Args:
        layer: whose window and indexer bound the number.
        context: tokens before the new ones.
        new_tokens: of one sequence.

    Example:
        >>> attended_pairs(CacheLayer(layer_index=0, values_per_token=8.0), context=0, new_tokens=4)
        10
    """
    most = min(bound for bound in (layer.window, layer.attended, context + new_tokens) if bound is not None)
    growing = max(0, min(new_tokens, most - context))  # tokens that still see everything before them
    return growing * context + growing * (growing + 1) // 2 + (new_tokens - growing) * most


def attention_flops(shape: ModelShape, *, batch: int, context: int, new_tokens: int) -> float:
    """FLOP of scores and weighted sums: 2 x multiply-adds of a pair x pairs, over layers and sequences.

    Args:
        shape: the model.
        batch: sequences.
        context: tokens before the new ones; 0 for a prompt.
        new_tokens: of one sequence.
    """
    pairs = (attended_pairs(layer, context=context, new_tokens=new_tokens) for layer in shape.cache)
    widths = (_score_width(layer, is_prompt=context == 0) for layer in shape.cache)
    return 2.0 * batch * sum(width * count for width, count in zip(widths, pairs, strict=True))


def exchanged_bytes(
    shape: ModelShape, ranks: Sequence[float], *, num_tokens: int, num_ranks: int, item: int | float
) -> float:
    """Bytes between ranks: each token once to each distinct other rank of its experts, and one partial sum back.

    Args:
        shape: the model.
        ranks: for each routed layer, the distinct ranks of a token's experts.
        num_tokens: in the pass.
        num_ranks: W; a token's own rank is one of its W ranks as often as any, and costs nothing.
        item: bytes of a value.
    """
    other = (num_ranks - 1) / num_ranks
    values = sum(
        2 * num_tokens * layer.token_fraction * distinct * other * layer.d_model
        for layer, distinct in zip(shape.routed, ranks, strict=True)
    )
    return float(values * item)


def decode_work(
    shape: ModelShape,
    precision: Precision,
    touches: Sequence[LayerTouch],
    *,
    batch: int,
    context: int,
    span: int = 1,
    copies: int = 1,
) -> StepWork:
    """What a decoding step does: `span` tokens of each sequence, with `context` tokens kept before them.

    Args:
        shape: the model.
        precision: formats.
        touches: of each routed layer, for draws of `span` tokens.
        batch: sequences.
        context: tokens of each in the cache.
        span: 1, or 1 + drafts.
        copies: of all experts, each of which serves its part of the batch; the bytes of experts are those of one copy.
    """
    tokens = batch * span
    item = precision.cache.value_bits / 8
    read = batch * sum(_read_values(layer, context) * item + layer.state_bytes for layer in shape.cache)
    flops = matrix_flops(shape, precision, num_tokens=tokens, num_logits=tokens)
    attention = attention_flops(shape, batch=batch, context=context, new_tokens=span)
    return StepWork(
        dense_bytes=dense_weight_bytes(shape, precision),
        experts_bytes=experts_read_bytes(shape, precision, touches, batch=max(1, batch // copies)),
        cache_bytes=float(read),
        flops=_add(flops, precision.wide.arithmetic, attention),
    )


def prefill_work(
    shape: ModelShape,
    precision: Precision,
    touches: Sequence[LayerTouch],
    *,
    batch: int,
    context: int,
    copies: int = 1,
) -> StepWork:
    """What reading the prompts does: `context` tokens of each sequence at once, and logits of the last.

    Args:
        shape: the model.
        precision: formats.
        touches: of each routed layer, for draws of one token.
        batch: sequences.
        context: tokens of each prompt.
        copies: as in `decode_work`.
    """
    tokens = batch * context
    flops = matrix_flops(shape, precision, num_tokens=tokens, num_logits=batch)
    attention = attention_flops(shape, batch=batch, context=0, new_tokens=context)
    return StepWork(
        dense_bytes=dense_weight_bytes(shape, precision),
        experts_bytes=experts_read_bytes(shape, precision, touches, batch=max(1, tokens // copies)),
        cache_bytes=0.0,
        flops=_add(flops, precision.wide.arithmetic, attention),
    )


def floor_time(work: StepWork, device: Device, parallel: Parallel) -> Floor:
    """The least time of a step where the work is shared out evenly.

    Args:
        work: of all ranks together.
        device: of each rank.
        parallel: the ranks: dense weights are read by each data-parallel group, experts and the rest once.

    Returns:
        The floor. Where the device has no link of its own, the exchange counts nothing: it goes over the host.
    """
    ranks = parallel.num_ranks
    read = work.dense_bytes / parallel.tensor + work.experts_bytes / parallel.expert + work.cache_bytes / ranks
    arithmetic = sum(flops / device.peak_for(name) for name, flops in work.flops.items()) / ranks
    exchange = 0.0
    if work.exchanged_bytes and device.link_bandwidth is not None:
        exchange = work.exchanged_bytes / ranks / device.link_bandwidth
    return Floor(memory_s=read / device.bandwidth, arithmetic_s=arithmetic, exchange_s=exchange)


def refuse_broken_floor(floor_s: float, measured_s: float, *, device: str) -> None:
    """Refuse a ceiling that a measurement has broken: a figure behind it is wrong, so none of it is to be printed.

    Args:
        floor_s: the least time that was worked out.
        measured_s: what was measured.
        device: of both.

    Raises:
        InputError: the measured time is shorter.

    Example:
        >>> refuse_broken_floor(0.010, 0.012, device="h200")
    """
    if measured_s < floor_s:
        raise InputError(
            f"measured (={measured_s * 1e3:.4g} ms a step) is below the floor of {floor_s * 1e3:.4g} ms that the "
            f"figures of device {device} give, so no ceiling is printed; check batch, context, dtype "
            "and device against what was measured"
        )


def _score_width(layer: CacheLayer, *, is_prompt: bool) -> int:
    is_other = is_prompt and layer.prompt_score_width is not None
    return (layer.prompt_score_width or 0) if is_other else layer.score_width


def _read_values(layer: CacheLayer, context: int) -> float:
    """Numbers of the cache that a step reads: of all kept tokens, or of those that an indexer chooses."""
    kept = kept_tokens(layer, context)
    return layer.values_per_token * (kept if layer.attended is None else min(kept, layer.attended))


def _add(flops: Mapping[str, float], arithmetic: str, more: float) -> dict[str, float]:
    return {**flops, arithmetic: flops.get(arithmetic, 0.0) + more}
