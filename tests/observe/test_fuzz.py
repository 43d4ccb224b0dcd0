"""A few damaged files for each format; tests/fuzz_traces.py tries as many as one likes."""

import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fuzz_traces import damage, targets, try_one

TARGETS = targets()


@pytest.mark.parametrize("name", TARGETS)
def test_a_right_file_is_read(name, tmp_path):
    assert try_one(TARGETS[name], TARGETS[name][1], tmp_path) == "read"


@pytest.mark.parametrize("name", TARGETS)
@given(seed=st.integers(0, 2**32))
@settings(deadline=None, max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_damaged_file_is_read_or_refused(name, seed, tmp_path_factory):
    folder = tmp_path_factory.mktemp("fuzz")
    assert try_one(TARGETS[name], damage(TARGETS[name][1], random.Random(seed)), folder) in ("read", "refused")


@pytest.mark.parametrize("name", TARGETS)
@given(content=st.binary(max_size=64))
@settings(deadline=None, max_examples=10)
def test_any_bytes_are_read_or_refused(name, content, tmp_path_factory):
    folder = tmp_path_factory.mktemp("fuzz")
    assert try_one(TARGETS[name], content, folder) in ("read", "refused")
