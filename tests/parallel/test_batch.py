"""A batch means the same on W ranks as on one: decisions to the bit, losses and all gradients to rounding."""

import pytest
import torch

import headgate
from compare import assert_close, assert_integers_equal
from headgate.balance import Balance
from headgate.errors import InputError
from headgate.flow import NO_EXPERT, TokenChoice
from headgate.parallel.batch import share_batch
from parallel.shared_batch import (
    D,
    E,
    F,
    Outcome,
    Problem,
    copy_a_sharing_layer,
    gather_odd_values,
    refuse_a_stranger,
    run_problem,
    run_whole,
)

LOSSES = Balance(switch=0.3, z=0.2, importance=0.1, sequence=0.4, global_batch=0.25)


def top_k(**options) -> headgate.RouterSpec:
    return headgate.RouterSpec(**{"num_experts": E, "top_k": 2, **options})


def tight(**options) -> headgate.Capacity:
    """Less room than there are choices, so that some are always dropped."""
    return headgate.Capacity(**{"factor": 0.7, **options})


def expert_choice(**options) -> headgate.RouterSpec:
    return headgate.preset("expert_choice", num_experts=E, top_k=2, **options)


ROUTERS = {
    "dropless": top_k(),
    "position": top_k(capacity=tight()),
    "choice_position": top_k(capacity=tight(drop_rule="choice_position")),
    "score": top_k(capacity=tight(drop_rule="score")),
    "batch_prioritised": top_k(capacity=tight(drop_rule="batch_prioritised")),
    "per_sequence": top_k(capacity=tight(per="sequence")),
    "absolute": top_k(capacity=headgate.Capacity(absolute=3)),
    "after_drop": top_k(capacity=tight(drop_rule="score", normalise="after_drop")),
    "after_drop_softmax": top_k(normalise="softmax", capacity=tight(normalise="after_drop")),
    "switch": headgate.preset("switch", num_experts=E, jitter=0.0, capacity=tight()),
    "groups": headgate.preset(
        "deepseek_v3",
        num_experts=E,
        top_k=2,
        group_limit=headgate.GroupLimit(num_groups=3, num_kept=2),
        capacity=tight(),
    ),
    "zero_experts": top_k(num_zero_experts=2, top_k=3, capacity=tight()),
    "top_p": headgate.preset("top_p", num_experts=E, top_k=3, capacity=tight(drop_rule="choice_position")),
    "threshold": headgate.preset("threshold", num_experts=E, top_k=3, capacity=tight()),
    "sinkhorn": headgate.preset("sinkhorn", num_experts=E, top_k=2, causal_inference=False),
    "expert_choice": expert_choice(capacity=headgate.Capacity(factor=1.0), causal_inference=False),
    "expert_choice_per_sequence": expert_choice(capacity=headgate.Capacity(factor=1.0, per="sequence")),
}
LOOK_AT_ALL = ["position", "score", "sinkhorn", "expert_choice"]


def balance_for(router: headgate.RouterSpec) -> Balance:
    return Balance(z=0.2, importance=0.1) if router.selection == "expert_choice" else LOSSES


def assert_same_decisions(ranks: list[Outcome], whole: Outcome) -> None:
    expected, parts = whole.routing.choice, [outcome.routing.choice for outcome in ranks]
    if isinstance(expected, TokenChoice):
        assert_integers_equal("expert_ids", torch.cat([part.expert_ids for part in parts]), expected.expert_ids)
        drops = torch.cat([outcome.routing.plan.drop_reason for outcome in ranks])
        assert_integers_equal("drop_reason", drops, whole.routing.plan.drop_reason)
        weights, wanted = torch.cat([part.combine_weights for part in parts]), expected.combine_weights
    else:
        sizes = [len(outcome.routing.scores) for outcome in ranks]
        tables = [_weight_table(part, size) for part, size in zip(parts, sizes, strict=True)]
        weights, wanted = torch.cat(tables), _weight_table(expected, sum(sizes))
        assert_integers_equal("taken tokens", weights != 0, wanted != 0)
    assert_close("combine_weights", weights, wanted, dtype=torch.float64, terms=D)


def _weight_table(choice: headgate.ExpertChoice, num_tokens: int) -> torch.Tensor:
    """[T, E] the weight with which each expert took each token; 0 = it didn't."""
    table = torch.zeros(num_tokens + 1, E, dtype=torch.float64)
    tokens = choice.token_ids.where(choice.token_ids != NO_EXPERT, num_tokens)
    table.scatter_(0, tokens.t(), choice.combine_weights.t())
    return table[:num_tokens]


def assert_same_sums(ranks: list[Outcome], whole: Outcome, num_tokens: int) -> None:
    y = torch.cat([outcome.y for outcome in ranks])
    assert_close("y", y, whole.y, dtype=torch.float64, terms=F)
    for outcome in ranks:
        assert list(outcome.routing.losses) == list(whole.routing.losses)
        for name, value in whole.routing.losses.items():
            assert_close(name, outcome.routing.losses[name], value, dtype=torch.float64, terms=num_tokens)
        for name, gradient in whole.gradients.items():
            got = outcome.gradients[name]
            # The balance losses cancel in part; the task's gradient, a sum over the tokens, is what they add to.
            assert_close(name, got, gradient, dtype=got.dtype, terms=num_tokens * D, scale=1.0)


def check(ranks, problem: Problem) -> None:
    begun = ranks.begin(len(problem.num_sequences), run_problem, problem)
    whole = run_whole(problem)
    outcomes = begun()
    assert_same_decisions(outcomes, whole)
    assert_same_sums(outcomes, whole, problem.num_tokens)


@pytest.mark.parametrize("name", list(ROUTERS))
def test_ranks_with_more_and_fewer_tokens_and_padding_of_their_own_equal_one(ranks, name):
    router = ROUTERS[name]
    check(
        ranks,
        Problem(router=router, balance=balance_for(router), num_sequences=(1, 3, 2), num_padded=(2, None, 0)),
    )


@pytest.mark.parametrize("name", list(ROUTERS))
def test_a_rank_without_tokens_and_a_batch_without_padding(ranks, name):
    router = ROUTERS[name]
    check(
        ranks,
        Problem(router=router, balance=balance_for(router), num_sequences=(0, 3), num_padded=(None, None)),
    )


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", LOOK_AT_ALL)
def test_four_ranks_in_training_and_outside(ranks, name, training):
    router = ROUTERS[name]
    problem = Problem(
        router=router,
        balance=balance_for(router),
        num_sequences=(3, 0, 1, 2),
        num_padded=(None, 1, None, 3),
        training=training,
    )
    check(ranks, problem)


@pytest.mark.parametrize("name", LOOK_AT_ALL)
def test_no_rank_with_a_token(ranks, name):
    router = ROUTERS[name]
    check(
        ranks,
        Problem(router=router, balance=balance_for(router), num_sequences=(0, 0), num_padded=(None, 0)),
    )


@pytest.mark.parametrize("name", list(ROUTERS))
def test_experts_spread_over_the_ranks(ranks, name):
    router = ROUTERS[name]
    problem = Problem(
        router=router,
        balance=balance_for(router),
        num_sequences=(2, 0, 3),
        num_padded=(1, None, None),
        spreads_experts=True,
    )
    check(ranks, problem)


@pytest.mark.parametrize("spreads_experts", [True, False])
def test_gradients_that_are_added(ranks, spreads_experts):
    problem = Problem(
        router=ROUTERS["score"],
        balance=LOSSES,
        num_sequences=(1, 2),
        num_padded=(None, 1),
        average_gradients=False,
        spreads_experts=spreads_experts,
    )
    check(ranks, problem)


def test_capacity_drops_some_and_not_all():
    problem = Problem(router=ROUTERS["score"], balance=LOSSES, num_sequences=(6,), num_padded=(None,))
    dropped = run_whole(problem).routing.plan.drop_reason == headgate.DropReason.CAPACITY
    assert 0 < dropped.sum() < dropped.numel()


def test_the_comparison_sees_a_batch_that_is_not_shared(ranks):
    problem = Problem(router=ROUTERS["score"], balance=LOSSES, num_sequences=(2, 2), num_padded=(None, None))
    alone = [
        run_whole(Problem(router=problem.router, balance=LOSSES, num_sequences=(2,), num_padded=(None,)))
        for _ in range(2)
    ]
    with pytest.raises(AssertionError):
        assert_same_decisions(alone, run_whole(problem))


class Silent:
    """Peers that a decision must not ask."""

    def gather(self, *values):
        raise AssertionError("a token's own decision asked the other ranks")

    def add(self, sums):
        raise AssertionError("a sum over tokens was asked for where there is no loss")


@pytest.mark.parametrize("name", ["dropless", "per_sequence", "expert_choice_per_sequence"])
def test_what_a_token_decides_alone_asks_no_other_rank(name):
    layer = headgate.MoE(D, F, router=ROUTERS[name])
    layer.router.peers = Silent()
    assert layer.eval()(torch.randn(2, 5, D)).isfinite().all()


def test_expert_choice_asks_no_other_rank_where_it_decides_by_its_threshold():
    layer = headgate.MoE(D, F, router=expert_choice(capacity=headgate.Capacity(factor=1.0)))
    layer.router.peers = Silent()
    assert layer.eval()(torch.randn(2, 5, D)).isfinite().all()
    with pytest.raises(AssertionError, match="asked the other ranks"):
        layer.train()(torch.randn(2, 5, D))


def test_a_copied_layer_shares_its_batch_with_the_same_ranks(ranks):
    assert ranks.run(2, copy_a_sharing_layer) == [True, True]


def test_values_of_several_dtypes_travel_together_in_rank_order(ranks):
    for flags, doubles in ranks.run(3, gather_odd_values):
        assert flags.tolist() == [True, True, False]
        assert doubles.tolist() == [[0.0, 1.0]] * 3


def test_errors_say_what_to_do(ranks):
    with pytest.raises(InputError, match=r"model \(=Linear\) holds no routed layer; put a headgate\.MoE in it"):
        share_batch(torch.nn.Linear(2, 2))
    with pytest.raises(InputError, match=r"torch\.distributed is not initialised; start with torchrun"):
        share_batch(headgate.MoE(D, F, num_experts=E))
    assert ranks.run(2, refuse_a_stranger) == [
        "",
        "rank (=1) is not in the group; pass the group that it shares a batch in",
    ]
