"""The oracle on examples worked out by hand."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

import pytest
import torch
from torch import Tensor

import oracle
import oracle_choice
from headgate import Capacity, ExpertSpec, GroupLimit, RouterSpec, SharedSpec
from oracle import Outcome
from oracle_choice import CAPACITY, KEPT, NO_EXPERT, PADDING, Inputs

LN = math.log


def route(
    logits: list[list[float]],
    *,
    training: bool = False,
    is_padding: list[bool] | None = None,
    token_ids: list[int] | None = None,
    sequences: int = 1,
    parameters: Mapping[str, Tensor] | None = None,
    **fields: Any,
) -> Outcome:
    """The oracle on tokens that are their own logits, with experts that return 0."""
    width = len(logits[0])
    router = RouterSpec(**{"num_experts": width - fields.get("num_zero_experts", 0), "top_k": 1} | fields).to_dict()
    experts = asdict(ExpertSpec(gated=False, activation="relu"))
    values = {
        "router.weight": torch.eye(width).double(),
        "experts.up_proj": torch.zeros(width, 1, width).double(),
        "experts.down_proj": torch.zeros(width, width, 1).double(),
        **(parameters or {}),
    }
    x = torch.tensor(logits, dtype=torch.float64).reshape(sequences, -1, width)
    inputs = Inputs(x=x, training=training, token_ids=token_ids, is_padding=is_padding)
    return oracle.run_layer(router, experts, None, values, inputs)


def weights_of(outcome: Outcome) -> list[list[float]]:
    return [[round(float(w), 9) for w in row] for row in outcome.choice.weights]


# Scores and weights.


def test_softmax_scores_and_normalised_weights() -> None:
    # exp: 1, 2, 5 of 8.
    outcome = route([[LN(1), LN(2), LN(5)]], top_k=2)
    assert outcome.scores[0].tolist() == pytest.approx([0.125, 0.25, 0.625])
    assert outcome.choice.ids == [[2, 1]]
    assert weights_of(outcome) == [[round(5 / 7, 9), round(2 / 7, 9)]]


@pytest.mark.parametrize(
    ("score", "expected"),
    [
        ("sigmoid", [0.75, 0.5]),  # 3 / (1 + 3), 1 / (1 + 1)
        ("sqrt_softplus", [math.sqrt(LN(4)), math.sqrt(LN(2))]),
        ("linear", [LN(3), 0.0]),
    ],
)
def test_other_scores(score: str, expected: list[float]) -> None:
    outcome = route([[LN(3), 0.0]], score=score, normalise="none")
    assert outcome.scores[0].tolist() == pytest.approx(expected)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"normalise": "none"}, [0.625, 0.25]),
        ({"normalise": "none", "scale": 2.0}, [1.25, 0.5]),
        ({"normalise": "softmax"}, [5 / 7, 2 / 7]),
        ({"normalise": "sum", "norm_order": 2.0}, [5 / math.sqrt(29), 2 / math.sqrt(29)]),
        ({"normalise": "sum", "epsilon": 0.125}, [0.625, 0.25]),  # The sum is 0.875.
        ({"normalise": "sum", "epsilon": 2.0, "epsilon_rule": "clamp"}, [0.3125, 0.125]),
        ({"normalise": "sum", "epsilon": 0.5, "epsilon_rule": "clamp"}, [5 / 7, 2 / 7]),
    ],
)
def test_weights(fields: dict[str, Any], expected: list[float]) -> None:
    outcome = route([[LN(1), LN(2), LN(5)]], top_k=2, **fields)
    assert weights_of(outcome)[0] == pytest.approx(expected)


# Choices.


def test_ties_go_to_the_lowest_id_and_nan_comes_last() -> None:
    assert oracle_choice.best([1.0, 3.0, 3.0, 1.0], 3) == [1, 2, 0]
    assert oracle_choice.best([math.nan, -math.inf, 2.0, math.nan], 4) == [2, 0, 1, 3]


def test_the_selection_bias_moves_the_choice_and_not_the_weight() -> None:
    bias = {"router.selection_bias": torch.tensor([0.0, 1.0]).double()}
    outcome = route([[LN(3), 0.0]], score="sigmoid", selection_bias=True, normalise="none", parameters=bias)
    assert outcome.choice.ids == [[1]]
    assert weights_of(outcome) == [[0.5]]


@pytest.mark.parametrize(
    ("group_score", "ids"),
    [
        ("max", [0, 1]),  # 5 against 4: expert 0 and its neighbour.
        ("top2_sum", [2, 3]),  # 5 + 0 against 4 + 3.
        ("top_share_sum", [2, 3]),  # K / num_kept = 2.
    ],
)
def test_groups(group_score: str, ids: list[int]) -> None:
    limit = GroupLimit(num_groups=2, num_kept=1, group_score=group_score)
    outcome = route([[5.0, 0.0, 4.0, 3.0]], score="linear", normalise="none", top_k=2, group_limit=limit)
    assert outcome.choice.ids == [ids]


def test_a_mask_of_zero_lets_an_expert_of_another_group_win_and_weigh_nothing() -> None:
    limit = GroupLimit(num_groups=2, num_kept=1, group_score="max", mask_value="zero")
    outcome = route([[-1.0, -2.0, -3.0, -4.0]], score="linear", normalise="none", top_k=2, group_limit=limit)
    assert outcome.choice.ids == [[2, 3]]
    assert weights_of(outcome) == [[0.0, 0.0]]


@pytest.mark.parametrize(
    ("top_p", "ids"),
    [(0.6, [2, -1, -1]), (0.625, [2, -1, -1]), (0.63, [2, 1, -1]), (0.9, [2, 1, 0])],
)
def test_top_p_takes_the_shortest_prefix_that_reaches_the_mass(top_p: float, ids: list[int]) -> None:
    logits = torch.tensor([0.125, 0.25, 0.625], dtype=torch.float64).log().tolist()
    router = RouterSpec(num_experts=3, top_k=3, selection="top_p", top_p=top_p).to_dict()
    assert oracle_choice.choose_ranked(router, logits, torch.tensor([0.125, 0.25, 0.625])) == ids


def test_threshold_includes_its_value_and_may_choose_nobody() -> None:
    fields = {"score": "sigmoid", "selection": "threshold", "threshold": 0.5, "normalise": "none", "top_k": 2}
    outcome = route([[0.0, LN(3), -1.0], [-1.0, -2.0, -3.0]], **fields)
    assert outcome.choice.ids == [[1, 0], [-1, -1]]
    assert weights_of(outcome) == [[0.75, 0.5], [0.0, 0.0]]
    assert outcome.choice.drop_reason == [[KEPT, KEPT], [NO_EXPERT, NO_EXPERT]]


def test_hash_looks_experts_up() -> None:
    table = {"router.expert_table": torch.tensor([[2, 0], [1, 2]])}
    fields = {"selection": "hash", "vocab_size": 2, "top_k": 2}
    outcome = route([[LN(1), LN(2), LN(5)]] * 2, token_ids=[1, 0], parameters=table, **fields)
    assert outcome.choice.ids == [[1, 2], [2, 0]]
    assert weights_of(outcome)[1] == pytest.approx([5 / 6, 1 / 6])


SINKHORN = {"score": "sigmoid", "selection": "sinkhorn", "normalise": "none", "sinkhorn_iterations": 1}


def test_sinkhorn_balances_in_training_only() -> None:
    # cost [[1, 3], [1, 2]]; token factors 1/8, 1/6; expert factors 1 / (2 * 7/24) = 12/7, 1 / (2 * 17/24) = 12/17.
    logits = [[LN(1), LN(3)], [LN(1), LN(2)]]
    router = RouterSpec(num_experts=2, top_k=1, **SINKHORN).to_dict()
    balanced = oracle_choice.balance_cost(router, dict(enumerate(logits)))
    assert balanced[0] == pytest.approx([3 / 14, 9 / 34])
    assert balanced[1] == pytest.approx([2 / 7, 4 / 17])
    assert route(logits, training=True, **SINKHORN).choice.ids == [[1], [0]]
    assert route(logits, training=False, **SINKHORN).choice.ids == [[1], [1]]


def test_sparsemixer_weighs_among_the_close() -> None:
    # 0.99 is within 2 % of 1; 0.5 is not, nor is it of 0.99.
    fields = {"selection": "sparsemixer", "normalise": "none", "top_k": 2}
    outcome = route([[0.5, 1.0, 0.99]], **fields)
    assert outcome.choice.ids == [[1, 2]]
    assert weights_of(outcome)[0] == pytest.approx([1 / (1 + math.exp(-0.01)), 1.0])


def test_experts_choose_tokens_and_the_earliest_wins_a_tie() -> None:
    fields = {"selection": "expert_choice", "normalise": "none", "score": "sigmoid", "capacity": Capacity(absolute=2)}
    logits = [[0.0, LN(3)], [LN(3), 0.0], [0.0, LN(3)]]
    outcome = route(logits, training=True, **fields)
    assert not outcome.choice.by_token
    assert outcome.choice.ids == [[1, 0], [0, 2]]
    assert weights_of(outcome) == [[0.75, 0.5], [0.75, 0.75]]
    padded = route(logits, training=True, is_padding=[True, False, True], **fields)
    assert padded.choice.ids == [[1, -1], [1, -1]]
    assert padded.choice.drop_reason == [[KEPT, NO_EXPERT], [KEPT, NO_EXPERT]]


def test_expert_choice_decides_token_by_token_in_inference() -> None:
    fields = {"selection": "expert_choice", "normalise": "none", "score": "sigmoid", "capacity": Capacity(absolute=1)}
    threshold = {"router.threshold": torch.tensor([0.5, 0.8]).double()}
    outcome = route([[0.0, LN(3)], [LN(3), LN(9)]], parameters=threshold, **fields)
    assert outcome.choice.ids == [[-1, 0], [1, 0]]
    assert weights_of(outcome) == [[0.0, 0.5], [0.9, 0.75]]


# Drops.


LIKED = [[LN(5), LN(2)], [LN(6), LN(1)], [LN(4), LN(3)], [LN(1), LN(6)]]
"""Of 7: three tokens like expert 0 best, the second of them most, and the fourth likes expert 1 best."""

K, C = KEPT, CAPACITY


@pytest.mark.parametrize(
    ("drop_rule", "reasons"),
    [
        ("position", [[K, K], [K, K], [C, C], [C, C]]),
        # Expert 0: tokens 0, 1 of three first choices. Expert 1: token 3's first choice, then token 0's second.
        ("choice_position", [[K, K], [K, C], [C, C], [K, C]]),
        # Expert 0: 6, 5. Expert 1: 6, 3.
        ("score", [[K, C], [K, C], [C, K], [K, C]]),
        # Tokens in the order 1, 3, 0, 2. Expert 0: firsts of 1, 0. Expert 1: first of 3, second of 1.
        ("batch_prioritised", [[K, C], [K, K], [C, C], [K, C]]),
    ],
)
def test_drop_rules(drop_rule: str, reasons: list[list[int]]) -> None:
    outcome = route(LIKED, top_k=2, capacity=Capacity(absolute=2, drop_rule=drop_rule))
    assert outcome.choice.ids == [[0, 1], [0, 1], [0, 1], [1, 0]]
    assert outcome.choice.drop_reason == reasons


@pytest.mark.parametrize(("normalise", "weight"), [("before_drop", 5 / 7), ("after_drop", 1.0)])
def test_weights_are_normalised_before_or_after_the_drop(normalise: str, weight: float) -> None:
    capacity = Capacity(absolute=2, drop_rule="score", normalise=normalise)
    assert weights_of(route(LIKED, top_k=2, capacity=capacity))[0] == pytest.approx([weight, 0.0])


def test_padding_takes_no_capacity_but_counts_for_its_size() -> None:
    # C = ceil(0.5 * 4 * 1 / 2) = 1.
    capacity = Capacity(factor=0.5)
    outcome = route(LIKED, is_padding=[True, False, False, False], capacity=capacity)
    assert outcome.choice.drop_reason == [[PADDING], [K], [C], [K]]
    assert outcome.logits[0].tolist() == [0.0, 0.0]


def test_capacity_is_shared_by_the_batch_or_by_each_sequence() -> None:
    for per, reasons in (("batch", [[K], [C], [C], [K]]), ("sequence", [[K], [C], [K], [K]])):
        capacity = Capacity(absolute=1, per=per)
        assert route(LIKED, sequences=2, capacity=capacity).choice.drop_reason == reasons


def test_capacity_in_inference() -> None:
    router = RouterSpec(num_experts=4, top_k=2, capacity=Capacity(absolute=3, eval_factor=1.25)).to_dict()
    assert oracle_choice.capacity_size(router, 10, training=True) == 3
    assert oracle_choice.capacity_size(router, 10, training=False) == 7  # ceil(1.25 * 10 * 2 / 4) = ceil(6.25)


def test_zero_compute_experts_are_never_full() -> None:
    outcome = route([[0.0, 1.0]] * 2, num_zero_experts=1, capacity=Capacity(absolute=0))
    assert outcome.choice.ids == [[1], [1]]
    assert outcome.choice.drop_reason == [[K], [K]]


# What experts compute.


def compute(router_fields: dict[str, Any], experts: ExpertSpec, shared: SharedSpec | None = None) -> list[float]:
    """y of the token [2, -1], for two experts of hidden width 1 with weights 1/2 each, and a shared one."""
    router = RouterSpec(**{"num_experts": 2, "top_k": 2} | router_fields).to_dict()
    up_name = "gate_up_proj" if experts.gated else "up_proj"
    up = torch.tensor([[[1.0, 0.0], [0.0, 3.0]], [[0.0, 1.0], [1.0, 0.0]]])[:, : 2 if experts.gated else 1]
    parameters = {
        "router.weight": torch.zeros(2, 2),
        f"experts.{up_name}": up,
        f"experts.{up_name}_bias": torch.tensor([[0.5, 0.0], [0.0, 0.0]])[:, : up.shape[1]],
        "experts.down_proj": torch.tensor([[[1.0], [0.0]], [[0.0], [1.0]]]),
        "experts.down_proj_bias": torch.tensor([[0.0, 7.0], [0.0, 0.0]]),
        f"shared_expert.{up_name}": torch.tensor([[1.0, 1.0]]),
        "shared_expert.down_proj": torch.tensor([[10.0], [20.0]]),
        "shared_expert.output_gate": torch.tensor([[LN(3) / 2, 0.0]]),
    }
    double = {name: value.double() for name, value in parameters.items()}
    inputs = Inputs(x=torch.tensor([[[2.0, -1.0]]]).double())
    outcome = oracle.run_layer(router, asdict(experts), shared and asdict(shared), double, inputs)
    return outcome.y.flatten().tolist()


RELU = ExpertSpec(activation="relu")
PLAIN = ExpertSpec(activation="relu", gated=False)


@pytest.mark.parametrize(
    ("experts", "fields", "expected"),
    [
        # Expert 0: relu(2) * -3. Expert 1: relu(-1) * 2 = 0.
        (RELU, {}, [-3.0, 0.0]),
        (replace(RELU, up_offset=1.0), {}, [-2.0, 0.0]),
        (replace(RELU, clamp=1.5), {}, [-1.125, 0.0]),
        (PLAIN, {}, [1.0, 0.0]),
        (replace(PLAIN, bias=True), {}, [1.25, 3.5]),
        # Input 1/2 * x: relu(1 + 0.5) = 1.5, and 7 is not halved.
        (replace(PLAIN, bias=True), {"apply_to": "input"}, [1.5, 7.0]),
    ],
)
def test_experts(experts: ExpertSpec, fields: dict[str, Any], expected: list[float]) -> None:
    assert compute(fields, experts) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("shared", "expected"),
    [
        (SharedSpec(d_ff=1), [1.0 + 10.0, 20.0]),  # relu(2 - 1) = 1.
        (SharedSpec(d_ff=1, gated_output=True), [1.0 + 7.5, 15.0]),  # sigmoid(ln 3) = 3/4.
    ],
)
def test_shared_expert(shared: SharedSpec, expected: list[float]) -> None:
    assert compute({}, PLAIN, shared) == pytest.approx(expected)


def test_zero_compute_experts_return_their_input() -> None:
    assert compute({"num_experts": 1, "num_zero_experts": 1}, PLAIN) == pytest.approx([1.0 + 1.0, -0.5])


def test_interleaved_rows_alternate() -> None:
    gate, up = oracle.split_gate_up(torch.tensor([1.0, 2.0, 3.0, 4.0]), interleaved=True)
    assert (gate.tolist(), up.tolist()) == ([1.0, 3.0], [2.0, 4.0])
    gate, up = oracle.split_gate_up(torch.tensor([1.0, 2.0, 3.0, 4.0]), interleaved=False)
    assert (gate.tolist(), up.tolist()) == ([1.0, 2.0], [3.0, 4.0])


@pytest.mark.parametrize(
    ("fields", "at_one"),
    [
        ({"activation": "silu"}, 0.7310585786300049),
        ({"activation": "silu", "sigmoid_slope": 1.702}, 0.8457957659328212),
        ({"activation": "gelu"}, 0.8413447460685429),
        ({"activation": "gelu_tanh"}, 0.8411919906082768),
        ({"activation": "relu"}, 1.0),
    ],
)
def test_activations(fields: dict[str, Any], at_one: float) -> None:
    experts = asdict(ExpertSpec(**fields))
    values = oracle.activate(experts, torch.tensor([1.0, 0.0], dtype=torch.float64))
    assert values.tolist() == pytest.approx([at_one, 0.0], abs=1e-12)
