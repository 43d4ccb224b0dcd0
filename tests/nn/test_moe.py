"""The layer as a user meets it: shapes, dtypes, laws and edge cases."""

import copy

import pytest
import torch

import headgate
from headgate.kernels import reference

D, F, E, K = 16, 24, 8, 2
VOCABULARY = 50


def make_family(name: str, **options) -> headgate.MoE:
    torch.manual_seed(0)
    fields = {"vocab_size": VOCABULARY} if "hash" in name else {}
    top_k = 4 if name == "longcat_flash" else None
    return headgate.MoE.from_family(name, D, F, num_experts=16, top_k=top_k, **fields, **options)


def routing_of(layer, x, **options) -> headgate.Routing:
    with headgate.tap(layer) as tape:
        layer(x, **options)
    return tape[""][0]


def test_the_default_is_the_reference_layer():
    torch.manual_seed(0)
    layer = headgate.MoE(D, F, num_experts=E, top_k=K)
    x = torch.randn(37, D, requires_grad=True)
    weights = (layer.router.weight, layer.experts.gate_up_proj, layer.experts.down_proj)
    y, expected = layer(x), reference.moe(x, *weights, top_k=K)
    torch.testing.assert_close(y, expected)
    upstream = torch.randn_like(y)
    got = torch.autograd.grad(y, (x, *weights), upstream)
    want = torch.autograd.grad(expected, (x, *weights), upstream)
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b)


def test_parameters_have_the_documented_names_and_shapes():
    layer = headgate.MoE(D, F, num_experts=E, top_k=K)
    shapes = {name: tuple(parameter.shape) for name, parameter in layer.named_parameters()}
    assert shapes == {
        "experts.gate_up_proj": (E, 2 * F, D),
        "experts.down_proj": (E, D, F),
        "router.weight": (E, D),
    }


@pytest.mark.parametrize("shape", [(D,), (1, D), (0, D), (2, 3, D), (2, 0, D), (0, 3, D), (2, 2, 2, 3, D)])
@pytest.mark.parametrize("name", headgate.preset_names())
def test_any_leading_shape_with_gradients(name, shape):
    layer = make_family(name)
    for training in (True, False):
        layer.train(training)
        x = torch.randn(*shape, requires_grad=True)
        ids = torch.randint(0, VOCABULARY, shape[:-1])
        y = layer(x, token_ids=ids)
        assert y.shape == x.shape
        y.square().sum().backward()
        assert x.grad.shape == x.shape
        assert x.grad.isfinite().all()
    assert layer.experts.down_proj.grad.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", headgate.preset_names())
def test_every_dtype_in_and_out(name, dtype):
    layer = make_family(name, dtype=dtype)
    x = torch.randn(2, 5, D, dtype=dtype)
    ids = torch.randint(0, VOCABULARY, (2, 5))
    with headgate.tap(layer) as tape:
        y = layer(x, token_ids=ids)
    assert y.dtype == dtype
    assert y.isfinite().all()
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    routing = tape[""][0]
    assert {routing.logits.dtype, routing.scores.dtype, routing.choice.combine_weights.dtype} == {wide}
    y.sum().backward()
    assert all(p.grad is None or p.grad.dtype == p.dtype for p in layer.parameters())


def test_autocast_runs_experts_narrow_and_the_router_in_float32():
    torch.manual_seed(0)
    layer = headgate.MoE(D, F, num_experts=E, top_k=K)
    x = torch.randn(9, D)
    plain = routing_of(layer, x)
    with torch.autocast("cpu", torch.bfloat16):
        routing = routing_of(layer, x)
        y = layer(x)
    assert torch.equal(routing.logits, plain.logits)
    assert torch.equal(routing.choice.expert_ids, plain.choice.expert_ids)
    assert y.dtype == torch.float32
    narrow = copy.deepcopy(layer.experts).bfloat16()(x.bfloat16(), plain.plan, plain.choice.combine_weights)
    assert torch.equal(y, narrow.float())


def test_the_default_router_computes_in_float32_whatever_the_model():
    torch.manual_seed(0)
    layer = headgate.MoE(D, F, num_experts=E, top_k=K, dtype=torch.bfloat16)
    x = torch.randn(9, D, dtype=torch.bfloat16)
    exact = x.float() @ layer.router.weight.float().T
    torch.testing.assert_close(routing_of(layer, x).logits, exact)
    narrow = headgate.MoE(D, F, num_experts=E, top_k=K, dtype=torch.bfloat16, router="mixtral")
    narrow.load_state_dict(layer.state_dict())
    assert torch.equal(routing_of(narrow, x).logits, (x @ layer.router.weight.T).float())


def test_non_contiguous_input_gives_the_same_result():
    layer = headgate.MoE(D, F, num_experts=E, top_k=K)
    wide = torch.randn(D, 3, 5)
    view = wide.permute(1, 2, 0)
    torch.testing.assert_close(layer(view), layer(view.contiguous()))


@pytest.mark.parametrize("name", headgate.preset_names())
def test_same_seed_same_bits_on_every_run(name):
    def run():
        layer = make_family(name)
        torch.manual_seed(1)
        x = torch.randn(3, 7, D, requires_grad=True)
        y = layer(x, token_ids=torch.arange(21).reshape(3, 7))
        y.square().sum().backward()
        return [y, x.grad, *(p.grad for p in layer.parameters() if p.grad is not None)]

    assert all(torch.equal(a, b) for a, b in zip(run(), run(), strict=True))


def test_the_combine_has_the_same_bits_at_every_thread_count():
    torch.manual_seed(0)
    layer = headgate.MoE(D, F, num_experts=E, top_k=4)
    routing = routing_of(layer, torch.randn(501, D))
    plan = routing.plan
    rows = torch.randn(plan.num_rows, 64)
    weights = routing.choice.combine_weights.flatten()[plan.slot_of_row]
    order = (plan.token_of_row, plan.row_order, plan.token_offsets, plan.max_rows_per_token)
    threads = torch.get_num_threads()
    outputs = []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            outputs.append(torch.ops.headgate.combine_rows(rows, weights, *order))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(outputs[0], outputs[1])
    assert torch.equal(outputs[0], outputs[2])


@pytest.mark.parametrize("name", headgate.preset_names())
def test_state_dict_round_trip(name):
    layer, other = make_family(name), make_family(name)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.normal_()
        if layer.router.selection_bias is not None:
            layer.router.selection_bias.normal_()
    other.load_state_dict(layer.state_dict())
    x, ids = torch.randn(11, D), torch.randint(0, VOCABULARY, (11,))
    assert torch.equal(other.eval()(x, token_ids=ids), layer.eval()(x, token_ids=ids))


def test_casting_keeps_bias_and_threshold_in_float32_with_their_values():
    layer = headgate.MoE(D, F, num_experts=E, top_k=K, balance="bias")
    layer.router.selection_bias.copy_(torch.full((E,), 1.0009765625 + 2**-20))
    kept = layer.router.selection_bias.clone()
    layer.bfloat16()
    assert layer.router.weight.dtype == torch.bfloat16
    assert torch.equal(layer.router.selection_bias, kept)
    chooser = headgate.MoE(D, F, num_experts=E, top_k=K, router="expert_choice").half()
    assert chooser.router.threshold.dtype == torch.float32


def test_it_can_be_built_on_the_meta_device_and_materialised():
    layer = headgate.MoE(D, F, num_experts=E, top_k=K, balance="bias", device="meta")
    layer = layer.to_empty(device="cpu")
    layer.router.reset_parameters()
    layer.experts.reset_parameters()
    assert layer.router.selection_bias.device.type == "cpu"


def test_identical_experts_with_weights_that_sum_to_one_act_as_one_expert():
    torch.manual_seed(0)
    layer = headgate.MoE(D, F, num_experts=E, top_k=3, dtype=torch.float64)
    with torch.no_grad():
        layer.experts.gate_up_proj.copy_(layer.experts.gate_up_proj[:1].expand(E, -1, -1).clone())
        layer.experts.down_proj.copy_(layer.experts.down_proj[:1].expand(E, -1, -1).clone())
    x = torch.randn(13, D, dtype=torch.float64)
    gate, up = (x @ layer.experts.gate_up_proj[0].T).chunk(2, dim=1)
    expected = (torch.nn.functional.silu(gate) * up) @ layer.experts.down_proj[0].T
    torch.testing.assert_close(layer(x), expected)


def test_permuting_experts_permutes_counts_and_leaves_the_output():
    torch.manual_seed(0)
    layer = headgate.MoE(D, F, num_experts=E, top_k=K, dtype=torch.float64)
    permuted, order = copy.deepcopy(layer), torch.randperm(E)
    with torch.no_grad():
        for name, parameter in permuted.named_parameters():
            parameter.copy_(dict(layer.named_parameters())[name][order])
    x = torch.randn(29, D, dtype=torch.float64)
    torch.testing.assert_close(permuted(x), layer(x))
    assert torch.equal(routing_of(permuted, x).expert_counts, routing_of(layer, x).expert_counts[order])


def test_idle_experts_do_not_run():
    layer = headgate.MoE(D, F, num_experts=E, top_k=1, router="switch")
    with torch.no_grad():
        layer.router.weight.zero_()
        # Whatever an expert that nobody chose would compute is NaN.
        layer.experts.down_proj[1:] = float("nan")
    layer.eval()
    assert layer(torch.randn(5, D)).isfinite().all()


def test_one_expert_and_all_experts():
    one = headgate.MoE(D, F, num_experts=1, top_k=1)
    assert one(torch.randn(3, D)).shape == (3, D)
    every = headgate.MoE(D, F, num_experts=E, top_k=E)
    x = torch.randn(4, D)
    routing = routing_of(every, x)
    assert routing.expert_counts.tolist() == [4] * E
    torch.testing.assert_close(routing.choice.combine_weights.sum(1), torch.ones(4))


BAD_LOGITS = [float("nan"), float("inf"), float("-inf")]


@pytest.mark.parametrize("bad", BAD_LOGITS)
@pytest.mark.parametrize("name", [n for n in headgate.preset_names() if n not in ("expert_choice", "sinkhorn")])
def test_bad_logits_spoil_no_other_token_and_no_id(name, bad):
    # With capacity, whichever experts a spoiled token gets, it takes a place there; that is not harm.
    roomy = {"capacity": headgate.Capacity(factor=100.0)} if make_family(name).spec.capacity else {}
    layer = make_family(name, **roomy).eval()
    x = torch.randn(6, D)
    ids = torch.arange(6)
    clean = layer(x, token_ids=ids)
    x[2] = bad
    with headgate.tap(layer) as tape:
        y = layer(x, token_ids=ids)
    others = torch.tensor([0, 1, 3, 4, 5])
    torch.testing.assert_close(y[others], clean[others])
    for row in tape[""][0].choice.expert_ids:
        chosen = row[row >= 0].tolist()
        assert len(set(chosen)) == len(chosen)
        assert all(0 <= e < layer.spec.num_choices for e in chosen)


@pytest.mark.parametrize("bad", BAD_LOGITS)
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", ["expert_choice", "sinkhorn"])
def test_bad_logits_where_tokens_compete_leave_valid_choices(name, training, bad):
    layer = make_family(name).train(training)
    x = torch.randn(6, D)
    x[2] = bad
    with headgate.tap(layer) as tape:
        y = layer(x)
    others = torch.tensor([0, 1, 3, 4, 5])
    assert y[others].isfinite().all()
    assert tape[""][0].plan.token_of_row.max() < 6


def test_padding_gets_no_expert_and_does_not_matter():
    for name in headgate.preset_names():
        layer = make_family(name).eval()
        x = torch.randn(2, 6, D)
        ids = torch.arange(12).reshape(2, 6)
        mask = torch.zeros(2, 6, dtype=torch.bool)
        mask[0, 4:] = True
        with headgate.tap(layer) as tape:
            first = layer(x, token_ids=ids, padding_mask=mask)
        x[mask] = float("nan")
        second = layer(x, token_ids=ids, padding_mask=mask)
        assert torch.equal(first[~mask], second[~mask]), name
        assert not (tape[""][0].plan.token_of_row.unsqueeze(1) == mask.flatten().nonzero().T).any(), name
        if layer.shared_expert is None:
            assert not first[mask].any(), name


def test_padding_of_nan_leaves_gradients_finite():
    layer = headgate.MoE(D, F, num_experts=E, top_k=K, balance=headgate.Balance(switch=0.1, z=0.1))
    x = torch.randn(2, 4, D)
    mask = torch.zeros(2, 4, dtype=torch.bool)
    mask[1, 2:] = True
    x[mask] = float("nan")
    layer(x, padding_mask=mask)[~mask].sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in layer.parameters())


def test_dropped_tokens_are_zero_and_say_why():
    spec = headgate.preset("switch", num_experts=2, capacity=headgate.Capacity(absolute=2), jitter=0.0)
    layer = headgate.MoE(D, F, router=spec)
    with torch.no_grad():
        layer.router.weight.zero_()
    x = torch.randn(5, D)
    routing = routing_of(layer, x)
    assert routing.plan.drop_reason.flatten().tolist() == [0, 0] + [int(headgate.DropReason.CAPACITY)] * 3
    assert routing.choice.combine_weights.flatten().tolist() == [0.5, 0.5, 0, 0, 0]
    y = layer(x)
    assert y[:2].abs().sum() > 0
    assert not y[2:].any()


@pytest.mark.parametrize(
    "name", ["mixtral", "deepseek_v3", "gpt_oss", "llama4", "granitemoe", "deepseek_v4", "longcat_flash"]
)
def test_dropless_top_k_compiles_without_a_graph_break(name, uninstrumented):
    library = uninstrumented("headgate")
    torch.manual_seed(0)
    layer = library.MoE.from_family(name, D, F, num_experts=16, top_k=4)
    run = torch.compile(layer, fullgraph=True, backend="aot_eager")
    for tokens in (5, 12):
        x = torch.randn(2, tokens, D)
        torch.testing.assert_close(run(x), layer(x))
    x = torch.randn(2, 5, D, requires_grad=True)
    got = torch.autograd.grad(run(x).square().sum(), [x, *layer.parameters()])
    want = torch.autograd.grad(layer(x).square().sum(), [x, *layer.parameters()])
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b)
    with library.tap(run) as tape:
        run(x)
    assert len(tape[""]) == 1


def check_looks_ahead(layer: headgate.MoE, *, sequence_length: int = 10) -> bool:
    """Whether changing later tokens changes what any earlier token gets."""
    changed = False
    for seed in range(8):
        torch.manual_seed(seed)
        x = torch.randn(1, sequence_length, D)
        ids = torch.arange(sequence_length)[None]
        torch.manual_seed(99)
        before = layer(x, token_ids=ids)
        later = x.clone()
        later[:, 5:] = torch.randn(1, sequence_length - 5, D) * 3
        torch.manual_seed(99)
        after = layer(later, token_ids=ids)
        # Products of another row count round differently; another choice is far beyond that.
        changed |= not torch.allclose(before[:, :5], after[:, :5], atol=1e-5)
    return changed


@pytest.mark.parametrize("name", headgate.preset_names())
def test_causality_is_as_stated(name):
    layer = make_family(name)
    assert check_looks_ahead(layer.eval()) == layer.spec.may_see_later_tokens_in_inference
    quiet = {"noise": "none", "jitter": 0.0}
    fields = {"vocab_size": VOCABULARY} if "hash" in name else {}
    if layer.spec.selection == "sparsemixer":
        return  # It draws in training; the eval mode above is the whole statement.
    spec = headgate.preset(name, num_experts=16, top_k=layer.spec.top_k, **quiet, **fields)
    training = headgate.MoE(D, F, router=spec)
    assert check_looks_ahead(training) == spec.may_see_later_tokens_in_training


def test_threshold_learned_in_training_decides_as_training_did():
    torch.manual_seed(0)
    layer = headgate.MoE(D, F, num_experts=4, top_k=2, router="expert_choice")
    x = torch.randn(512, D)
    optimizer = torch.optim.Adam([layer.router.threshold], lr=5e-3)
    for _ in range(300):
        optimizer.zero_grad()
        layer(x).sum().backward()
        optimizer.step()
    trained = routing_of(layer, x)
    causal = routing_of(layer.eval(), x)
    wanted = torch.zeros(512, 4, dtype=torch.bool)
    for expert, tokens in enumerate(trained.choice.token_ids):
        wanted[tokens, expert] = True
    got = torch.zeros(512, 5, dtype=torch.bool).scatter(
        1, causal.choice.expert_ids.where(causal.choice.expert_ids >= 0, 4), True
    )[:, :4]
    assert (wanted != got).sum() / wanted.sum() < 0.05


def test_it_prints_what_it_is():
    text = repr(headgate.MoE.from_family("qwen2_moe", D, F, num_experts=E))
    assert "num_experts=8, top_k=4" in text
    assert "SharedExpert" in text
