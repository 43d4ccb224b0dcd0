"""Memory that a model takes: weights, cache, activations and capacity buffers, whole and on each rank.

Sizes are bytes. Memory follows the total of the parameters; compute follows the active ones.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any

from headgate.errors import InputError
from headgate.planning.formats import FORMATS, WeightFormat, find_format
from headgate.planning.parameters import CacheLayer, ModelShape, Role, RoutedLayer, WeightGroup
from headgate.planning.touch import deal_out

_KEPT_WIDE = (Role.EMBEDDING, Role.HEAD, Role.ROUTER, Role.OTHER)
"""What quantised checkpoints leave in 16 bits."""

_SPLIT_BY_TENSOR = (
    Role.ATTENTION,
    Role.DENSE_MLP,
    Role.SHARED_EXPERTS,
    Role.EMBEDDING,
    Role.HEAD,
    Role.MTP,
)
"""Whose matrices tensor parallelism shares out; routers, norms, vectors and towers lie on every rank."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Precision:
    """Formats of a deployment.

    Attributes:
        dense: of everything but expert matrices. Where it is quantised, embedding, head, router, norms and biases are
            bf16 all the same.
        experts: of the expert matrices.
        cache: of keys, values and latents.
    """

    dense: WeightFormat
    experts: WeightFormat
    cache: WeightFormat

    @property
    def wide(self) -> WeightFormat:
        """Of what no quantisation touches, and of activations."""
        return FORMATS["bf16"] if self.dense.is_quantised else self.dense

    def format_of(self, group: WeightGroup) -> WeightFormat:
        """The format of some weights."""
        if not group.is_matrix or group.role in _KEPT_WIDE:
            return self.wide
        return self.experts if group.role is Role.ROUTED_EXPERTS else self.dense


def choose_precision(
    shape: ModelShape, *, dtype: str | None = None, expert_dtype: str | None = None, cache_dtype: str | None = None
) -> Precision:
    """Take what was asked for, else what the configuration states, else bf16.

    Args:
        shape: the model.
        dtype: of all weights, unless `expert_dtype` says otherwise for the experts.
        expert_dtype: of the expert matrices.
        cache_dtype: of the cache; by default the 16 or 32 bits of the activations.

    Raises:
        InputError: no such format, or scales in a cache.
    """
    dense = find_format(dtype or shape.dtype or "bf16")
    experts = find_format(expert_dtype or dtype or shape.expert_dtype or dense.name)
    wide = FORMATS["bf16"] if dense.is_quantised else dense
    cache = find_format(cache_dtype) if cache_dtype else wide
    if cache.is_quantised and cache.name != "fp8":
        raise InputError(f"cache dtype (={cache.name}) must be fp32, bf16, fp16 or fp8; pass one of them")
    return Precision(dense=dense, experts=experts, cache=cache)


def weight_bytes(shape: ModelShape, precision: Precision) -> dict[Role, int]:
    """Bytes of the weights of each role, scales included.

    Args:
        shape: the model.
        precision: formats.
    """
    found: Counter[Role] = Counter()
    for group in shape.weights:
        found[group.role] += group.count * precision.format_of(group).tensor_bytes(group.shape)
    return {role: found[role] for role in Role}


def bytes_per_expert_parameter(shape: ModelShape, precision: Precision) -> float:
    """Bytes of a parameter of the routed experts, on average: scales and unquantised biases included; 0 without any."""
    experts = shape.by_role()[Role.ROUTED_EXPERTS]
    return weight_bytes(shape, precision)[Role.ROUTED_EXPERTS] / experts if experts else 0.0


def kept_tokens(layer: CacheLayer, context: int) -> int:
    """Tokens that a layer keeps of `context`."""
    return context if layer.window is None else min(context, layer.window)


def cache_bytes(shape: ModelShape, *, batch: int, context: int, precision: Precision, tensor_ranks: int = 1) -> int:
    """Bytes of the cache of `batch` sequences, on one of the ranks that share its heads.

    For each layer: values per token x kept tokens x bytes of a value / shared heads + bytes of its state.

    Args:
        shape: the model.
        batch: sequences.
        context: tokens of each.
        precision: formats.
        tensor_ranks: ranks among which heads are shared out; one head, or a latent, lies on each of them whole.
    """
    item = precision.cache.value_bits / 8
    return batch * sum(
        math.ceil(
            layer.values_per_token * kept_tokens(layer, context) * item / min(tensor_ranks, layer.num_heads)
            + layer.state_bytes / tensor_ranks
        )
        for layer in shape.cache
    )


def activation_bytes(shape: ModelShape, *, num_tokens: int, batch: int, precision: Precision) -> int:
    """Bytes of the activations that an implementation without fusion holds at once, at most; an estimate from above.

    tokens x [2 D residual and normed input + the larger of (4 D for queries, keys, values and output) and
    k (2 D + 3 F) for gathered rows, gate, up, their product and the outputs] x bytes, and float32 logits of one token
    for each sequence.

    Args:
        shape: the model.
        num_tokens: in one forward pass.
        batch: sequences, of which each gets logits of its last token.
        precision: formats; activations are as wide as what is not quantised.
    """
    experts = max((layer.mean_choices * (2 * layer.d_model + 3 * layer.d_ff) for layer in shape.routed), default=0.0)
    per_token = 2 * shape.d_model + max(4 * shape.d_model, experts)
    return math.ceil(num_tokens * per_token * precision.wide.value_bits / 8) + 4 * batch * shape.vocab_size


def capacity_buffer_bytes(layer: RoutedLayer, *, num_tokens: int, factor: int | float, item_bytes: int | float) -> int:
    """Bytes of a layer's buffers of fixed capacity over all ranks: E x C x D, once for inputs and once for outputs.

    C = ceil(factor x T k / E) rows for each expert, whether they are used or not.

    Args:
        layer: the layer.
        num_tokens: T, of all ranks together.
        factor: of an even share.
        item_bytes: of one value.

    Raises:
        InputError: the factor is not above 0.
    """
    if factor <= 0:
        raise InputError(f"capacity factor (={factor}) must be above 0; 1 gives each expert an even share")
    capacity = math.ceil(factor * num_tokens * layer.mean_choices / layer.num_experts)
    return math.ceil(2 * layer.num_experts * capacity * layer.d_model * item_bytes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Parallel:
    """How ranks share the work: W = tensor x data, and experts over `expert` of them.

    Attributes:
        expert: ranks that share out the experts of a layer; W / expert copies of the experts exist.
        tensor: ranks that share out each dense matrix and the cache's heads.
        data: groups of `tensor` ranks, each with its own part of the batch.
    """

    expert: int = 1
    tensor: int = 1
    data: int = 1

    def __post_init__(self) -> None:
        """Refuse what no group of ranks can be."""
        for name, value in (("ep", self.expert), ("tp", self.tensor), ("dp", self.data)):
            if value < 1:
                raise InputError(f"{name} (={value}) must be at least 1; leave it out for none")
        if self.num_ranks % self.expert:
            raise InputError(
                f"ep (={self.expert}) must divide the number of ranks, tp x dp (={self.num_ranks}); "
                f"use ep={self.num_ranks} to share the experts out over all of them"
            )

    @property
    def num_ranks(self) -> int:
        """W."""
        return self.tensor * self.data

    def share_of(self, batch: int) -> int:
        """Sequences of a batch on the group of ranks that gets the most."""
        return math.ceil(batch / self.data)


def parse_ranks(text: str) -> Parallel:
    """Read `8` (eight ranks, experts shared out, the rest copied) or `ep=8,tp=4,dp=2`.

    Raises:
        InputError: neither, or ranks that do not fit together.

    Example:
        >>> parse_ranks("8")
        Parallel(expert=8, tensor=1, data=8)
        >>> parse_ranks("tp=4,dp=2").expert
        8
    """
    if text.strip().isdecimal():
        return Parallel(expert=int(text), data=int(text))
    values: dict[str, int] = {}
    for part in text.split(","):
        name, _, value = part.strip().partition("=")
        if name not in ("ep", "tp", "dp") or not value.strip().isdecimal():
            raise InputError(f"ranks (={text}) must be a number or ep=..,tp=..,dp=.. with numbers; pass 8 or ep=8,dp=8")
        values[name] = int(value)
    if "dp" not in values and "ep" in values:
        values["dp"] = max(1, values["ep"] // values.get("tp", 1))
    tensor, data = values.get("tp", 1), values.get("dp", 1)
    return Parallel(expert=values.get("ep", tensor * data), tensor=tensor, data=data)


@dataclass(frozen=True, slots=True, kw_only=True)
class RankMemory:
    """Bytes on one rank.

    Attributes:
        sharded_bytes: its part of the dense matrices.
        replicated_bytes: what every rank holds: routers, norms, biases, towers.
        experts_bytes: its experts.
        cache_bytes, activation_bytes: of its part of the batch.
    """

    sharded_bytes: int
    replicated_bytes: int
    experts_bytes: int
    cache_bytes: int
    activation_bytes: int

    @property
    def weight_bytes(self) -> int:
        """The three buckets of weights together."""
        return self.sharded_bytes + self.replicated_bytes + self.experts_bytes

    @property
    def total_bytes(self) -> int:
        """All of it."""
        return self.weight_bytes + self.cache_bytes + self.activation_bytes

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {**asdict(self), "total_bytes": self.total_bytes}


def weights_of_ranks(shape: ModelShape, precision: Precision, parallel: Parallel) -> list[tuple[int, int, int]]:
    """Bytes of weights on each rank of one expert group: (sharded, replicated, experts).

    Whole experts are dealt out, layer by layer, each layer beginning where the one before stopped; matrices are cut
    evenly, to the byte. Over the ranks of a tensor group the first bucket sums to all dense matrices, over the ranks of
    an expert group the third to all experts.

    Args:
        shape: the model.
        precision: formats.
        parallel: the ranks.
    """
    sharded, replicated, experts = _buckets(shape, precision)
    cut = deal_out(sharded, parallel.tensor)
    shares = _expert_shares(shape, experts, parallel.expert)
    return [(cut[rank % parallel.tensor], replicated, shares[rank]) for rank in range(parallel.expert)]


def _buckets(shape: ModelShape, precision: Precision) -> tuple[int, int, int]:
    sharded = replicated = experts = 0
    for group in shape.weights:
        size = group.count * precision.format_of(group).tensor_bytes(group.shape)
        if group.role is Role.ROUTED_EXPERTS:
            experts += size
        elif group.is_matrix and group.role in _SPLIT_BY_TENSOR:
            sharded += size
        else:
            replicated += size
    return sharded, replicated, experts


def _expert_shares(shape: ModelShape, experts_bytes: int, num_ranks: int) -> list[int]:
    """Bytes of experts of each rank; a layer's spare experts go to the ranks after those of the layer before."""
    parameters = [0] * num_ranks
    first = 0
    for layer in shape.routed:
        for i, count in enumerate(deal_out(layer.num_experts, num_ranks)):
            parameters[(first + i) % num_ranks] += count * layer.expert_parameters
        first = (first + layer.num_experts) % num_ranks
    total = max(sum(parameters), 1)
    # Running sums, rounded: the parts sum to the whole, to the byte.
    ends = [experts_bytes * sum(parameters[: rank + 1]) // total for rank in range(num_ranks)]
    return [end - begin for begin, end in zip([0, *ends[:-1]], ends, strict=True)]


def rank_memory(
    shape: ModelShape, precision: Precision, parallel: Parallel, *, batch: int, context: int, step_tokens: int
) -> RankMemory:
    """Bytes on the fullest rank.

    Args:
        shape: the model.
        precision: formats.
        parallel: the ranks.
        batch: sequences of all ranks together.
        context: tokens of each.
        step_tokens: tokens of all ranks together in the largest forward pass.
    """
    sharded, replicated, experts = max(weights_of_ranks(shape, precision, parallel), key=sum)
    share = parallel.share_of(batch)
    tokens = math.ceil(step_tokens / parallel.data)
    return RankMemory(
        sharded_bytes=sharded,
        replicated_bytes=replicated,
        experts_bytes=experts,
        cache_bytes=cache_bytes(shape, batch=share, context=context, precision=precision, tensor_ranks=parallel.tensor),
        activation_bytes=activation_bytes(shape, num_tokens=tokens, batch=share, precision=precision),
    )
