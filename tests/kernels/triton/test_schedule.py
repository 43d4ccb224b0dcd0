import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("triton", reason="no Triton: pip install 'headgate[gpu]'")

from headgate.kernels.triton import schedule
from headgate.kernels.triton.schedule import ACTIVATION_GRADIENT, ONE_TOKEN, PRODUCT, UP, WEIGHT_GRADIENT
from headgate.kernels.triton.tiles import most_tiles

SCHEDULES = {"up": UP, "product": PRODUCT, "activation": ACTIVATION_GRADIENT, "weight": WEIGHT_GRADIENT}


@settings(deadline=None)
@given(st.lists(st.integers(0, 50), min_size=1, max_size=12), st.sampled_from([1, 4, 16]))
def test_no_rows_fill_more_tiles_than_there_are_programs(counts: list[int], block_m: int) -> None:
    tiles = sum(-(-count // block_m) for count in counts)
    assert tiles <= most_tiles(sum(counts), len(counts), block_m)


@pytest.mark.parametrize("block_m", [1, 4, 16])
def test_some_rows_fill_that_many(block_m: int) -> None:
    # The bound is met by one row beyond full tiles for each expert.
    assert most_tiles(3 * (2 * block_m + 1), 3, block_m) == 9


@pytest.mark.parametrize("precision", ["half", "ieee", "tf32", "widen"])
@pytest.mark.parametrize("bucket", ["few", "some", "many"])
@pytest.mark.parametrize("name", SCHEDULES)
def test_what_is_left_fits_into_shared_memory(name: str, bucket: str, precision: str) -> None:
    table = SCHEDULES[name]
    left = table.prune((), (), BUCKET=bucket, PRECISION=precision)
    assert left
    item_bytes = 2 if precision == "half" else 4
    assert all(table.shared_bytes(config, item_bytes) <= schedule.SHARED_MEMORY_BYTES for config in left)


def test_a_single_token_has_few_rows_per_expert() -> None:
    assert ONE_TOKEN.few
    assert schedule.bucket_of(8, 1) == schedule.bucket_of(16, 512) == "few"


def test_a_configuration_that_does_not_fit_is_left_out() -> None:
    half, full = (UP.prune((), (), BUCKET="many", PRECISION=precision) for precision in ("half", "ieee"))
    assert UP.many[0] in half
    assert UP.many[0] not in full


def test_where_none_fits_the_least_is_taken() -> None:
    huge = schedule._config(256, 256, 256, warps=8, stages=4)
    larger = schedule._config(256, 256, 256, warps=8, stages=5)
    table = schedule.Schedule(few=(larger, huge), some=(), many=())
    assert table.prune((), (), BUCKET="few", PRECISION="half") == [huge]


@pytest.mark.parametrize("bucket", ["few", "some", "many"])
def test_the_parts_of_a_rows_weight_are_as_many_whatever_is_tuned(bucket: str) -> None:
    assert len({config.kwargs["BLOCK_N"] for config in getattr(ACTIVATION_GRADIENT, bucket)}) == 1


@pytest.mark.parametrize("name", SCHEDULES)
def test_no_configuration_is_there_twice(name: str) -> None:
    table = SCHEDULES[name]
    for bucket in (table.few, table.some, table.many):
        assert all(str(a) != str(b) for a, b in itertools.combinations(bucket, 2))


def test_tf32_only_where_pytorch_uses_it() -> None:
    before = torch.backends.cuda.matmul.allow_tf32
    found = []
    try:
        for is_allowed in (False, True):
            torch.backends.cuda.matmul.allow_tf32 = is_allowed
            found.append(schedule.precision_of(torch.float32))
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before
    assert found == ["ieee", "tf32"]


def test_sums_are_in_parts_until_every_processor_has_one() -> None:
    assert schedule.count_splits(1, 10**6, 128, 132) == 256
    assert schedule.count_splits(66, 2048, 128, 132) == 2
    assert schedule.count_splits(132, 2048, 128, 132) == 1
    assert schedule.count_splits(1, 512, 128, 132) == 1  # four steps are what a part has at least
