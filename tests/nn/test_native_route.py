"""When the native kernel decides, and that it decides as the operations and the oracle do."""

import dataclasses

import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings

import headgate
import strategies
from agreement import Case, build_layer, check_routing, draw_inputs, draw_keywords, run_oracle, settle
from compare import assert_close, assert_integers_equal
from headgate import MoE, RouterSpec, preset, preset_names, tap
from headgate.kernels import native
from headgate.kernels.native import NativeLibrary
from headgate.nn import router as router_module
from headgate.nn.native_route import is_covered
from headgate.spec import family

D, F, E, K = 16, 24, 8, 2
PLAIN = [name for name in preset_names() if family(name).router.get("selection", "top_k") == "top_k"]
COVERED = [name for name in PLAIN if family(name).router.get("capacity") is None]

needs_library = pytest.mark.skipif(native.library() is None, reason=f"native library: {native.why_missing()}")


@pytest.fixture
def decisions(monkeypatch):
    """A list that grows by one with each native decision."""
    made, decide = [], router_module.route_natively

    def watch(*arguments):
        made.append(1)
        return decide(*arguments)

    monkeypatch.setattr(router_module, "route_natively", watch)
    return made


def make_layer(name: str = "olmoe", **options) -> MoE:
    torch.manual_seed(0)
    return MoE.from_family(name, D, F, num_experts=16, top_k=4, **options).eval()


def routing_of(layer: torch.nn.Module, x: torch.Tensor, **options) -> headgate.Routing:
    with tap(layer) as tape, torch.no_grad():
        layer(x, **options)
    return tape[""][0]


def test_what_is_covered():
    assert {"mixtral", "deepseek_v2", "deepseek_v3", "deepseek_v4", "gpt_oss", "llama4"} <= set(COVERED)
    for name in preset_names():
        fields = {"vocab_size": 9} if "hash" in name else {}
        spec = preset(name, num_experts=16, top_k=2, **fields)
        assert is_covered(spec) == (name in COVERED)


@needs_library
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", COVERED)
def test_the_routing_is_that_of_the_operations(name, dtype, decisions, monkeypatch):
    layer = make_layer(name, dtype=dtype)
    x = torch.randn(3, 7, D).to(dtype)
    ours = routing_of(layer, x)
    assert len(decisions) == 1
    monkeypatch.setattr(native, "native_library", lambda: NativeLibrary(why_missing="a test hides it"))
    theirs = routing_of(layer, x)
    assert len(decisions) == 1
    assert_integers_equal("ids", ours.choice.expert_ids, theirs.choice.expert_ids)
    for field in dataclasses.fields(theirs.plan):
        mine, other = (getattr(routing.plan, field.name) for routing in (ours, theirs))
        assert type(mine) is type(other)
        assert_integers_equal(field.name, mine, other)
    wide = torch.float32 if layer.spec.linear_dtype == layer.spec.score_dtype == "float32" else dtype
    for tensor in ("logits", "scores"):
        mine, other = getattr(ours, tensor), getattr(theirs, tensor)
        assert mine.dtype == other.dtype
        assert_close(tensor, mine, other, dtype=wide, terms=D)
    weights = ours.choice.combine_weights, theirs.choice.combine_weights
    assert_close("weights", *weights, dtype=wide, terms=D)
    assert (ours.is_padding, ours.losses) == (None, {}) == (theirs.is_padding, theirs.losses)


def decides_natively(decisions, layer, x, **options) -> bool:
    decisions.clear()
    # A layer that nobody watches may make the decision and the rest in one call, where no decision is seen.
    router = layer if isinstance(layer, headgate.Router) else layer.router
    handle = router.register_forward_hook(lambda *_: None)
    layer(x, **options)
    handle.remove()
    return bool(decisions)


@needs_library
def test_it_decides_where_no_gradient_is_wanted(decisions):
    layer, x = make_layer(), torch.randn(5, D)
    assert not decides_natively(decisions, layer, x)
    with torch.no_grad():
        assert decides_natively(decisions, layer, x)
        assert not decides_natively(decisions, layer.train(), x)
    with torch.inference_mode():
        assert decides_natively(decisions, layer.eval(), x)
    layer.router.requires_grad_(False)
    assert decides_natively(decisions, layer, x)
    assert not decides_natively(decisions, layer, x.clone().requires_grad_())
    assert layer(x).requires_grad


@needs_library
@torch.no_grad()
def test_it_leaves_the_rest_to_the_operations(decisions):
    x = torch.randn(2, 5, D)
    assert decides_natively(decisions, make_layer(balance="bias"), x)
    for balance in ("switch", "z", "importance", "sequence", "global_batch"):
        layer = make_layer(balance=balance)
        assert not decides_natively(decisions, layer, x)
        assert set(routing_of(layer, x).losses) == {balance}
    layer = make_layer()
    assert not decides_natively(decisions, layer, x, padding_mask=torch.zeros(2, 5, dtype=torch.bool))
    assert not decides_natively(decisions, layer.double(), x.double())
    for name in ("switch", "top_p", "sinkhorn"):
        layer = MoE(D, F, router=name, num_experts=E).eval()
        assert not decides_natively(decisions, layer, x)


@needs_library
@torch.no_grad()
def test_tensors_of_other_kinds_are_left_to_the_operations(decisions):
    class Sharded(torch.Tensor):
        pass

    layer, x = make_layer(), torch.randn(5, D)
    assert not decides_natively(decisions, layer.router, x.as_subclass(Sharded))
    layer = make_layer("gpt_oss")
    assert decides_natively(decisions, layer, x)
    layer.router.bias.data = layer.router.bias.data.double()
    assert not decides_natively(decisions, layer.router, x)


@needs_library
def test_jitter_and_noise_are_for_training_alone(decisions):
    spec = RouterSpec(num_experts=E, top_k=2, jitter=0.5, noise="learned", second_expert="random")
    layer, x = MoE(D, F, router=spec).eval(), torch.randn(9, D)
    with torch.no_grad():
        assert decides_natively(decisions, layer, x)
        assert torch.equal(layer(x), layer(x))


def check_against_oracle(case: Case, dtype: torch.dtype) -> None:
    settled = settle(case)
    outcome, expected = run_oracle(settled)
    layer, inputs = build_layer(settled, dtype), draw_inputs(settled)
    x = inputs.x.reshape(*settled.leading, settled.d_model).to(dtype)
    with tap(layer) as tape, torch.inference_mode():
        y = layer(x, **draw_keywords(settled))
    check_routing(settled, tape[""][-1], outcome, dtype)
    terms = settled.d_model + settled.d_ff + settled.router.num_choices
    assert_close("y", y, expected.y, dtype=dtype, terms=terms, scale=expected.scales["y"])


@pytest.mark.parametrize("pattern", ["spread", "mixed", "tied", "all_zero", "all_negative", "same_token"])
@pytest.mark.parametrize("name", COVERED)
def test_every_covered_family_is_the_oracles(name, pattern):
    spec = preset(name, num_experts=16, top_k=4, jitter=0.0)
    d_model = 26 if spec.num_zero_experts else 20
    case = Case(router=spec, experts=family(name).experts, pattern=pattern, d_model=d_model)
    check_against_oracle(case, torch.float32)


@given(case=strategies.cases())
@settings(deadline=None, max_examples=200, suppress_health_check=[HealthCheck.filter_too_much])
def test_any_covered_router_is_the_oracles(case):
    case = dataclasses.replace(case, training=False, padding=False)
    assume(is_covered(case.router))
    check_against_oracle(case, torch.float32)


COMPILES = """
import torch
import headgate
from headgate.kernels import native

def compile_and_count(graph, inputs):
    counted.append(sum("headgate.route" in str(node.target) for node in graph.graph.nodes))
    return graph

for name in ("mixtral", "deepseek_v3", "gpt_oss", "llama4", "deepseek_v4"):
    torch._dynamo.reset()
    counted = []
    layer = headgate.MoE.from_family(name, 16, 24, num_experts=16, top_k=4).eval()
    watched = torch.compile(layer, fullgraph=True, backend=compile_and_count)
    lowered = torch.compile(layer, fullgraph=True, backend="aot_eager", dynamic=True)
    with torch.no_grad():
        for tokens in (5, 12):
            x = torch.randn(2, tokens, 16)
            torch.testing.assert_close(watched(x), layer(x))
            torch.testing.assert_close(lowered(x), layer(x))
    assert set(counted) == {int(native.library() is not None)}, (name, counted)
"""


# Alone in its process: torch.compile keeps what it knows of modules that the other tests import afresh.
def test_inference_compiles_into_one_graph(run_fresh):
    run_fresh(f"import warnings; warnings.simplefilter('ignore')\n{COMPILES}")
