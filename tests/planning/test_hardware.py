"""The table of devices: every figure has a source and a date, and adds up where the source is arithmetic."""

import json
import re

import pytest

from headgate.errors import InputError
from headgate.planning.hardware import WIDER, devices, find_device

DEVICES = {device.name: device for device in devices()}


@pytest.mark.parametrize("name", DEVICES)
def test_each_figure_is_positive_and_has_a_source_and_a_date(name):
    device = DEVICES[name]
    assert device.memory_bytes > 0
    assert device.bandwidth > 0
    assert device.peak
    assert all(value > 0 for value in device.peak.values())
    assert device.bandwidth_source
    assert device.peak_source
    assert re.fullmatch(r"\d{4}-\d{2}-\d{2}", device.date)
    assert (device.link_bandwidth is None) == (device.node_size == 1)
    json.dumps(device.to_dict())


@pytest.mark.parametrize("name", DEVICES)
def test_a_wider_arithmetic_is_never_faster(name):
    peak = DEVICES[name].peak
    for narrow, wide in WIDER.items():
        if narrow in peak and wide in peak:
            assert peak[narrow] > peak[wide], (narrow, wide)


def test_names_are_unique_and_each_kind_is_there():
    assert len(DEVICES) == len(devices())
    assert {device.kind for device in devices()} == {"accelerator", "laptop", "cpu"}


@pytest.mark.parametrize(
    ("name", "channels", "transfers"),
    [("ryzen-7950x", 2, 5.2e9), ("epyc-9654", 12, 4.8e9), ("xeon-8480", 8, 4.8e9)],
)
def test_bandwidth_of_a_processor_is_channels_times_transfers_times_eight_bytes(name, channels, transfers):
    assert DEVICES[name].bandwidth == pytest.approx(channels * transfers * 8)


@pytest.mark.parametrize(
    ("name", "cores", "hertz", "per_cycle"),
    [
        ("ryzen-7840u", 8, 3.3e9, 64),
        ("ryzen-7950x", 16, 4.5e9, 64),
        ("epyc-9654", 96, 2.4e9, 64),
        ("xeon-8480", 56, 2.0e9, 1024),
    ],
)
def test_peak_of_a_processor_is_cores_times_clock_times_operations_per_cycle(name, cores, hertz, per_cycle):
    assert DEVICES[name].peak["bf16"] == pytest.approx(cores * hertz * per_cycle, rel=1e-3)


def test_a_missing_arithmetic_is_done_in_the_next_wider_one():
    assert find_device("a100-80gb").peak_for("fp4") == DEVICES["a100-80gb"].peak["bf16"]
    assert find_device("m1-max").peak_for("fp8") == DEVICES["m1-max"].peak["fp32"]


def test_an_arithmetic_that_nothing_replaces_is_refused():
    with pytest.raises(InputError, match=r"arithmetic \(=fp32\) must be one that b200 has: bf16, fp8, fp4"):
        find_device("b200").peak_for("fp32")


def test_names_ignore_case_and_a_wrong_one_gets_a_hint():
    assert find_device("H100-SXM") is find_device("h100-sxm")
    with pytest.raises(
        InputError, match=r"device \(=h100\) must be in the table of devices; did you mean h200 or h100-sxm"
    ):
        find_device("h100")
    with pytest.raises(InputError, match="there are h100-sxm, h200"):
        find_device("@@@")
