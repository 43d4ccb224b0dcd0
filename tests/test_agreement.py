"""The tools that hold the library against the oracle, each on something that it must reject."""

from __future__ import annotations

import ast
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import adversarial
import agreement
import oracle
import oracle_choice
from agreement import Case, check_case, settle
from compare import assert_close, assert_integers_equal
from headgate import Capacity, GroupLimit, RouterSpec
from oracle import Outcome
from oracle_choice import Inputs
from selection_gap import selection_gap


def test_the_oracle_imports_nothing_of_the_library() -> None:
    for module in (oracle, oracle_choice):
        imported = set()
        for node in ast.walk(ast.parse(Path(module.__file__).read_text())):
            if isinstance(node, ast.Import):
                imported |= {alias.name.split(".")[0] for alias in node.names}
            if isinstance(node, ast.ImportFrom):
                imported.add((node.module or "").split(".")[0])
        assert imported <= {"__future__", "math", "collections", "dataclasses", "typing", "torch", "oracle_choice"}


@pytest.mark.parametrize("pattern", adversarial.PATTERNS)
@pytest.mark.parametrize("sizes", [(0, 1), (1, 1), (13, 17)])
def test_tokens_give_exactly_the_logits_that_were_asked_for(pattern: str, sizes: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = adversarial.PATTERNS[pattern](*sizes, generator)
    assert logits.shape == sizes
    weight = adversarial.make_router_weight(sizes[1], 20, generator)
    x = adversarial.make_tokens(logits, weight, generator)
    assert torch.equal(x.float() @ weight.float().T, logits.float())
    assert torch.equal(logits.float().double(), logits)


def test_integers_that_differ_are_rejected() -> None:
    assert_integers_equal("ids", torch.tensor([1, 2]), torch.tensor([1, 2]))
    with pytest.raises(AssertionError, match=r"ids: 1 of 2 differ, the first at \[1\]: 2, expected 3"):
        assert_integers_equal("ids", torch.tensor([1, 2]), torch.tensor([1, 3]))
    with pytest.raises(AssertionError, match=r"ids: shape \[2\], expected \[1, 2\]"):
        assert_integers_equal("ids", torch.tensor([1, 2]), torch.tensor([[1, 2]]))
    with pytest.raises(AssertionError, match="not integers"):
        assert_integers_equal("ids", torch.tensor([1.0]), torch.tensor([1]))


def test_floats_beyond_the_bound_are_rejected() -> None:
    want = torch.ones(100, dtype=torch.float64)
    eps = torch.finfo(torch.float32).eps
    near, far = want * (1 + 7 * eps), want * (1 + 9 * eps)
    assert_close("y", near, want, dtype=torch.float32, terms=1)
    assert_close("y", far, want, dtype=torch.float32, terms=2)
    with pytest.raises(AssertionError, match=r"y: RMS error 1.07e-06 of 1.00e\+00.*allowed 9.54e-07"):
        assert_close("y", far, want, dtype=torch.float32, terms=1)
    with pytest.raises(AssertionError, match="y: RMS error"):
        assert_close("y", near, want, dtype=torch.float64, terms=1)
    single = want.clone()
    single[3] += 20 * eps
    with pytest.raises(AssertionError, match=r"maximum 2.38e-06 of 1.00e\+00 \(entry 3: "):
        assert_close("y", single, want, dtype=torch.float32, terms=1)


def test_terms_that_cancel_are_compared_at_their_own_size() -> None:
    want, got = torch.zeros(4), torch.full((4,), 1e-8)
    assert_close("gradient", got, want, dtype=torch.float32, terms=1, scale=1.0)
    with pytest.raises(AssertionError, match="gradient: RMS error"):
        assert_close("gradient", got, want, dtype=torch.float32, terms=1)


@pytest.mark.parametrize(
    ("got", "want"),
    [
        ([1.0, math.nan], [1.0, 2.0]),
        ([1.0, 2.0], [1.0, math.nan]),
        ([1.0, math.inf], [1.0, math.nan]),
        ([1.0, math.inf], [1.0, -math.inf]),
        ([1.0], [1.0, 1.0]),
    ],
)
def test_what_is_not_finite_must_be_so_in_the_same_places(got: list[float], want: list[float]) -> None:
    with pytest.raises(AssertionError, match=r"^y: "):
        assert_close("y", torch.tensor(got), torch.tensor(want), dtype=torch.float32, terms=1)


def test_equal_nan_and_infinities_are_accepted() -> None:
    same = torch.tensor([1.0, math.nan, math.inf, -math.inf])
    assert_close("y", same, same.clone(), dtype=torch.float32, terms=1)
    assert_close("y", same[:0], same[:0], dtype=torch.float32, terms=1)


def gap_of(logits: list[list[float]], training: bool = False, **fields: Any) -> float:
    width = len(logits[0])
    router = RouterSpec(**{"num_experts": width, "top_k": 1} | fields).to_dict()
    parameters = {"router.weight": torch.eye(width).double()}
    x = torch.tensor([logits], dtype=torch.float64)
    return selection_gap(router, parameters, Inputs(x=x, training=training))


def test_a_near_tie_has_a_small_gap_and_a_true_tie_none() -> None:
    assert gap_of([[0.0, 1e-6]]) == pytest.approx(1e-6, rel=1e-3)
    assert gap_of([[1.0, 1.0]]) == math.inf
    assert gap_of([[1.0, 0.0, 0.0 + 1e-9]]) > 0.5, "which of the others is better decides nothing"
    assert gap_of([[40.0, 41.0]], score="sigmoid", normalise="none") == 0.0, "both scores are 1, unlike their logits"


def test_gaps_of_other_decisions() -> None:
    assert gap_of([[0.0, 1.0]], top_k=2, score="sigmoid", selection="threshold", threshold=0.5 + 1e-7) < 1e-6
    assert gap_of([[0.0, 0.0]], top_k=2, selection="top_p", top_p=0.5 + 1e-7) < 1e-6
    assert gap_of([[1.0, 0.98]], selection="sparsemixer", normalise="none") < 1e-6
    by_score = Capacity(absolute=1, drop_rule="score")
    assert gap_of([[1.0, 0.0], [1.0 + 1e-7, 0.0]], capacity=by_score) < 1e-6
    assert gap_of([[1.0, 0.0], [1.0, 0.0]], capacity=by_score) > 0.1
    by_token = Capacity(absolute=1, drop_rule="batch_prioritised")
    assert gap_of([[1.0, 0.0], [1.0 + 1e-7, 0.0]], capacity=by_token) < 1e-6
    chosen = {"selection": "expert_choice", "normalise": "none", "capacity": Capacity(absolute=1)}
    assert gap_of([[1.0, 0.0], [1.0 + 1e-7, 0.0]], training=True, **chosen) < 1e-6
    assert gap_of([[1.0, 0.0]], training=True, selection="sinkhorn", score="sigmoid") < 1e-6, "one token: equal shares"
    limit = GroupLimit(num_groups=2, num_kept=1, group_score="max")
    assert gap_of([[1.0, 0.0, 0.0, 1.0 + 1e-7]], group_limit=limit) < 1e-6


BIASED = RouterSpec(num_experts=4, top_k=2, score="sigmoid", selection_bias=True, capacity=Capacity(absolute=2))
CASE = Case(router=BIASED)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"top_k": 1}, "ids: shape"),
        ({"selection_bias": False}, "ids: "),
        ({"capacity": None}, "drop reasons: "),
        ({"normalise": "none"}, "combine weights: "),
        ({"scale": 1.00001}, "combine weights: "),
        ({"apply_to": "input"}, "y: "),
        ({"score": "softmax"}, "scores: |ids: "),
    ],
)
def test_a_layer_that_follows_another_spec_is_caught(
    changes: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_case(CASE, torch.float32)
    run_oracle, other = agreement.run_oracle, replace(CASE.router, **changes)
    monkeypatch.setattr(agreement, "run_oracle", lambda case: run_oracle(replace(case, router=other)))
    with pytest.raises(AssertionError, match=f"^({message})"):
        check_case(CASE, torch.float32)


@pytest.mark.parametrize("name", ["x", "router.weight", "experts.gate_up_proj", "experts.down_proj"])
def test_a_wrong_gradient_is_caught(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    run_oracle = agreement.run_oracle

    def run_wrongly(case: Case) -> tuple[Outcome, agreement.Run]:
        outcome, run = run_oracle(case)
        return outcome, replace(run, gradients=run.gradients | {name: run.gradients[name] * (1 + 1e-9)})

    monkeypatch.setattr(agreement, "run_oracle", run_wrongly)
    check_case(CASE, torch.float32)
    with pytest.raises(AssertionError, match=f"^gradient of {name}: RMS error"):
        check_case(CASE, torch.float64)


def test_a_case_that_rounding_decides_is_refused() -> None:
    router = RouterSpec(num_experts=3, top_k=1, selection="sinkhorn", score="sigmoid")
    with pytest.raises(AssertionError, match="every draw of this case hangs on rounding"):
        settle(Case(router=router, leading=(1,), training=True))
