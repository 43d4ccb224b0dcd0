"""Run one layer twice, by the library and by the oracle, and require the same of both: decisions and gradients."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, replace

import torch
from torch import Generator, Tensor

import adversarial
import headgate
import oracle
from compare import assert_close, assert_integers_equal
from headgate import ExpertSpec, MoE, RouterSpec, Routing, SharedSpec
from oracle_choice import Inputs
from selection_gap import selection_gap
from term_sizes import Passage, expert_scales, logit_terms, merge_scales, root_of_squares, router_scales

DENSE = "dense"
"""The pattern of a router whose experts all read all of a token, with weights -1, 0 and 1."""

MIN_GAP = 1e-4
"""Decisions may not hang on less than this: float32 scores are right to about 100 eps = 1e-5."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """A layer and the batch that it is called with.

    Attributes:
        leading: the batch's axes before D; the last of them is the sequence.
        pattern: of the logits, one of `adversarial.PATTERNS`, which need D >= E; or `DENSE`.
        seed: of everything that is drawn.
        training: the layer's mode.
        padding: whether some tokens are padding.
    """

    router: RouterSpec
    experts: ExpertSpec = dataclasses.field(default_factory=ExpertSpec)
    shared: SharedSpec | None = None
    d_model: int = 20
    d_ff: int = 6
    leading: tuple[int, ...] = (2, 5)
    pattern: str = "mixed"
    seed: int = 0
    training: bool = False
    padding: bool = False

    @property
    def num_tokens(self) -> int:
        """T."""
        return math.prod(self.leading)


@dataclass(frozen=True, kw_only=True)
class Run:
    """What came out of a layer: its routing and output, and the gradients of a linear functional of the output.

    Attributes:
        gradients: by parameter name, and "x".
        scales: the size of the terms that a gradient is the sum of, where they may cancel.
    """

    y: Tensor
    gradients: dict[str, Tensor]
    scales: dict[str, float]


def settle(case: Case) -> Case:
    """The case with the first seed at which no decision hangs on rounding, true ties aside."""
    for attempt in range(40):
        seeded = replace(case, seed=case.seed + 1000 * attempt)
        if selection_gap(case.router.to_dict(), draw_parameters(seeded), draw_inputs(seeded)) > MIN_GAP:
            return seeded
    raise AssertionError(f"every draw of this case hangs on rounding; choose another pattern: {case}")


def check_case(case: Case, *dtypes: torch.dtype) -> None:
    """Require that library and oracle agree, in each dtype, on a settled case.

    Raises:
        AssertionError: says what differs.
    """
    settled = settle(case)
    outcome, expected = run_oracle(settled)
    for dtype in dtypes:
        routing, actual = run_library(settled, dtype)
        check_routing(settled, routing, outcome, dtype)
        terms = count_terms(settled)
        assert_close("y", actual.y, expected.y, dtype=dtype, terms=terms, scale=expected.scales["y"])
        for name, gradient in expected.gradients.items():
            scale = expected.scales.get(name, 0.0)
            label = f"gradient of {name}"
            assert_close(label, actual.gradients[name], gradient, dtype=dtype, terms=terms, scale=scale)


def check_routing(case: Case, routing: Routing, outcome: oracle.Outcome, dtype: torch.dtype) -> None:
    """Require equal ids and drops, and close logits, scores and weights."""
    choice, expected = routing.choice, outcome.choice
    shape = (len(expected.ids), len(expected.ids[0]) if expected.ids else choice.combine_weights.shape[1])
    ids = choice.expert_ids if expected.by_token else choice.token_ids
    assert_integers_equal("ids", ids, torch.tensor(expected.ids, dtype=torch.int64).reshape(shape))
    drops = torch.tensor(expected.drop_reason, dtype=torch.uint8).reshape(shape)
    assert_integers_equal("drop reasons", routing.plan.drop_reason, drops)
    terms = case.router.num_choices
    assert_close("logits", routing.logits, outcome.logits, dtype=dtype, terms=1)
    assert_close("scores", routing.scores, outcome.scores, dtype=dtype, terms=terms)
    weights = [w for row in expected.weights for w in row]
    stacked = torch.stack(weights) if weights else torch.zeros(0)
    assert_close("combine weights", choice.combine_weights, stacked.reshape(shape), dtype=dtype, terms=terms)


def count_terms(case: Case) -> int:
    """Terms of the longest chain of sums from one end of the layer to the other, and of a sum over tokens."""
    shared = case.shared.d_ff if case.shared else 0
    return case.d_model + 2 * case.d_ff + 2 * shared + case.router.num_choices + case.num_tokens


# The library's side.


def run_library(case: Case, dtype: torch.dtype) -> tuple[Routing, Run]:
    """Forward and backward of `headgate.MoE`."""
    model = build_layer(case, dtype)
    inputs = draw_inputs(case)
    x = inputs.x.reshape(*case.leading, case.d_model).to(dtype).requires_grad_()
    with headgate.tap(model) as tape:
        y = model(x, **draw_keywords(case))
    (y * draw_functional(case).to(dtype)).sum().backward()
    gradients = {name: torch.zeros_like(p) if p.grad is None else p.grad for name, p in model.named_parameters()}
    return tape[""][-1], Run(y=y.detach(), gradients={**gradients, "x": x.grad}, scales={})


def build_layer(case: Case, dtype: torch.dtype, parameters: dict[str, Tensor] | None = None) -> MoE:
    """The layer with the parameters that the case draws, or with others."""
    model = new_layer(case, dtype)
    model.load_state_dict(parameters or draw_parameters(case))
    return model.train(case.training)


def new_layer(case: Case, dtype: torch.dtype) -> MoE:
    """The layer as the library initialises it."""
    return MoE(case.d_model, case.d_ff, router=case.router, experts=case.experts, shared=case.shared, dtype=dtype)


def draw_keywords(case: Case) -> dict[str, Tensor]:
    """The keyword arguments of `MoE.forward`."""
    inputs, keywords = draw_inputs(case), {}
    if inputs.token_ids is not None:
        keywords["token_ids"] = torch.tensor(inputs.token_ids, dtype=torch.int64).reshape(case.leading)
    if inputs.is_padding is not None:
        keywords["padding_mask"] = torch.tensor(inputs.is_padding, dtype=torch.bool).reshape(case.leading)
    return keywords


# The oracle's side.


def run_oracle(
    case: Case, *, inputs: Inputs | None = None, parameters: dict[str, Tensor] | None = None
) -> tuple[oracle.Outcome, Run]:
    """Forward and backward of the oracle, on what the case draws or on others."""
    parameters, drawn = parameters or draw_parameters(case), inputs or draw_inputs(case)
    leaves = {name: p.requires_grad_() for name, p in parameters.items() if is_trained(name)}
    x = drawn.x.clone().requires_grad_()
    shared = None if case.shared is None else dataclasses.asdict(case.shared)
    experts = dataclasses.asdict(case.experts)
    outcome = oracle.run_layer(case.router.to_dict(), experts, shared, parameters, replace(drawn, x=x))
    y = outcome.y.reshape(*case.leading, case.d_model)
    loss = (y * draw_functional(case)).sum()
    weights = {f"weight {i}": w for i, (_, _, w) in enumerate(oracle.list_rows(outcome.choice))}
    gradients = differentiate(loss, {**leaves, "x": x, **weights})
    scales = find_scales(case, outcome, [float(gradients.pop(name)) for name in weights], drawn)
    gradients["x"] = gradients["x"].reshape(y.shape)
    return outcome, Run(y=y.detach(), gradients=gradients, scales=scales)


def is_trained(name: str) -> bool:
    """Whether a loss on y moves this entry of the state dict; expert choice's threshold has a loss of its own."""
    return name not in ("router.selection_bias", "router.expert_table", "router.threshold", "router.noise_weight")


def differentiate(loss: Tensor, leaves: dict[str, Tensor]) -> dict[str, Tensor]:
    """The gradient of each tensor, zeros where it has no part in the loss."""
    gradients = {name: torch.zeros_like(leaf) for name, leaf in leaves.items()}
    tracked = {name: leaf for name, leaf in leaves.items() if leaf.requires_grad and loss.requires_grad}
    if tracked:
        found = torch.autograd.grad(loss, list(tracked.values()), allow_unused=True)
        gradients |= {name: g for name, g in zip(tracked, found, strict=True) if g is not None}
    return gradients


def find_scales(
    case: Case, outcome: oracle.Outcome, gradients_of_weights: list[float], drawn: Inputs
) -> dict[str, float]:
    """The size of the terms of y and of every gradient, by its name."""
    experts, apply_to = dataclasses.asdict(case.experts), case.router.apply_to
    rows = oracle.list_rows(outcome.choice)
    tokens, g = drawn.tokens.detach(), draw_functional(case).reshape(case.num_tokens, case.d_model)
    linear_scale = case.router.scale * (case.router.score == "linear")
    passages, logit_sizes = [], torch.zeros(case.num_tokens, dtype=torch.float64)
    for (t, _, w), of_weight in zip(rows, gradients_of_weights, strict=True):
        passage = Passage(x=tokens[t], g=g[t], weight=float(w.detach()), gradient_of_weight=of_weight)
        passages.append(passage)
        logit_sizes[t] += logit_terms(experts, passage, apply_to, case.d_ff, linear_scale)
    sizes = {"apply_to": apply_to, "d_ff": case.d_ff, "num_experts": case.router.num_experts}
    scales = [expert_scales(experts, passages, prefix="experts", **sizes)]
    if case.shared is not None:
        function = experts | {"bias": case.shared.bias}
        passages = [Passage(x=x, g=g_t, weight=1.0) for x, g_t in zip(tokens, g, strict=True)]
        sizes = {"apply_to": "output", "d_ff": case.shared.d_ff, "num_experts": 1}
        scales.append(expert_scales(function, passages, prefix="shared_expert", **sizes))
    scales.append({"x": root_of_squares(logit_sizes.tolist())} | router_scales(logit_sizes, tokens))
    return merge_scales(scales, case.num_tokens)


# What both sides are given.


def draw_parameters(case: Case) -> dict[str, Tensor]:
    """Every entry of the layer's state dict, float64 values that float32 holds exactly."""
    generator = Generator().manual_seed(case.seed)
    with torch.device("meta"):
        shapes = {name: tuple(p.shape) for name, p in new_layer(case, torch.float64).state_dict().items()}
    return {name: draw_parameter(case, name, shape, generator) for name, shape in shapes.items()}


def draw_parameter(case: Case, name: str, shape: tuple[int, ...], generator: Generator) -> Tensor:
    """One entry of the state dict; the router's make logits exact."""
    if name == "router.weight":
        return draw_router_weight(case)
    if name in ("router.bias", "router.selection_bias"):
        return adversarial.draw_grid(shape, limit=0.5, generator=generator)
    if name == "router.expert_table":
        orders = [torch.randperm(case.router.num_choices, generator=generator) for _ in range(shape[0])]
        return torch.stack(orders)[:, : shape[1]]
    if name == "router.threshold":
        return torch.rand(shape, generator=generator).mul(2.0 / shape[0]).double()
    fan_in = shape[-1] if name.endswith(("proj", "gate")) else 4
    return torch.randn(shape, generator=generator).div(math.sqrt(fan_in)).double()


def draw_router_weight(case: Case) -> Tensor:
    """[E, D] that makes logits exact."""
    generator, shape = Generator().manual_seed(case.seed), (case.router.num_choices, case.d_model)
    if case.pattern == DENSE:
        return torch.randint(-1, 2, shape, generator=generator).double()
    return adversarial.make_router_weight(*shape, generator)


def draw_inputs(case: Case) -> Inputs:
    """Tokens whose logits, but for the router's bias, are the pattern; token ids and padding."""
    generator = Generator().manual_seed(case.seed + 1)
    num_tokens = case.num_tokens
    if case.pattern == DENSE:
        x = adversarial.draw_grid((num_tokens, case.d_model), limit=1.0, generator=generator)
    else:
        logits = adversarial.PATTERNS[case.pattern](num_tokens, case.router.num_choices, generator)
        x = adversarial.make_tokens(logits, draw_router_weight(case), generator)
    token_ids = None
    if case.router.vocab_size is not None:
        token_ids = torch.randint(0, case.router.vocab_size, (num_tokens,), generator=generator).tolist()
    is_padding = torch.rand(num_tokens, generator=generator) < 0.3
    return Inputs(
        x=x.reshape(math.prod(case.leading[:-1]), case.leading[-1], case.d_model),
        training=case.training,
        token_ids=token_ids,
        is_padding=is_padding.tolist() if case.padding else None,
    )


def draw_functional(case: Case) -> Tensor:
    """The linear functional of y whose gradients are compared."""
    generator = Generator().manual_seed(case.seed + 2)
    return torch.randn(*case.leading, case.d_model, generator=generator).double()
