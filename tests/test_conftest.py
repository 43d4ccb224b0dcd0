import sys

import pytest
import torch
from jaxtyping import TypeCheckError

from headgate.planning import machine


def test_headgates_signatures_are_checked_at_run_time():
    with pytest.raises(TypeCheckError):
        machine.parse_cpuinfo(3)


def test_the_uninstrumented_modules_are_not_checked_and_go_away_again(uninstrumented):
    fresh = uninstrumented("headgate.planning.machine")
    assert fresh is not machine
    assert sys.modules["headgate.planning.machine"] is fresh
    with pytest.raises(TypeError, match="expected string"):
        fresh.parse_cpuinfo(3)


def test_the_instrumented_modules_are_back():
    assert sys.modules["headgate.planning.machine"] is machine
    assert sys.modules["headgate.kernels.plan"].torch is torch
