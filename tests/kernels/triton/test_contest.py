"""Which of two products is taken: the faster, timed once on each machine."""

from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch

pytest.importorskip("triton", reason="no Triton: pip install 'headgate[gpu]'")

from expert_problems import SPECS, make_problem
from headgate.kernels.triton import contest, ops
from triton_problems import triton_problem


@pytest.fixture
def timed(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> list[str]:
    """What was timed; a way takes as many milliseconds as its name is long."""
    calls: list[str] = []

    def measure(way: Callable[[], str], *, quantiles: tuple[float, ...]) -> list[float]:
        calls.append(way())
        return [float(len(calls[-1]))] * len(quantiles)

    active = SimpleNamespace(get_benchmarker=lambda: measure)
    monkeypatch.setattr(contest, "driver", SimpleNamespace(active=active))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a card")
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    contest._recall.cache_clear()
    return calls


def ways(*names: str) -> dict[str, Callable[[], str]]:
    return {name: lambda name=name: name for name in names}


def test_the_fastest_is_timed_once_and_remembered_on_disk(timed: list[str]) -> None:
    assert contest.find_fastest((1, 2), ways("grouped_mm", "tiles")) == "tiles"
    assert contest.find_fastest((1, 2), ways("grouped_mm", "tiles")) == "tiles"
    contest._recall.cache_clear()  # as in another process
    assert contest.find_fastest((1, 2), ways("grouped_mm", "tiles")) == "tiles"
    assert timed == ["grouped_mm", "tiles"]
    assert contest.find_fastest((1, 3), ways("grouped_mm", "slower than that")) == "grouped_mm"
    assert len(timed) == 4


def make_many() -> ops.Problem:
    return triton_problem(make_problem((200, 16, 16, 2, 1), SPECS["swiglu"], torch.bfloat16))


def test_it_is_asked_only_where_it_is_at_hand(timed: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    problem = make_many()
    both = ways("grouped_mm", "slower than that")
    assert not contest.takes_grouped_mm(problem, problem.up, both) or problem.x.is_cuda
    timed.clear()
    monkeypatch.setattr(contest, "offers_grouped_mm", lambda *_: True)
    torch.use_deterministic_algorithms(True)
    try:
        assert not contest.takes_grouped_mm(problem, problem.up, both)
    finally:
        torch.use_deterministic_algorithms(False)
    assert timed == []
    assert contest.takes_grouped_mm(problem, problem.up, both)
    assert not contest.takes_grouped_mm(problem, problem.down, ways("grouped_mm", "tiles"))


def test_sizes_types_and_cards_that_it_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 0))
    bf16 = torch.bfloat16

    def offers(width: int = 16, dtype: torch.dtype = bf16, num_rows: int = 200, device: str = "cuda") -> bool:
        x = SimpleNamespace(device=torch.device(device), dtype=dtype)
        return contest.offers_grouped_mm(x, torch.empty(2, 16, width, dtype=dtype), num_rows)

    assert offers()
    assert not any((offers(width=20), offers(dtype=torch.float16), offers(num_rows=40), offers(device="cpu")))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (8, 0))
    assert not offers()
