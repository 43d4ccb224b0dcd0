"""A trace replayed on a cluster: sums, times by hand, and refusals."""

import dataclasses

import numpy as np
import pytest
import torch

from headgate.errors import InputError
from headgate.layout import deal_experts
from headgate.planning.cluster import Cluster, ExpertShape
from headgate.planning.hardware import Device
from headgate.planning.placement import place_experts
from headgate.planning.simulate import simulate
from headgate.planning.traffic import RoutedTokens, tokens_of
from traces import random_trace

DEVICE = Device(
    name="x",
    title="x",
    kind="accelerator",
    memory_bytes=1,
    bandwidth=1e3,
    peak={"bf16": 1e6},
    link_bandwidth=100.0,
    node_size=2,
    bandwidth_source="made up",
    peak_source="made up",
    date="2026-11-23",
)
CLUSTER = Cluster(device=DEVICE, across_bandwidth=10.0)
SHAPE = ExpertShape(d_model=4, d_ff=5)


def run(ids, layout, **options):
    parts = [RoutedTokens(expert_ids=ids, step=torch.zeros(ids.shape[1], dtype=torch.int64))]
    return simulate(parts, layout, **{"cluster": CLUSTER, "shape": SHAPE, **options})


def test_the_time_of_a_step_by_hand():
    # Two devices, two nodes; token 0 on device 0, token 1 on device 1; both choose both experts.
    found = run(torch.tensor([[[0, 1], [0, 1]]]), deal_experts(1, 2, num_devices=2, num_nodes=2))
    # Weights: 3 * 4 * 5 * 2 = 120 bytes at 1000 a second; 2 rows of 120 operations take no time beside it.
    expert_s = 120 / 1e3
    # One token of 4 * 2 bytes each way across nodes at 10 bytes a second, and as much back.
    send_s = 2 * 8 / 10
    assert found.times.expert_s.tolist() == pytest.approx([expert_s])
    assert found.times.step_s.tolist() == pytest.approx([expert_s + send_s])
    assert found.times.even_s.tolist() == pytest.approx([expert_s + send_s])
    plain = found.to_dict()
    assert (plain["bytes_within_nodes"], plain["bytes_across_nodes"]) == (0, 2 * 2 * 8)
    assert plain["tokens_per_s"] == pytest.approx(2 / (expert_s + send_s))


def test_many_rows_are_bound_by_arithmetic():
    fast = dataclasses.replace(CLUSTER, device=dataclasses.replace(DEVICE, peak={"bf16": 100.0}))
    found = run(torch.zeros(1, 6, 1, dtype=torch.int64), deal_experts(1, 2, num_devices=2), cluster=fast)
    assert found.times.expert_s.tolist() == pytest.approx([6 * 120 / 100])
    assert found.times.even_s[0] < found.times.step_s[0]
    assert found.times.slowest_device.tolist() == [0]


def test_sums_do_not_depend_on_the_cuts():
    trace = random_trace(layers=(0, 1), lengths=(40, 24), num_experts=8, drop=0)
    layout = place_experts(trace.counts.numpy(), num_devices=4, num_replicas=4, num_nodes=2)
    options = {"cluster": CLUSTER, "shape": SHAPE}
    whole = simulate(tokens_of(trace), layout, **options)
    (tokens,) = tokens_of(trace)
    cuts = zip(tokens.expert_ids.split(7, 1), tokens.step.split(7), strict=True)
    parts = simulate([RoutedTokens(expert_ids=ids, step=step) for ids, step in cuts], layout, **options)
    assert torch.equal(whole.rows, parts.rows)
    assert torch.equal(whole.sent, parts.sent)
    assert torch.equal(whole.times.step_s, parts.times.step_s)
    assert whole.rows.sum(1).tolist() == [128, 128]
    assert len(whole.times.step_s) == 16


def test_what_if():
    ids = torch.from_numpy(np.argsort(np.random.default_rng(0).random((1, 64, 8)))[..., :2].copy())
    layout = deal_experts(1, 8, num_devices=4)
    free, tight = run(ids, layout), run(ids, layout, capacity_factor=0.5)
    assert free.num_dropped == 0
    # 64 tokens of 2 slots over 8 experts, half of an even share: 8 rows each.
    assert tight.rows.sum() + tight.num_dropped == 128
    assert tight.sent.sum() < free.sent.sum()
    assert int(tight.rows.max()) <= 16
    assert 0.4 < tight.to_dict()["drop_fraction"] < 0.6
    assert len(run(ids, layout, step_tokens=10).times.step_s) == 7


def test_thousands_of_devices():
    ids = torch.from_numpy(np.argsort(np.random.default_rng(0).random((1, 4096, 16)))[..., :2].copy())
    layout = place_experts(np.ones((1, 16)), num_devices=2048, num_nodes=256)
    found = run(ids, layout)
    assert found.rows.shape == (1, 2048)
    assert found.to_dict()["max_over_mean"] < 8


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"capacity_factor": 0.0}, r"^capacity \(=0.0\) must be positive; 1.25 is a common choice$"),
        (
            {"layout": deal_experts(2, 4, num_devices=2)},
            r"^layers \(=1 in the trace\) must be those of the layout \(=2\)",
        ),
        (
            {"layout": deal_experts(1, 2, num_devices=2)},
            r"^expert id \(=3\) must be below the layout's experts \(=2\)$",
        ),
    ],
)
def test_nonsense_is_refused(options, message):
    layout = options.pop("layout", deal_experts(1, 4, num_devices=2))
    with pytest.raises(InputError, match=message):
        run(torch.tensor([[[0, 3]]]), layout, **options)


def test_shapes_and_clusters_must_be_positive():
    with pytest.raises(InputError, match=r"^d_ff \(=0\) must be positive; see the model's config$"):
        ExpertShape(d_model=1, d_ff=0)
    with pytest.raises(InputError, match=r"^across_bandwidth \(=0.0\) must be positive, in bytes per second$"):
        Cluster(device=DEVICE, across_bandwidth=0.0)
    unlinked = Cluster(device=dataclasses.replace(DEVICE, link_bandwidth=None), across_bandwidth=7.0)
    assert unlinked.within_bandwidth == 7.0
