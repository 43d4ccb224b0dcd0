import pytest
import torch

from headgate.kernels import native, plan
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
def test_the_plan_elsewhere_is_torch(has_library, device_type):
    assert choose_backend("plan", device_type=device_type, dtype=torch.int64).backend == "torch"


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
def test_the_router_elsewhere_is_torch(has_library, device_type, dtype):
    choice = choose_backend("route", device_type=device_type, dtype=dtype)
    assert (choice.backend, choice.reason) == ("torch", "operation by operation, as in training")


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
