import pytest
import torch

from headgate.kernels import backends, experts, native, plan
from headgate.kernels.backends import OPS, BackendChoice, choose_backend
from headgate.kernels.native import NativeLibrary


@pytest.fixture
def has_library(request, monkeypatch):
    found = NativeLibrary(library=object()) if request.param else NativeLibrary(why_missing="a test hides it")
    monkeypatch.setattr(native, "native_library", lambda: found)
    return request.param


@pytest.mark.parametrize("has_library", [True], indirect=True)
def test_the_plan_on_a_cpu_with_the_library_is_native(has_library):
    choice = choose_backend("plan", device_type="cpu", dtype=torch.int64)
    assert choice == BackendChoice(op="plan", backend="native", reason="a counting sort in C++")


@pytest.mark.parametrize("has_library", [False], indirect=True)
def test_the_plan_on_a_cpu_without_the_library_is_torch(has_library):
    choice = choose_backend("plan", device_type="cpu", dtype=torch.int64)
    assert choice.backend == "torch"
    assert choice.reason == "a stable sort in PyTorch: no native library"


@pytest.mark.parametrize("has_library", [True, False], indirect=True)
@pytest.mark.parametrize("device_type", ["cuda", "mps", "xpu", "meta"])
@pytest.mark.parametrize("has_triton", [True, False])
def test_the_plan_elsewhere_is_torch(has_library, device_type, has_triton, monkeypatch):
    monkeypatch.setattr(backends, "has_triton", lambda: has_triton)
    is_triton = device_type == "cuda" and has_triton
    for num_experts, expected in ((1, is_triton), (1024, is_triton), (0, False), (1025, False)):
        choice = choose_backend("plan", device_type=device_type, dtype=torch.int64, num_experts=num_experts)
        assert choice.backend == ("triton" if expected else "torch")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("has_library", [True, False], indirect=True)
def test_the_router_on_a_cpu_is_native_where_the_library_is(has_library, dtype):
    choice = choose_backend("route", device_type="cpu", dtype=dtype)
    reason = "one pass in C++ for top-k routers without gradients"
    fallback = "operation by operation, as in training: no native library"
    expected = ("native", reason) if has_library else ("torch", fallback)
    assert (choice.backend, choice.reason) == expected


@pytest.mark.parametrize("has_library", [True], indirect=True)
@pytest.mark.parametrize(("device_type", "dtype"), [("cuda", torch.float32), ("cpu", torch.float64)])
def test_the_router_elsewhere_is_torch(has_library, device_type, dtype, monkeypatch):
    monkeypatch.setattr(backends, "has_triton", lambda: False)
    choice = choose_backend("route", device_type=device_type, dtype=dtype)
    assert (choice.backend, choice.reason) == ("torch", "operation by operation, as in training")


@pytest.mark.parametrize("has_library", [True, False], indirect=True)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_the_router_on_a_gpu_is_triton_where_it_is_installed(has_library, dtype, monkeypatch):
    monkeypatch.setattr(backends, "has_triton", lambda: True)
    choice = choose_backend("route", device_type="cuda", dtype=dtype)
    assert choice.backend == ("torch" if dtype == torch.float64 else "triton")


@pytest.mark.parametrize("has_library", [True], indirect=True)
@pytest.mark.parametrize(
    ("amx", "dtype", "num_rows", "backend"),
    [
        (True, torch.bfloat16, 512, "torch"),
        (True, torch.bfloat16, 511, "native"),
        (True, torch.float32, 512, "native"),
        (False, torch.bfloat16, 512, "native"),
    ],
)
def test_many_rows_of_an_expert_go_to_amx_where_there_is_one(has_library, monkeypatch, amx, dtype, num_rows, backend):
    monkeypatch.setattr(backends, "has_amx", lambda: amx)
    sizes = {"num_rows": num_rows, "num_experts": 8}
    choice = choose_backend("experts", device_type="cpu", dtype=dtype, **sizes)
    assert choice.backend == backend
    assert ("AMX" in choice.reason) == (backend == "torch")


@pytest.mark.parametrize("amx", [True, False])
def test_experts_ask_for_the_backend_of_their_rows(monkeypatch, amx):
    monkeypatch.setattr(backends, "has_amx", lambda: amx)
    monkeypatch.setattr(experts, "has_amx", lambda: amx)
    x = torch.zeros(1, dtype=torch.bfloat16)
    is_native = native.library() is not None
    assert experts.is_backend(x, 8 * backends.ROWS_FOR_AMX, 8) == (is_native and not amx)
    assert experts.is_backend(x, 8, 8) == is_native


@pytest.mark.parametrize("capabilities", [None, {}, {"amx_bf16": False}, {"amx_bf16": True}])
def test_amx_is_what_pytorch_finds(monkeypatch, capabilities):
    backends._read_amx.cache_clear()
    monkeypatch.setattr(torch.cpu, "get_capabilities", None if capabilities is None else lambda: capabilities)
    try:
        assert backends.has_amx() == (capabilities == {"amx_bf16": True})
    finally:
        backends._read_amx.cache_clear()


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("device_type", ["cpu", "cuda"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_every_choice_names_its_operation_and_its_reason(op, device_type, dtype):
    choice = choose_backend(op, device_type=device_type, dtype=dtype)
    assert choice.op == op
    assert choice.reason


@pytest.mark.parametrize("has_library", [True, False], indirect=True)
def test_the_plan_runs_the_backend_that_was_chosen(has_library, monkeypatch):
    ran = []
    result = torch.tensor([0]), torch.tensor([0, 1])
    monkeypatch.setattr(plan, "sort_slots_native", lambda *_: ran.append("native") or result)
    monkeypatch.setattr(plan, "sort_slots_torch", lambda *_: ran.append("torch") or result)
    plan.sort_slots(torch.tensor([0]), 1)
    assert ran == [choose_backend("plan", device_type="cpu", dtype=torch.int64).backend]
