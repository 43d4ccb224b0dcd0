"""Routed layers that exist in no checkpoint, from a few lines of TOML: what sizing needs to know of them."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from headgate.errors import InputError
from headgate.planning.parameters import ModelShape, Role, RoutedLayer, WeightGroup
from headgate.spec import Capacity, ExpertSpec, GroupLimit, RouterSpec, SharedSpec, preset

_VARYING = ("top_p", "threshold")
"""Ways to choose in which the text decides how many experts a token gets."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerFile:
    """Equal routed layers, as a file describes them.

    Attributes:
        num_layers, d_model, d_ff: how many, D, and F of an expert.
        router: what picks experts; None where the block of a Mixture-of-Depths is one MLP.
        experts: what one of them computes.
        shared: the expert that every token gets, or None.
        token_fraction: of the tokens, those that a Mixture-of-Depths lets in; None without one.
        mean_choices: experts of a token on average, where the router takes as many as the text asks for.
    """

    num_layers: int
    d_model: int
    d_ff: int
    router: RouterSpec | None = None
    experts: ExpertSpec = field(default_factory=ExpertSpec)
    shared: SharedSpec | None = None
    token_fraction: int | float | None = None
    mean_choices: int | float | None = None

    def __post_init__(self) -> None:
        """Refuse what no layer can be."""
        fraction, mean, router = self.token_fraction, self.mean_choices, self.router
        if fraction is not None and not 0 < fraction <= 1:
            raise InputError(f"token_fraction (={fraction}) must be above 0 and at most 1; 0.125 is the paper's best")
        if router is None and fraction is None:
            raise InputError("router and token_fraction are both missing; give [router], or token_fraction for depths")
        if fraction is not None and self.shared is not None:
            raise InputError(f"token_fraction (={fraction}) and [shared] can't be sized together; leave one out")
        is_varying = router is not None and router.selection in _VARYING
        if is_varying and mean is None:
            raise InputError(
                "mean_choices is missing: with top_p or threshold the text decides how many experts a token gets; give "
                "the mean, as headgate inspect TRACE shows it"
            )
        if not is_varying and mean is not None:
            raise InputError(f"mean_choices (={mean:g}) has no use with a fixed number of choices; leave it out")
        if router is not None and mean is not None and not 0 < mean <= router.top_k:
            raise InputError(f"mean_choices (={mean:g}) must be above 0 and at most top_k (={router.top_k}); lower it")


def parse_layer_file(text: str, *, name: str) -> ModelShape:
    """Describe the layers of a file.

    Args:
        text: TOML; docs/sizing.md lists its entries.
        name: of the file, for the report and for errors.

    Raises:
        InputError: it is no TOML, or an entry is missing, unknown or impossible.
        SpecError: a router or expert that can't be.

    Example:
        >>> text = '''
        ... num_layers = 2
        ... d_model = 64
        ... d_ff = 32
        ... [router]
        ... family = "mixtral"
        ... num_experts = 8
        ... '''
        >>> parse_layer_file(text, name="layers.toml").total
        99328
    """
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{name} is no TOML: {error}; docs/sizing.md has an example") from error
    tables = {
        "router": _read_router,
        "experts": lambda table: ExpertSpec(**table),
        "shared": lambda table: SharedSpec(**table),
    }
    for key in ("num_layers", "d_model", "d_ff"):
        value = values.get(key, 1)
        if not isinstance(value, int) or value < 1:
            raise InputError(
                f"{key} (={value!r}) of {name} must be a whole number from 1; docs/sizing.md has an example"
            )
    for key, read in tables.items():
        if key in values:
            values[key] = _build(read, values[key], where=f"[{key}] of {name}")
    return layers_shape(_build(lambda table: LayerFile(**table), values, where=name), name=name)


def _build(make: Any, table: Any, *, where: str) -> Any:
    """Make a value of a table; what it must not hold, or lacks, is named."""
    if not isinstance(table, Mapping):
        raise InputError(f"{where} (={table!r}) must be a table; write its entries below its name in brackets")
    try:
        return make(table)
    except TypeError as error:
        reason = str(error).split("() ", 1)[-1]
        raise InputError(f"{where}: {reason}; docs/sizing.md lists what it may hold") from error


def _read_router(table: Mapping[str, Any]) -> RouterSpec:
    kinds = {"capacity": Capacity, "group_limit": GroupLimit}
    values = {key: kinds[key](**value) if key in kinds else value for key, value in table.items()}
    named = values.pop("family", None)
    return RouterSpec(**values) if named is None else preset(named, **values)


def layers_shape(layers: LayerFile, *, name: str) -> ModelShape:
    """What sizing sees of such layers: their weights, and nothing around them.

    Args:
        layers: as described.
        name: to call them.
    """
    router = layers.router
    num_experts = 1 if router is None else router.num_experts
    expert = _projections(layers.d_model, layers.d_ff, layers.experts, bias=layers.experts.bias)
    weights = [_group(Role.ROUTED_EXPERTS, layers, (num_experts, *shape), len(shape) > 1) for shape in expert]
    weights += [_group(Role.ROUTER, layers, shape, is_matrix) for shape, is_matrix in _router_shapes(layers)]
    if layers.shared is not None:
        shared = _projections(layers.d_model, layers.shared.d_ff, layers.experts, bias=layers.shared.bias)
        shared += [(1, layers.d_model)] if layers.shared.gated_output else []
        weights += [_group(Role.SHARED_EXPERTS, layers, shape, len(shape) > 1) for shape in shared]
    routed = tuple(
        RoutedLayer(
            path=f"layers.{index}",
            layer_index=index,
            num_experts=num_experts,
            top_k=layers.mean_choices or (1 if router is None else router.top_k),
            expert_parameters=sum(map(math.prod, expert)),
            d_model=layers.d_model,
            d_ff=layers.d_ff,
            num_zero_experts=0 if router is None else router.num_zero_experts,
            selection="expert_choice" if router is not None and router.selection == "expert_choice" else "token_choice",
            token_fraction=layers.token_fraction or 1.0,
        )
        for index in range(layers.num_layers)
    )
    return ModelShape(
        name=name,
        model_type="routed layers",
        class_name="headgate.MoE" if layers.token_fraction is None else "headgate.MixtureOfDepths",
        d_model=layers.d_model,
        vocab_size=0,
        num_layers=layers.num_layers,
        weights=tuple(weights),
        routed=routed,
        cache=(),
        notes=tuple(_notes(layers)),
    )


def _projections(d_model: int, d_ff: int, spec: ExpertSpec, *, bias: bool) -> list[tuple[int, ...]]:
    """Shapes of one expert's weights."""
    width = 2 * d_ff if spec.gated else d_ff
    return [(width, d_model), (d_model, d_ff), *([(width,), (d_model,)] if bias else [])]


def _group(role: Role, layers: LayerFile, shape: tuple[int, ...], is_matrix: bool) -> WeightGroup:
    return WeightGroup(role=role, shape=shape, count=layers.num_layers, is_matrix=is_matrix)


def _router_shapes(layers: LayerFile) -> list[tuple[tuple[int, ...], bool]]:
    """Shapes of a layer's routers, and whether they are matrices."""
    found: list[tuple[tuple[int, ...], bool]] = []
    if layers.token_fraction is not None:
        # A router of one expert, the block, and the threshold that stands for it outside training.
        found += [((1, layers.d_model), True), ((1,), False)]
    spec = layers.router
    if spec is None or spec.score == "ones":
        return found
    matrices = 2 if spec.noise == "learned" else 1
    vectors = spec.linear_bias + (spec.selection == "expert_choice")
    return [*found, *[((spec.num_choices, layers.d_model), True)] * matrices, *[((spec.num_choices,), False)] * vectors]


def _notes(layers: LayerFile) -> list[str]:
    said = ["Only routed layers are sized: attention, embedding, head and cache are not in the file."]
    if layers.token_fraction is not None:
        said.append(f"Of the tokens {layers.token_fraction:.4g} enter each layer; the others skip it.")
    if layers.mean_choices is not None:
        said.append(f"A token gets {layers.mean_choices:g} experts on average, as the file says; --trace measures it.")
    return said
