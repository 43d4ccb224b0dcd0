"""The Triton experts, forward and backward, against float64: in full on a card, in small sizes interpreted."""

import dataclasses

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from compare import assert_close
from expert_problems import SHAPES, SPECS, Problem, make_problem
from headgate import experts as experts_module
from headgate.dispatch import find_drops, plan_token_choice
from headgate.experts import ExpertWeights, is_one_call, run_choice, run_experts, run_triton_experts
from headgate.integrations.transformers.backend import plan_all
from headgate.nn.experts import Experts

pytest.importorskip("triton", reason="no Triton: pip install 'headgate[gpu]'")

from headgate.kernels.triton import experts, ops, schedule
from triton_problems import DEVICE, NAMES, expected, gradients, triton_problem

HAS_CARD = DEVICE == "cuda"
SMALL = [(0, 8, 8, 4, 2), (1, 1, 1, 1, 1), (5, 37, 21, 5, 3)]
ALL = [*SHAPES, (1700, 20, 12, 2, 1), (300, 264, 136, 8, 2), (64, 512, 256, 512, 8)]


def draw_like(tensor: Tensor) -> Tensor:
    return torch.randn(tensor.shape, generator=torch.Generator().manual_seed(7)).to(tensor.dtype)


def assert_right(problem: ops.Problem) -> None:
    dy = draw_like(problem.x.cpu())
    y, found = gradients(problem, dy)
    wanted_y, wanted = expected(problem, dy)
    dtype = problem.x.dtype
    # Sums are float32 whatever the dtype is: only their operands, and rows on their way, are rounded to it.
    terms = max(*problem.up.shape[1:], problem.x.shape[0]) if dtype == torch.float32 else 4
    assert_close("y", y, wanted_y, dtype=dtype, terms=terms)
    assert found.keys() == wanted.keys()
    for name, gradient in found.items():
        assert gradient.dtype == getattr(problem, name).dtype
        if gradient.numel():
            scale = wanted[name].square().mean().sqrt().item()
            assert_close(name, gradient, wanted[name], dtype=dtype, terms=terms, scale=scale)


@pytest.mark.parametrize(
    ("name", "weighs_input"), [*((name, False) for name in SPECS), ("gpt_oss", True), ("gelu", True)]
)
@pytest.mark.parametrize("shape", ALL if HAS_CARD else SMALL[2:])
def test_equals_float64(shape: tuple[int, int, int, int, int], name: str, weighs_input: bool) -> None:
    assert_right(triton_problem(make_problem(shape, SPECS[name], torch.float32), weighs_input=weighs_input))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", SPECS if HAS_CARD else ["gpt_oss"])
@pytest.mark.parametrize("shape", ALL if HAS_CARD else SMALL)
def test_narrow_dtypes(shape: tuple[int, int, int, int, int], name: str, dtype: torch.dtype) -> None:
    assert_right(triton_problem(make_problem(shape, SPECS[name], dtype)))


@pytest.mark.parametrize("num_tokens", [9, 40, 130])
def test_every_schedule(num_tokens: int) -> None:
    problem = triton_problem(make_problem((num_tokens, 9, 11, 1, 1), SPECS["geglu"], torch.float32))
    assert schedule.bucket_of(9, 1) == schedule.bucket_of(40, 1) == "some"
    assert schedule.bucket_of(130, 1) == "many"
    assert_right(problem)


@pytest.mark.parametrize("name", ["gpt_oss", "gelu"])
def test_few_rows_are_summed_in_parts(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    problem = triton_problem(make_problem((2, 390, 7, 3, 1), SPECS[name], torch.float32))
    whole, wanted = gradients(problem, dy := draw_like(problem.x.cpu()))
    # As with more processors, for which shorter sums are split: four steps of 128 in two parts.
    monkeypatch.setattr(experts, "count_splits", lambda *_: 2)
    y, found = gradients(problem, dy)
    assert not torch.equal(y, whole)  # so it was another order of summation
    for part, one in zip((y, *found.values()), (whole, *wanted.values()), strict=True):
        assert_close(name, part, one, dtype=torch.float32, terms=390)


@pytest.mark.parametrize(("config", "weighs_input"), [(0, False), (1, True), (2, False), (3, True)])
def test_a_single_token(config: int, weighs_input: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Among its choices a zero-compute expert and one of nobody; sums of several steps, weights that lie transposed."""
    monkeypatch.setattr(experts.one_token_kernel, "early_config_prune", lambda configs, *_, **__: [configs[config]])
    problem = make_problem((1, 18, 520, 5, 4), SPECS["gpt_oss"], torch.float32)
    ids = torch.tensor([[3, 5, 0, 9]])
    problem = dataclasses.replace(problem, ids=ids)
    on_card = triton_problem(problem, plan=plan_all(ids, 6), weighs_input=weighs_input)
    wanted, _ = expected(on_card, torch.zeros(1, 18))
    y = ops.run_now(on_card)
    assert_close("y", y.cpu(), wanted, dtype=torch.float32, terms=520)
    moved = on_card.down.transpose(1, 2).contiguous().transpose(1, 2)
    assert torch.equal(ops.run_now(on_card._replace(down=moved)), y)


@pytest.mark.skipif(HAS_CARD, reason="the CPU's tensors are for the interpreter")
def test_a_choice_is_run_as_its_plan_is(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = make_problem((5, 20, 12, 4, 2), SPECS["gpt_oss"], torch.float32)
    ids = problem.ids.clone()
    ids[2, 1] = 4  # of another rank
    weights = ExpertWeights(up=problem.up, down=problem.down, up_bias=problem.up_bias, down_bias=problem.down_bias)
    monkeypatch.setattr(experts_module.triton_ops, "runs_in_triton", lambda *_: True)
    wanted = run_experts(problem.x, plan_all(ids, 4), problem.combine_weights, weights, problem.spec.function)
    for kind in (torch.int64, torch.int32):
        choice = (problem.x, ids.to(kind), problem.combine_weights.to(torch.float64), weights)
        assert is_one_call(*choice)
        assert torch.equal(run_choice(*choice, problem.spec.function), wanted)
    assert not is_one_call(problem.x.requires_grad_(), *choice[1:])


def test_transposed_weights_and_strided_tokens() -> None:
    problem = triton_problem(make_problem((6, 20, 12, 3, 2), SPECS["gpt_oss"], torch.float32))
    moved = {key: getattr(problem, key).transpose(1, 2).contiguous().transpose(1, 2) for key in ("up", "down")}
    wide = torch.zeros(6, 31, device=DEVICE)
    wide[:, 3:23] = problem.x
    columns = problem.x.t().contiguous().t()
    y = ops.run_now(problem)
    assert torch.equal(ops.run_now(problem._replace(**moved)), y)
    assert torch.equal(ops.run_now(problem._replace(x=wide[:, 3:23])), y)
    assert torch.equal(ops.run_now(problem._replace(x=columns)), y)
    dy = draw_like(problem.x.cpu())
    plain, strided = gradients(problem, dy), gradients(problem._replace(**moved), dy.t().contiguous().t())
    assert all(torch.equal(plain[1][name], strided[1][name]) for name in NAMES)


def test_slots_without_an_expert_need_not_be_cut_off() -> None:
    problem = make_problem((6, 20, 12, 4, 2), SPECS["gpt_oss"], torch.float32)
    ids = problem.ids.clone()
    ids[2], ids[4, 1] = 7, 9  # of another rank
    weights = problem.combine_weights.clone()
    weights[2] = float("nan")  # nor are their weights read
    problem = dataclasses.replace(problem, ids=ids, combine_weights=weights)
    kept = ids.where(ids < 4, -1)
    cut = plan_token_choice(kept, find_drops(kept, None), num_experts=4, is_dropless=False)
    whole = plan_all(ids, 4)
    assert whole.num_rows == 12
    assert cut.num_rows == 9
    dy = draw_like(problem.x)
    outcomes = [gradients(triton_problem(problem, plan=plan), dy) for plan in (cut, whole)]
    assert torch.equal(outcomes[0][0], outcomes[1][0])
    assert outcomes[0][0][2].abs().max() == 0
    assert all(torch.equal(outcomes[0][1][name], outcomes[1][1][name]) for name in NAMES)
    assert outcomes[0][1]["combine_weights"].view(6, 2)[2].abs().max() == 0


@pytest.mark.parametrize("weighs_input", [False, True])
def test_zero_compute_experts_return_their_input(weighs_input: bool) -> None:
    problem = make_problem((9, 20, 12, 2, 2), SPECS["gelu"], torch.float32)
    ids = torch.stack([torch.arange(9) % 2, torch.full((9,), 2)], dim=1)
    plan = plan_token_choice(ids, find_drops(ids, None), num_experts=3, is_dropless=True)
    assert_right(triton_problem(problem, plan=plan, weighs_input=weighs_input))


def test_one_expert_with_every_token() -> None:
    problem = make_problem((6, 20, 12, 5, 1), SPECS["gpt_oss"], torch.float32)
    problem = dataclasses.replace(problem, ids=torch.full((6, 1), 3))
    assert_right(triton_problem(problem))
    _, found = gradients(triton_problem(problem), torch.ones_like(problem.x))
    idle = [expert for expert in range(5) if expert != 3]
    assert all(found[name][idle].abs().max() == 0 < found[name][3].abs().max() for name in NAMES[2:])


def test_512_experts() -> None:
    problem = triton_problem(make_problem((2, 8, 8, 512, 3), SPECS["swiglu"], torch.float32))
    wanted, _ = expected(problem, torch.zeros(2, 8))
    assert_close("y", ops.run_now(problem).cpu(), wanted, dtype=torch.float32, terms=8)


def test_a_bad_token_harms_only_itself() -> None:
    problem = triton_problem(make_problem((30, 16, 16, 2, 1), SPECS["swiglu"], torch.float32))
    x = problem.x.clone()
    x[11, 3] = float("nan")
    y, clean = ops.run_now(problem._replace(x=x)), ops.run_now(problem)
    others = torch.arange(30) != 11
    assert torch.equal(y[others], clean[others])
    assert not y[11].isfinite().any()


def test_recomputing_gives_the_same_bits_and_keeps_nothing() -> None:
    problem = triton_problem(make_problem((6, 20, 12, 3, 2), SPECS["gpt_oss"], torch.bfloat16))
    recomputing = problem._replace(recomputes=True)
    assert ops.triton_experts_for_training(*recomputing.flatten())[1].numel() == 0
    dy = draw_like(problem.x.cpu())
    (y, kept), (same, again) = gradients(problem, dy), gradients(recomputing, dy)
    assert torch.equal(y, same)
    assert all(torch.equal(kept[name], again[name]) for name in NAMES)


def test_computes_only_what_is_wanted() -> None:
    problem = triton_problem(make_problem((4, 9, 7, 3, 2), SPECS["gpt_oss"], torch.float32))
    dy = draw_like(problem.x.cpu())
    _, everything = gradients(problem, dy)
    up_rows = ops.triton_experts_for_training(*problem.flatten())[1]
    for missing in NAMES:
        wanted = [name != missing for name in NAMES]
        outputs = ops.triton_experts_gradients(dy.to(DEVICE), up_rows, *problem.flatten(), wanted)
        for name, output in zip(NAMES, outputs, strict=True):
            expected_output = torch.empty(0) if name == missing else everything[name]
            assert torch.equal(output.cpu(), expected_output), (missing, name)


@pytest.mark.parametrize("name", ["swiglu", "geglu"])
def test_grouped_mm_takes_the_products_place(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    problem = triton_problem(make_problem((8, 32, 16, 3, 2), SPECS[name], torch.bfloat16))
    calls = []
    real = experts.grouped_mm
    monkeypatch.setattr(experts, "takes_grouped_mm", lambda *_: True)
    monkeypatch.setattr(experts, "grouped_mm", lambda *args: calls.append(1) or real(*args))
    assert_right(problem)
    assert len(calls) >= 2


def test_operators_are_well_formed() -> None:
    problem = triton_problem(make_problem((3, 6, 5, 2, 1), SPECS["gpt_oss"], torch.float32))
    torch.library.opcheck(ops.triton_experts, problem.flatten())
    up = problem.up.detach().requires_grad_()
    torch.library.opcheck(ops.triton_experts_for_training, problem._replace(up=up, recomputes=True).flatten())
    up_rows = ops.triton_experts_for_training(*problem.flatten())[1]
    arguments = (torch.ones_like(problem.x), up_rows, *problem.flatten(), [True, False, True, True, True, True])
    torch.library.opcheck(ops.triton_experts_gradients, arguments)


@pytest.mark.parametrize("is_trained", [False, True])
def test_compiles_without_a_break(is_trained: bool, uninstrumented) -> None:
    module = uninstrumented("headgate.experts")
    problem = make_problem((4, 9, 7, 3, 2), SPECS["swiglu"], torch.float32)
    plan = problem.plan

    def run(x: Tensor, up: Tensor) -> Tensor:
        weights = module.ExpertWeights(up=up, down=problem.down.to(DEVICE))
        function = problem.spec.function
        return module.run_triton_experts(x, on_card, problem.combine_weights.to(DEVICE), weights, function).sin()

    fields = {field.name: getattr(plan, field.name) for field in dataclasses.fields(plan)}
    on_card = type(plan)(
        **{key: value.to(DEVICE) if isinstance(value, Tensor) else value for key, value in fields.items()}
    )
    up = problem.up.to(DEVICE).requires_grad_(is_trained)
    compiled = torch.compile(run, fullgraph=True, backend="aot_eager")
    x = problem.x.to(DEVICE)
    y, wanted = compiled(x, up), run(x, up)
    assert torch.equal(y, wanted)
    if is_trained:
        (found,), (gradient,) = torch.autograd.grad(y.sum(), up), torch.autograd.grad(wanted.sum(), up)
        assert torch.equal(found, gradient)


@pytest.mark.parametrize("apply_to", ["output", "input"])
def test_nothing_waits_for_the_card(apply_to: str) -> None:
    # On tensors without data, whatever asks for a value raises. The operators' insides are read by no one here: what
    # they launch and allocate follows from shapes, see `schedule`.
    problem = make_problem((6, 20, 12, 4, 2), SPECS["gpt_oss"], torch.bfloat16)
    with FakeTensorMode() as mode, torch.no_grad():
        sizes = {name: getattr(problem, name).shape for name in NAMES}
        fakes = {name: torch.empty(size, dtype=torch.bfloat16, device="cuda") for name, size in sizes.items()}
        ids = torch.empty(6, 2, dtype=torch.int64, device="cuda")
        weights = ExpertWeights(**{name: fakes[name] for name in NAMES[2:]})
        arguments = (fakes["x"], plan_all(ids, 4), fakes["combine_weights"], weights, problem.spec.function)
        y = run_experts(*arguments, apply_to=apply_to)
    assert (y.device.type, y.shape, y.fake_mode) == ("cuda", problem.x.shape, mode)


@pytest.mark.parametrize("recompute", [False, True])
def test_a_layer_recomputes_where_it_is_told_to(recompute: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    layer = Experts(8, 6, num_experts=4, recompute=recompute)
    asked = []

    def run(x: Tensor, *_: object, recomputes: bool, **__: object) -> Tensor:
        asked.append(recomputes)
        return x

    monkeypatch.setattr(experts_module.triton_ops, "runs_in_triton", lambda *_: True)
    monkeypatch.setattr(experts_module, "run_triton_experts", run)
    layer(torch.ones(3, 8), plan_all(torch.zeros(3, 1, dtype=torch.int64), 4), torch.ones(3, 1))
    assert asked == [recompute]


@pytest.mark.skipif(HAS_CARD, reason="the CPU's tensors are for the interpreter")
@pytest.mark.parametrize("apply_to", ["output", "input"])
def test_the_layer_takes_them_where_they_are_the_backend(apply_to: str, monkeypatch: pytest.MonkeyPatch) -> None:
    problem: Problem = make_problem((5, 20, 12, 3, 2), SPECS["gpt_oss"], torch.float32)
    weights = ExpertWeights(up=problem.up, down=problem.down, up_bias=problem.up_bias, down_bias=problem.down_bias)
    arguments = (problem.x, problem.plan, problem.combine_weights, weights, problem.spec.function)
    wanted = run_experts(*arguments, apply_to=apply_to)
    ran = []

    def run(*args: object, **options: bool) -> Tensor:
        ran.append(options)
        return run_triton_experts(*args, **options)

    monkeypatch.setattr(experts_module.triton_ops, "runs_in_triton", lambda *_: True)
    monkeypatch.setattr(experts_module, "run_triton_experts", run)
    assert_close("y", run_experts(*arguments, apply_to=apply_to), wanted, dtype=torch.float32, terms=20)
    assert ran == [{"weighs_input": apply_to == "input", "recomputes": False}]


@pytest.mark.gpu
@pytest.mark.skipif(not HAS_CARD, reason="the interpreter runs one program after the other")
@pytest.mark.parametrize("shape", [(1, 512, 256, 8, 2), (300, 264, 136, 8, 2), (4096, 512, 256, 8, 2)])
def test_same_bits_on_every_run(shape: tuple[int, int, int, int, int]) -> None:
    problem = triton_problem(make_problem(shape, SPECS["gpt_oss"], torch.bfloat16))
    dy = draw_like(problem.x.cpu())
    first = gradients(problem, dy)
    for _ in range(5):
        again = gradients(problem, dy)
        assert torch.equal(again[0], first[0])
        assert all(torch.equal(again[1][name], first[1][name]) for name in NAMES)
