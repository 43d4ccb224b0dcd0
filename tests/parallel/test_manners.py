"""Sharded experts go with recomputation, accumulation, autocast, compilation, FSDP2, meta models and taps."""

import pytest
import torch

import headgate
from compare import assert_close
from parallel import manners
from parallel.layers import Case, D, F

CASE = Case((6, 0, 5), slots=((0, 1, -1), (3, 4, 0), (0, 5, 2)), dtype=torch.float32)
DEEPSEEK = Case((5, 3, 4), router="deepseek_v3", num_experts=16, dtype=torch.float32)


def assert_same_bits(found, expected):
    assert found.keys() == expected.keys()
    for name, value in found.items():
        assert torch.equal(value, expected[name]), name


@pytest.fixture(scope="module")
def one_step(ranks):
    return ranks.run(3, manners.run_once, CASE)


def test_every_run_has_the_same_bits(ranks, one_step):
    for found, expected in zip(ranks.run(3, manners.run_once, CASE), one_step, strict=True):
        assert_same_bits(found, expected)


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_recomputed_activations_change_no_bit(ranks, one_step, use_reentrant):
    for found, expected in zip(ranks.run(3, manners.recompute, CASE, use_reentrant), one_step, strict=True):
        assert_same_bits(found, expected)


def test_gradients_accumulate(ranks, one_step):
    for found, expected in zip(ranks.run(3, manners.accumulate, CASE, 3), one_step, strict=True):
        for name, value in found.items():
            assert_close(name, value, expected[name], dtype=CASE.dtype, terms=sum(CASE.tokens) * D, scale=0.1)


def test_rows_travel_in_the_dtype_of_autocast(ranks):
    whole = CASE.make_layer()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        expected = whole(CASE.make_tokens())
    found = ranks.run(3, manners.cast_automatically, CASE)
    assert [row_bytes for _, row_bytes in found] == [2 * D] * 3
    y = torch.cat([y for y, _ in found])
    assert_close("y", y, expected, dtype=torch.bfloat16, terms=2 * CASE.num_experts * D)


def test_the_rest_of_a_model_compiles(ranks):
    for expected, found, num_graphs in ranks.run(2, manners.compile_around, Case((4, 3), dtype=torch.float32)):
        assert_close("y", found, expected, dtype=torch.float32, terms=D)
        # What comes before the exchange, router and plan included, and what comes after it.
        assert num_graphs == 2


def test_the_shared_expert_runs_while_tokens_travel(ranks):
    for forward, backward in ranks.run(3, manners.order_of_events, DEEPSEEK):
        rows = f"torch.float32 x {D}"
        assert forward[:4] == [f"begin {rows}", "begin torch.int32 x 2", "begin torch.float32", "shared expert"]
        assert forward[4:] == [
            f"wait {rows}",
            "wait torch.int32 x 2",
            "wait torch.float32",
            f"begin {rows}",
            f"wait {rows}",
        ]
        # The other way round: partial sums' gradients, then tokens' gradients, beside which the shared expert's are.
        at = backward.index("shared expert")
        begun = [i for i, event in enumerate(backward) if event == f"begin {rows}"]
        waited = [i for i, event in enumerate(backward) if event == f"wait {rows}"]
        assert begun[1] < at < waited[1]


# A zero-compute expert of LongCat, id 16 or above, stays with its token: nothing is sent for it.
@pytest.mark.parametrize(("router", "top_k"), [("mixtral", 2), ("mixtral", 8), ("longcat_flash", 8)])
def test_bytes_are_those_of_distinct_pairs(ranks, router, top_k):
    case = Case((30, 0, 21, 8), router=router, num_experts=16, options={"top_k": top_k}, dtype=torch.bfloat16)
    answers = ranks.run(4, manners.count_bytes, case)
    returned = [[0] * 4 for _ in range(4)]
    for rank, (traffic, expert_ids, seen) in enumerate(answers):
        owners = expert_ids // 4
        pairs = [int((owners == other).any(1).sum()) if other != rank else 0 for other in range(4)]
        choices = [int((owners == other).sum()) if other != rank else 0 for other in range(4)]
        assert list(traffic.rows_sent) == pairs
        assert list(traffic.choices_sent) == choices
        for other in range(4):
            returned[other][rank] = pairs[other]
        assert traffic.rows_bytes == sum(pairs) * D * 2
        assert traffic.copies_bytes == sum(choices) * D * 2
        assert seen[f"torch.bfloat16 x {D}"] == sum(traffic.bytes_sent)
        others = sum(size for kind, size in seen.items() if kind != f"torch.bfloat16 x {D}")
        assert others == traffic.message_bytes
    assert [list(traffic.rows_returned) for traffic, _, _ in answers] == returned


def test_a_model_that_never_was_whole_starts_as_one_that_was(ranks):
    case = Case((1, 1, 1), router="gpt_oss", slots=((0, 1, -1), (3, 4, 0), (0, 5, 2)), dtype=torch.float32)
    expected = manners.draw_whole(case)
    for found, held in zip(ranks.run(3, manners.build_on_meta, case), case.slots, strict=True):
        experts = [expert for expert in held if expert >= 0]
        assert_same_bits(
            found, {name: v[experts] if name.startswith("experts.") else v for name, v in expected.items()}
        )


@pytest.mark.parametrize("slots", [None, ((0, 1, -1, 2), (3, 0, 4, -1))], ids=["dealt", "unequal with replicas"])
def test_fsdp_on_a_mesh_of_two_dimensions_trains_as_one_process(ranks, slots):
    case = Case((4, 4, 4, 4), num_experts=5, slots=slots)
    for mine, whole, message in ranks.run(4, manners.train_two_ways, case):
        # Of four steps, each a sum over the tokens of a sum over 2F.
        assert_close("loss", mine, whole, dtype=case.dtype, terms=4 * sum(case.tokens) * 2 * F)
        assert message.startswith(
            "1.experts.gate_up_proj (=(_StridedShard(dim=0, sf=2), Shard(dim=0))) must be sharded"
        )


def test_each_rank_records_its_own_tokens_and_replays_them(ranks):
    case = Case((5, 3), dtype=torch.float32)
    whole = case.make_layer()
    with headgate.tap(whole) as tape:
        whole(case.make_tokens())
    answers = ranks.run(2, manners.record_and_replay, case)
    assert [ids for recorded, _, _ in answers for ids in recorded] == tape[""][0].choice.expert_ids.tolist()
    for _, y, again in answers:
        # A replay computes weights and plan anew, from choices in another type.
        assert_close("y", again, y, dtype=torch.float32, terms=D)


def test_batch_invariance_is_kept_or_refused(ranks):
    case = Case((7, 7), dtype=torch.float32, batch_invariant=True)
    for alone, together, message in ranks.run(2, manners.run_alone_and_together, case):
        assert torch.equal(alone, together)
        assert message.startswith("batch_invariant (=True) can't be kept with replicas of experts")
