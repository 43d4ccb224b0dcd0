"""The probes do what they are timed for. How fast that is, no test can know."""

import pytest
import torch

from headgate.errors import BackendError, InputError
from headgate.kernels import native, probe

needs_library = pytest.mark.skipif(native.why_missing() is not None, reason=f"native library: {native.why_missing()}")
DTYPES = [torch.float32, torch.float16, torch.bfloat16]
ISAS = [-1, 0, 1, 2, 3]


def has_isa(isa: int) -> bool:
    library = native.library()
    return library is not None and isa <= library.headgate_best_isa()


@needs_library
@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("size", [0, 1, 7, 8, 63, 64, 65, 1009, 100_003])
def test_every_entry_is_read_once(isa, size):
    if not has_isa(isa):
        pytest.skip("the processor lacks the instruction set")
    generator = torch.Generator().manual_seed(size)
    data = torch.randint(-(2**63), 2**63 - 1, (size,), generator=generator)
    assert probe.read_memory(data, isa=isa) == sum(data.tolist()) % 2**64


@needs_library
@pytest.mark.parametrize("num_threads", [1, 2, 3])
def test_the_checksum_does_not_depend_on_the_threads(num_threads):
    data = torch.arange(100_003)
    before = torch.get_num_threads()
    torch.set_num_threads(num_threads)
    try:
        assert probe.read_memory(data) == 100_003 * 100_002 // 2
    finally:
        torch.set_num_threads(before)


@needs_library
@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("num_multiplies", [0, 1, 3 * 10**6])
def test_as_many_multiply_adds_as_asked_for_and_no_task_more(isa, dtype, num_multiplies):
    if not has_isa(isa):
        pytest.skip("the processor lacks the instruction set")
    done = probe.multiply_add(num_multiplies, dtype, isa=isa)
    task = probe.multiply_add(1, dtype, isa=isa)
    assert done % task == 0
    assert num_multiplies <= done < num_multiplies + task


@needs_library
def test_the_rates_are_positive():
    assert probe.measure_bandwidth(probe.make_read_buffer(1 << 20)) > 0
    assert all(probe.measure_peak(dtype) > 0 for dtype in DTYPES)


@needs_library
def test_the_buffer_of_its_own_is_read(monkeypatch):
    monkeypatch.setattr(probe, "make_read_buffer", lambda: torch.ones(1 << 16, dtype=torch.int64))
    assert probe.measure_bandwidth() > 0


def test_one_call_that_is_held_up_does_not_end_the_search_for_a_pass(monkeypatch):
    calls = []

    def seconds(num_multiplies, dtype):
        calls.append(num_multiplies)
        return 1.0 if len(calls) % 5 == 1 else num_multiplies * 1e-9

    monkeypatch.setattr(probe, "_seconds", seconds)
    assert probe.peak_pass_size(torch.float32) == 1 << 24


def test_a_buffer_is_made_of_ones():
    assert torch.equal(probe.make_read_buffer(4096), torch.ones(512, dtype=torch.int64))


@pytest.mark.parametrize("num_bytes", [-8, 0, 12])
def test_a_buffer_holds_whole_entries(num_bytes):
    with pytest.raises(InputError, match=rf"num_bytes \(={num_bytes}\) must be a positive multiple of 8"):
        probe.make_read_buffer(num_bytes)


@pytest.mark.parametrize(
    "data",
    [torch.zeros(8), torch.zeros(8, 8, dtype=torch.int64).t()[:, 1:], torch.zeros(8, dtype=torch.int64, device="meta")],
    ids=["dtype", "strides", "device"],
)
def test_what_cannot_be_read_is_refused(data):
    with pytest.raises(InputError, match=r"data \(=.*\) must be contiguous int64 on the CPU"):
        probe.read_memory(data)


def test_a_negative_number_is_refused():
    with pytest.raises(InputError, match=r"num_multiplies \(=-1\) must not be negative"):
        probe.multiply_add(-1, torch.float32)


def test_a_dtype_without_kernels_is_refused():
    with pytest.raises(InputError, match=r"dtype \(=torch.float64\) must be float32, float16 or bfloat16"):
        probe.multiply_add(1, torch.float64)


@needs_library
@pytest.mark.parametrize(
    "call",
    [
        lambda isa: probe.read_memory(torch.arange(8), isa=isa),
        lambda isa: probe.multiply_add(1, torch.float32, isa=isa),
    ],
)
def test_an_instruction_set_that_is_not_there_is_refused(call):
    with pytest.raises(InputError, match=r"isa \(=9\) must be an instruction set that this processor has"):
        call(9)


@needs_library
def test_the_library_refuses_what_the_contract_excludes():
    library = native.library()
    assert library is not None
    threads = probe.current_threads()
    result = probe.ctypes.c_int64()
    checksum = probe.ctypes.c_uint64()
    assert library.headgate_probe_read(None, 12, -1, threads, checksum) == 2
    assert library.headgate_probe_read(None, -8, -1, threads, checksum) == 2
    assert library.headgate_probe_multiply(-1, 0, -1, threads, result) == 2
    assert library.headgate_probe_multiply(1, 3, -1, threads, result) == 2


@needs_library
def test_memory_that_is_out_is_reported(monkeypatch):
    class Exhausted:
        def headgate_probe_multiply(self, *_):
            return 1

    monkeypatch.setattr(probe.native, "library", Exhausted)
    with pytest.raises(MemoryError, match=r"no memory to share the work among threads \(status 1\)"):
        probe.multiply_add(1, torch.float32)


def test_a_missing_library_is_said(monkeypatch):
    monkeypatch.setattr(probe.native, "library", lambda: None)
    monkeypatch.setattr(probe.native, "why_missing", lambda: "it was not built")
    with pytest.raises(BackendError, match="the probes are not available: it was not built; to get them, install"):
        probe.multiply_add(1, torch.float32)
