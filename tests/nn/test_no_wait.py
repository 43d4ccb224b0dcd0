"""That a layer never waits for its device: on tensors without data, whatever asks for a value raises.

The inside of an operator is not seen here, since its fake stands for it; `benchmarks/gpu.py --check` runs these paths
on a GPU with `torch.cuda.set_sync_debug_mode("error")`.
"""

import warnings

import pytest
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException, FakeTensorMode

from headgate import Capacity, MoE, RouterSpec, experts, preset, preset_names
from headgate.dispatch import plan_token_choice
from headgate.kernels import native
from headgate.kernels.native import NativeLibrary
from headgate.nn import experts as nn_experts
from headgate.nn.native_route import is_covered, route_natively
from headgate.spec import family

D, F, E, K = 16, 24, 16, 4
WAITS = (DataDependentOutputException, DynamicOutputShapeException)
SELECTIONS = {name: family(name).router.get("selection", "top_k") for name in preset_names()}
UNLIMITED = [name for name in preset_names() if family(name).router.get("capacity") is None]
TOP_K = [name for name in UNLIMITED if SELECTIONS[name] == "top_k"]
# Zero-compute experts' rows are cut off from the others, at a place that only the device knows.
DROPLESS = [name for name in UNLIMITED if SELECTIONS[name] in ("top_k", "sinkhorn") and name != "longcat_flash"]


@pytest.fixture
def _by_operations(monkeypatch):
    """As on a device for which there is no kernel. PyTorch fakes a GPU for a few operations alone where it has none."""
    monkeypatch.setattr(native, "native_library", lambda: NativeLibrary(why_missing="a test hides it"))


def make_fake(name: str, **options) -> tuple[MoE, torch.Tensor]:
    return MoE.from_family(name, D, F, num_experts=E, top_k=K, **options), torch.empty(2, 5, D)


@pytest.mark.parametrize("name", TOP_K)
def test_routing_on_a_gpu_does_not_wait(name):
    spec = preset(name, num_experts=E, top_k=K)
    assert is_covered(spec)
    with FakeTensorMode():
        x, weight = (torch.empty(size, D, device="cuda", dtype=torch.bfloat16) for size in (5, spec.num_choices))
        routing = route_natively(spec, x, weight, None, None)
    assert routing.plan.token_of_row.device.type == "cuda"
    assert routing.plan.num_rows == 5 * K


@pytest.mark.usefixtures("_by_operations")
@pytest.mark.parametrize("name", DROPLESS)
def test_inference_does_not_wait(name):
    with FakeTensorMode(), torch.no_grad():
        layer, x = make_fake(name)
        assert layer.eval()(x).shape == x.shape


@pytest.mark.usefixtures("_by_operations")
@pytest.mark.parametrize("balance", ["switch", "z", "importance", "sequence", "global_batch", "bias", None])
@pytest.mark.parametrize("name", ["mixtral", "deepseek_v2", "gpt_oss", "llama4"])
def test_training_does_not_wait(name, balance):
    with FakeTensorMode(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # nobody attached the bias to an optimizer
        layer, x = make_fake(name, balance=balance)
        layer(x.requires_grad_()).sum().backward()
    assert x.grad.shape == x.shape
    assert all(parameter.grad is not None for parameter in layer.experts.parameters())


@pytest.mark.usefixtures("_by_operations")
@pytest.mark.parametrize("name", ["switch", "top_p", "threshold", "expert_choice", "longcat_flash"])
def test_what_has_shapes_of_its_own_waits(name):
    with FakeTensorMode(), torch.no_grad():
        layer, x = make_fake(name)
        with pytest.raises(WAITS):
            layer.eval()(x)


@pytest.fixture
def _by_triton(monkeypatch):
    """As on a GPU, whose experts pass over the rows of dropped slots."""
    monkeypatch.setattr(nn_experts, "runs_in_triton", lambda *_: True)
    monkeypatch.setattr(experts.triton_ops, "runs_in_triton", lambda *_: True)


CAPACITIES = {
    rule: Capacity(factor=1.0, drop_rule=rule) for rule in ("position", "choice_position", "score", "batch_prioritised")
} | {"after_drop": Capacity(factor=1.0, normalise="after_drop"), "sequence": Capacity(factor=1.0, per="sequence")}


@pytest.mark.usefixtures("_by_operations", "_by_triton")
@pytest.mark.parametrize("is_trained", [False, True])
@pytest.mark.parametrize("name", CAPACITIES)
def test_a_capacity_does_not_wait_on_a_gpu(name, is_trained):
    with FakeTensorMode():
        layer = MoE(D, F, router=RouterSpec(num_experts=E, top_k=K, capacity=CAPACITIES[name])).train(is_trained)
        x = torch.empty(2, 5, D, requires_grad=is_trained)
        assert layer(x, padding_mask=torch.zeros(2, 5, dtype=torch.bool)).shape == x.shape


@pytest.mark.usefixtures("_by_operations", "_by_triton")
@pytest.mark.parametrize("name", ["switch", "top_p", "threshold", "longcat_flash"])
def test_shapes_of_its_own_stay_on_the_gpu(name):
    with FakeTensorMode(), torch.no_grad():
        layer, x = make_fake(name)
        assert layer.eval()(x).shape == x.shape


@pytest.mark.usefixtures("_by_operations")
def test_a_padding_mask_waits():
    with FakeTensorMode(), torch.no_grad():
        layer, x = make_fake("mixtral")
        with pytest.raises(WAITS):
            layer(x, padding_mask=torch.zeros(2, 5, dtype=torch.bool))


def test_the_plan_of_a_choice_that_transformers_made_does_not_wait():
    with FakeTensorMode():
        ids = torch.empty(7, K, dtype=torch.int64, device="cuda")
        drops = torch.empty(7, K, dtype=torch.uint8, device="cuda")
        plan = plan_token_choice(ids, drops, num_experts=E, is_dropless=True)
    assert (plan.num_rows, plan.num_experts, plan.num_tokens) == (7 * K, E, 7)
