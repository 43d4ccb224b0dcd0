"""Balance inside the layer: the gradient is that of the explicit sum of losses, however training is arranged."""

import copy
import socket
import warnings
from itertools import pairwise

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import data_parallel
import headgate
from headgate import balance as balance_math
from headgate.balance import Balance
from headgate.errors import InputError, SpecError

D, F, E, K = 8, 12, 6, 2
LOSSES = {"switch": 0.3, "z": 0.2, "importance": 0.1, "sequence": 0.4, "global_batch": 0.25}


def make_layer(seed: int = 0, **options) -> headgate.MoE:
    torch.manual_seed(seed)
    return headgate.MoE(D, F, num_experts=E, top_k=K, dtype=torch.float64, **options)


def explicit_loss(layer: headgate.MoE, x: torch.Tensor, padding_mask: torch.Tensor | None = None) -> torch.Tensor:
    """Task loss plus every balance loss, added by hand from a tapped copy without injected gradients."""
    bare = copy.deepcopy(layer)
    bare.router.balance = Balance()
    for ours, theirs in zip(bare.parameters(), layer.parameters(), strict=True):
        ours.data = theirs.data
    routing = None

    def keep(module, args, output):
        nonlocal routing
        routing = output

    bare.router.register_forward_hook(keep)
    y = bare(x, padding_mask=padding_mask)
    padding = None if padding_mask is None else padding_mask.flatten()
    counts = balance_math.count_choices(routing.choice.expert_ids, num_experts=E, is_padding=padding)
    switch = balance_math.switch_loss(routing.scores, counts, is_padding=padding)
    values = {
        "switch": switch,
        "global_batch": switch,
        "z": balance_math.z_loss(routing.logits, is_padding=padding),
        "importance": balance_math.importance_loss(routing.scores, is_padding=padding),
        "sequence": balance_math.sequence_loss(
            routing.scores, routing.choice.expert_ids, sequence_length=x.shape[-2], is_padding=padding
        ),
    }
    total = task_loss(y, padding_mask) + sum(LOSSES[name] * value for name, value in values.items())
    return total, bare


def task_loss(y: torch.Tensor, padding_mask: torch.Tensor | None = None) -> torch.Tensor:
    real = y if padding_mask is None else y[~padding_mask]
    return real.square().mean()


def gradients(layer: nn.Module) -> list[torch.Tensor]:
    return [parameter.grad for parameter in layer.parameters()]


def assert_same_gradients(actual: nn.Module, expected: nn.Module) -> None:
    for got, want in zip(gradients(actual), gradients(expected), strict=True):
        torch.testing.assert_close(got, want)


def padding_for(x: torch.Tensor) -> torch.Tensor:
    mask = torch.zeros(x.shape[:-1], dtype=torch.bool)
    mask[0, -2:] = True
    mask[1, 0] = True
    return mask


@pytest.mark.parametrize("padded", [False, True])
def test_injected_gradient_equals_the_explicit_sum(padded):
    layer = make_layer(balance=Balance(**LOSSES))
    x = torch.randn(2, 7, D, dtype=torch.float64)
    mask = padding_for(x) if padded else None
    total, bare = explicit_loss(layer, x, mask)
    total.backward()
    task_loss(layer(x, padding_mask=mask), mask).backward()
    assert_same_gradients(layer, bare)


@pytest.mark.parametrize("name", list(LOSSES))
def test_each_loss_alone_reaches_the_router_and_its_value_is_on_the_routing(name):
    layer = make_layer(balance=Balance(**{name: LOSSES[name]}))
    plain = make_layer()
    x = torch.randn(2, 7, D, dtype=torch.float64)
    with headgate.tap(layer) as tape:
        task_loss(layer(x)).backward()
    task_loss(plain(x)).backward()
    assert not torch.equal(layer.router.weight.grad, plain.router.weight.grad)
    assert torch.equal(layer.experts.down_proj.grad, plain.experts.down_proj.grad)
    assert list(tape[""][0].losses) == [name]
    assert tape[""][0].losses[name].item() > 0
    assert not tape[""][0].losses[name].requires_grad


@pytest.mark.parametrize("family", ["gpt_oss", "granitemoe", "llama4", "deepseek_v3", "switch", "noisy_top_k"])
def test_the_loss_reaches_the_router_of_every_kind_of_weight(family):
    torch.manual_seed(0)
    layer = headgate.MoE.from_family(family, D, F, num_experts=16, top_k=None, balance=Balance(switch=1.0, z=1.0))
    x = torch.randn(2, 7, D)
    (layer(x) * 0).sum().backward()
    assert layer.router.weight.grad.abs().sum() > 0


def test_gradient_accumulation_adds_up_to_the_mean_over_micro_batches():
    layer = make_layer(balance=Balance(**LOSSES))
    reference = make_layer(balance=Balance(**LOSSES))
    batches = [torch.randn(2, 5, D, dtype=torch.float64) for _ in range(3)]
    headgate.set_balance_scale(layer, 1 / 3)
    for x in batches:
        (task_loss(layer(x)) / 3).backward()
    total, grads = 0, None
    for x in batches:
        loss, bare = explicit_loss(reference, x)
        (loss / 3).backward()
        grads = gradients(bare) if grads is None else [a + b for a, b in zip(grads, gradients(bare), strict=True)]
        total += 1
    assert total == 3
    for got, want in zip(gradients(layer), grads, strict=True):
        torch.testing.assert_close(got, want)


def test_a_loss_scale_reaches_the_balance_losses():
    once, scaled = make_layer(balance=Balance(**LOSSES)), make_layer(balance=Balance(**LOSSES))
    x = torch.randn(2, 5, D, dtype=torch.float64)
    task_loss(once(x)).backward()
    headgate.set_balance_scale(scaled, 1024.0)
    (task_loss(scaled(x)) * 1024.0).backward()
    for got, want in zip(gradients(scaled), gradients(once), strict=True):
        torch.testing.assert_close(got / 1024.0, want)


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_activation_recomputation_changes_no_gradient_and_no_count(use_reentrant):
    strengths = Balance(**LOSSES, bias_rate=0.01)
    direct, recomputed = make_layer(balance=strengths), make_layer(balance=strengths)
    optimizers = [torch.optim.SGD(layer.parameters(), lr=0.1) for layer in (direct, recomputed)]
    for layer, optimizer in zip((direct, recomputed), optimizers, strict=True):
        headgate.attach_balance(layer, optimizer)
    x = torch.randn(2, 5, D, dtype=torch.float64, requires_grad=True)
    task_loss(direct(x)).backward()
    with headgate.tap(recomputed) as tape:
        task_loss(checkpoint(recomputed, x, use_reentrant=use_reentrant)).backward()
    assert_same_gradients(recomputed, direct)
    assert torch.equal(recomputed.router.tally, direct.router.tally)
    assert direct.router.tally.sum() == 2 * 5 * K
    assert len(tape[""]) == 1


def test_attached_bias_steps_once_per_optimizer_step_whatever_the_micro_batches():
    layer = make_layer(balance="bias")
    optimizer = torch.optim.AdamW(layer.parameters(), lr=1e-3)
    handle = headgate.attach_balance(layer, optimizer)
    batches = [torch.randn(2, 5, D, dtype=torch.float64) for _ in range(2)]
    with headgate.tap(layer) as tape:
        for x in batches:
            task_loss(layer(x)).backward()
    counts = sum(routing.expert_counts for routing in tape[""])
    layer.eval()
    layer(batches[0])
    assert not layer.router.selection_bias.any()
    optimizer.step()
    expected = balance_math.step_selection_bias(torch.zeros(E), counts, rate=0.001)
    assert torch.equal(layer.router.selection_bias, expected)
    assert not layer.router.tally.any()
    handle.remove()
    layer.train()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        task_loss(layer(batches[0])).backward()
    optimizer.step()
    assert torch.equal(layer.router.selection_bias, expected)


def test_the_bias_pulls_a_collapsed_router_back_to_balance():
    torch.manual_seed(0)
    spec = headgate.RouterSpec(num_experts=E, top_k=1, score="sigmoid", normalise="none")
    layer = headgate.MoE(D, F, router=spec, balance=Balance(bias_rate=0.02))
    with torch.no_grad():
        layer.router.weight.mul_(3.0)
        layer.router.weight[0, 0] = 4.0
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.0)
    headgate.attach_balance(layer, optimizer)
    x = torch.randn(256, D)
    x[:, 0] = 1.0
    ratios = []
    for _ in range(100):
        with headgate.tap(layer) as tape:
            layer(x).sum().backward()
        optimizer.step()
        counts = tape[""][0].expert_counts
        ratios.append((counts.max() / counts.double().mean()).item())
    assert ratios[0] > E / 2
    assert sum(ratios[-20:]) / 20 < 1.5


def test_a_bias_that_nobody_steps_is_warned_about():
    layer = make_layer(balance="bias")
    with pytest.warns(UserWarning, match=r"Call headgate\.attach_balance\(model, optimizer\) once"):
        layer(torch.randn(3, D, dtype=torch.float64))


def test_switching_balance_off_adds_nothing():
    layer = make_layer()
    with headgate.tap(layer) as tape:
        layer(torch.randn(3, D, dtype=torch.float64))
    assert tape[""][0].losses == {}


COMPILED = """
import torch
import headgate
from headgate.balance import Balance

strengths = Balance(switch=0.3, z=0.2, importance=0.1, sequence=0.4, global_batch=0.25, bias_rate=0.01)

def build():
    torch.manual_seed(0)
    layer = headgate.MoE(8, 12, num_experts=6, top_k=2, balance=strengths)
    headgate.attach_balance(layer, torch.optim.SGD(layer.parameters(), lr=0.1))
    return layer

eager, compiled = build(), build()
run = torch.compile(compiled, fullgraph=True, backend="aot_eager")
x = torch.randn(2, 5, 8)
eager(x).square().mean().backward()
run(x).square().mean().backward()
for got, want in zip(compiled.parameters(), eager.parameters(), strict=True):
    torch.testing.assert_close(got.grad, want.grad)
assert torch.equal(compiled.router.tally, eager.router.tally)
print(int(eager.router.tally.sum()))
"""


def test_compile_gives_the_same_gradients_and_counts(run_fresh):
    assert run_fresh(COMPILED).strip() == str(2 * 5 * K)


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def test_two_data_parallel_processes_equal_one(tmp_path):
    torch.manual_seed(3)
    x = torch.randn(2, 1, 6, D, dtype=torch.float64)
    arguments = (free_port(), x, str(tmp_path))
    torch.multiprocessing.start_processes(data_parallel.train_on_rank, args=arguments, nprocs=2, start_method="spawn")
    states = [torch.load(tmp_path / f"rank{rank}.pt", weights_only=True) for rank in (0, 1)]

    one = data_parallel.make_layer()
    routings = []
    one.router.register_forward_hook(lambda module, args, output: routings.append(output))
    tasks = [data_parallel.task_loss(one(part)) for part in x]
    counts = [balance_math.count_choices(r.choice.expert_ids, num_experts=E) for r in routings]
    total = sum(tasks) / 2
    for routing, count in zip(routings, counts, strict=True):
        total = total + 0.2 * balance_math.switch_loss(routing.scores, count) / 2
    everything = torch.cat([routing.scores for routing in routings])
    total = total + 0.3 * balance_math.switch_loss(everything, sum(counts))
    total.backward()
    for first, second in pairwise(states):
        assert all(torch.equal(first[name], second[name]) for name in first)
    for name, parameter in one.named_parameters():
        torch.testing.assert_close(states[0][name], parameter.grad)
    expected = balance_math.step_selection_bias(torch.zeros(E), sum(counts), rate=0.01)
    assert torch.equal(states[0]["bias"], expected)


def test_errors_say_what_to_do():
    with pytest.raises(InputError, match=r"model \(=Linear\) holds no routed layer; put a headgate\.MoE in it"):
        headgate.attach_balance(nn.Linear(2, 2), torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1))
    with pytest.raises(InputError, match="holds no routed layer"):
        headgate.set_balance_scale(nn.Linear(2, 2), 1.0)
    with pytest.raises(InputError, match=r"scale \(=-1\.0\) must be finite and at least 0"):
        headgate.set_balance_scale(make_layer(), -1.0)
    with pytest.raises(SpecError, match="no use in expert choice"):
        headgate.MoE(D, F, num_experts=E, router="expert_choice", balance="switch")
    linear = headgate.RouterSpec(num_experts=E, top_k=1, score="linear", normalise="softmax")
    with pytest.raises(SpecError, match="score is 'linear'; use balance 'z'"):
        headgate.MoE(D, F, router=linear, balance="switch")
    uniform = headgate.preset("hash", num_experts=E, vocab_size=10)
    with pytest.raises(SpecError, match="has no weights that a balance loss could move"):
        headgate.MoE(D, F, router=uniform, balance="z")
    with pytest.raises(SpecError, match="ranks nothing that selection_bias"):
        headgate.MoE(D, F, router=uniform, balance="bias")
