import warnings

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from headgate.errors import BackendError, InputError, NativeMissingWarning
from headgate.kernels import native, plan
from headgate.kernels.native import NativeLibrary

IMPLEMENTATIONS = [
    pytest.param(plan.sort_slots, id="chosen"),
    pytest.param(plan.sort_slots_torch, id="torch"),
    pytest.param(
        plan.sort_slots_native,
        id="native",
        marks=pytest.mark.skipif(native.library() is None, reason=f"native library: {native.why_missing()}"),
    ),
]
every_implementation = pytest.mark.parametrize("sort_slots", IMPLEMENTATIONS)

ID_LIMITS = torch.iinfo(torch.int64)


def sort_slots_loop(bucket_ids: list[int], num_buckets: int) -> tuple[list[int], list[int]]:
    """The definition, one bucket at a time."""
    order, offsets = [], [0]
    for bucket in range(num_buckets):
        order += [slot for slot, chosen in enumerate(bucket_ids) if chosen == bucket]
        offsets.append(len(order))
    return order + [slot for slot, b in enumerate(bucket_ids) if not 0 <= b < num_buckets], offsets


def assert_sorts(sort_slots, bucket_ids: torch.Tensor, num_buckets: int) -> None:
    order, offsets = sort_slots(bucket_ids, num_buckets)
    assert order.dtype == offsets.dtype == torch.int64
    assert order.is_contiguous()
    expected_order, expected_offsets = sort_slots_loop(bucket_ids.tolist(), num_buckets)
    assert order.tolist() == expected_order
    assert offsets.tolist() == expected_offsets


@every_implementation
@given(
    num_buckets=st.integers(1, 9),
    ids=st.lists(st.integers(-2, 10) | st.integers(ID_LIMITS.min, ID_LIMITS.max), max_size=60),
)
def test_equals_the_loop(sort_slots, num_buckets, ids):
    assert_sorts(sort_slots, torch.tensor(ids, dtype=torch.int64), num_buckets)


@every_implementation
@pytest.mark.parametrize("num_slots", [0, 1, 2, 7, 64, 1009])
@pytest.mark.parametrize("num_buckets", [1, 2, 13, 128])
def test_equals_the_loop_on_random_ids(sort_slots, num_slots, num_buckets):
    generator = torch.Generator().manual_seed(num_slots)
    assert_sorts(sort_slots, torch.randint(-1, num_buckets, (num_slots,), generator=generator), num_buckets)


@every_implementation
def test_no_slots(sort_slots):
    order, offsets = sort_slots(torch.empty(0, dtype=torch.int64), 3)
    assert order.shape == (0,)
    assert offsets.tolist() == [0, 0, 0, 0]


@every_implementation
def test_no_buckets(sort_slots):
    assert_sorts(sort_slots, torch.tensor([0, -1, 2]), 0)


@every_implementation
def test_no_slot_has_a_bucket(sort_slots):
    order, offsets = sort_slots(torch.tensor([-1, 5, ID_LIMITS.min, ID_LIMITS.max]), 5)
    assert order.tolist() == [0, 1, 2, 3]
    assert offsets.tolist() == [0] * 6


@every_implementation
def test_every_slot_in_one_bucket(sort_slots):
    order, offsets = sort_slots(torch.full((31,), 2), 4)
    assert order.tolist() == list(range(31))
    assert offsets.tolist() == [0, 0, 0, 31, 31]


@every_implementation
def test_strided_ids(sort_slots):
    ids = torch.arange(60).remainder(7).view(20, 3)
    for strided in (ids[:, 1], ids.flatten()[::4], ids[:, :1].expand(20, 3)[0]):
        assert not strided.is_contiguous() or strided.numel() == 1
        assert_sorts(sort_slots, strided, 5)


# 2**15 - 1 is the last number of buckets whose "no bucket" key fits int16.
@every_implementation
@pytest.mark.parametrize("num_buckets", [2**15 - 2, 2**15 - 1, 2**15, 2**15 + 1])
def test_many_buckets(sort_slots, num_buckets):
    ids = torch.tensor([num_buckets, num_buckets - 1, 0, -1, num_buckets - 1, 1])
    order, offsets = sort_slots(ids, num_buckets)
    assert order.tolist() == [2, 5, 1, 4, 0, 3]
    assert offsets[-3:].tolist() == [2, 2, 4]
    assert offsets[:3].tolist() == [0, 1, 2]


@pytest.mark.skipif(native.library() is None, reason=f"native library: {native.why_missing()}")
def test_the_backends_agree_on_many_slots():
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(-3, 259, (300_007,), generator=generator)
    for ours, theirs in zip(plan.sort_slots_native(ids, 256), plan.sort_slots_torch(ids, 256), strict=True):
        assert torch.equal(ours, theirs)


@every_implementation
def test_the_ids_are_not_touched(sort_slots):
    ids = torch.tensor([3, -1, 0, 9])
    sort_slots(ids, 3)
    assert ids.tolist() == [3, -1, 0, 9]


@every_implementation
@pytest.mark.parametrize(
    ("ids", "seen"),
    [
        (torch.zeros(2, 3, dtype=torch.int64), "torch.int64 of shape [2, 3]"),
        (torch.zeros(4, dtype=torch.int32), "torch.int32 of shape [4]"),
    ],
)
def test_other_ids_are_refused(sort_slots, ids, seen):
    with pytest.raises(InputError) as caught:
        sort_slots(ids, 3)
    assert str(caught.value) == (
        f"bucket_ids (={seen}) must be one-dimensional int64; pass `expert_ids.flatten().long()`"
    )


@every_implementation
def test_a_negative_number_of_buckets_is_refused(sort_slots):
    with pytest.raises(InputError) as caught:
        sort_slots(torch.zeros(2, dtype=torch.int64), -1)
    assert str(caught.value) == "num_buckets (=-1) must not be negative; pass the number of experts"


def test_the_native_sort_is_for_the_cpu():
    with pytest.raises(InputError) as caught:
        plan.sort_slots_native(torch.empty(3, dtype=torch.int64, device="meta"), 2)
    assert str(caught.value) == (
        "bucket_ids.device (=meta) must be the CPU for the native plan; call `sort_slots`, which chooses by device"
    )


@pytest.mark.parametrize("num_slots", [0, 1, 17])
@pytest.mark.parametrize("has_library", [True, False])
def test_opcheck(num_slots, has_library, monkeypatch):
    if not has_library:
        monkeypatch.setattr(native, "native_library", lambda: NativeLibrary(why_missing="a test hides it"))
    ids = torch.arange(num_slots) % 5 - 1
    torch.library.opcheck(torch.ops.headgate.sort_slots, (ids, 3))
    torch.library.opcheck(torch.ops.headgate.sort_slots, (ids.repeat(2)[::2], 3))


def test_the_fake_has_the_shapes_of_the_result():
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        order, offsets = plan.sort_slots(torch.empty(11, 2, dtype=torch.int64)[:, 0], 4)
    assert (order.shape, order.dtype, order.stride()) == ((11,), torch.int64, (1,))
    assert (offsets.shape, offsets.dtype) == ((5,), torch.int64)


def test_compiles_into_one_graph():
    def count_rows(ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        order, offsets = plan.sort_slots(ids.flatten() - 1, 6)
        return order + 1, offsets.diff()

    torch._dynamo.reset()
    compiled = torch.compile(count_rows, fullgraph=True, backend="aot_eager", dynamic=True)
    for num_tokens in (3, 8, 21):
        ids = torch.arange(num_tokens * 2).remainder(8).view(num_tokens, 2)
        for ours, theirs in zip(compiled(ids), count_rows(ids), strict=True):
            assert torch.equal(ours, theirs)


@pytest.fixture
def _no_library(monkeypatch):
    """Hide the library, and let this process not have warned yet."""
    monkeypatch.setattr(native, "native_library", lambda: NativeLibrary(why_missing="a test hides it"))
    plan._warn_native_missing.cache_clear()
    yield
    plan._warn_native_missing.cache_clear()


@pytest.mark.usefixtures("_no_library")
def test_without_the_library_it_says_so_once_and_sorts_all_the_same():
    ids = torch.tensor([1, 0, -1, 1])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(3):
            order, offsets = plan.sort_slots(ids, 2)
            assert (order.tolist(), offsets.tolist()) == ([1, 0, 3, 2], [0, 1, 3])
    assert [warning.category for warning in caught] == [NativeMissingWarning]
    assert str(caught[0].message) == (
        "a test hides it. The plan is sorted with PyTorch operations instead: same result, slower. "
        f"To get the library, {native.HOW_TO_GET}."
    )


@pytest.mark.usefixtures("_no_library")
def test_without_the_library_asking_for_it_by_name_is_an_error():
    with pytest.raises(BackendError) as caught:
        plan.sort_slots_native(torch.tensor([0]), 1)
    assert str(caught.value) == (f"the native plan is not available: a test hides it; to get it, {native.HOW_TO_GET}")


def test_memory_that_runs_out_is_an_error(monkeypatch):
    class FullLibrary:
        @staticmethod
        def headgate_sort_slots(*_):
            return 1

    monkeypatch.setattr(native, "native_library", lambda: NativeLibrary(library=FullLibrary()))
    with pytest.raises(MemoryError, match=r"no memory to count the slots of 2 buckets \(status 1\)"):
        plan.sort_slots_native(torch.tensor([0]), 2)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_a_gpu_without_waiting_for_it():
    ids = torch.tensor([3, -1, 0, 3, 7], device="cuda")
    plan.sort_slots(ids, 4)
    torch.cuda.set_sync_debug_mode("error")
    try:
        order, offsets = plan.sort_slots(ids, 4)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert order.tolist() == [2, 0, 3, 1, 4]
    assert offsets.tolist() == [0, 1, 1, 1, 3]
