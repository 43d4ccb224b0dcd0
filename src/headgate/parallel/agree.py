"""Ranks that would not work together are refused when a model is set up, and named."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch.distributed as dist

from headgate.errors import InputError
from headgate.parallel.launch import gather_from_ranks


def check_agreement(facts: Mapping[str, Any], group: dist.ProcessGroup) -> None:
    """Require that all ranks of a group state the same facts.

    Args:
        facts: names, and what this rank has; compared as they print.
        group: every one of its ranks must call this.

    Raises:
        InputError: on every rank: the first fact that differs, who has what, and what to do.

    Example:
        >>> store = dist.HashStore()
        >>> dist.init_process_group("gloo", store=store, rank=0, world_size=1)
        >>> check_agreement({"num_experts": 8}, dist.group.WORLD)
        >>> dist.destroy_process_group()
    """
    stated = gather_from_ranks({name: str(fact) for name, fact in facts.items()}, group)
    for name in facts:
        by_value: dict[str, list[int]] = {}
        for rank, theirs in enumerate(stated):
            by_value.setdefault(theirs[name], []).append(rank)
        if len(by_value) > 1:
            raise InputError(_describe(name, by_value))


def _describe(name: str, by_value: Mapping[str, list[int]]) -> str:
    usual = max(by_value, key=lambda value: len(by_value[value]))
    others = "; ".join(f"{value} on {_name_ranks(ranks)}" for value, ranks in by_value.items() if value != usual)
    return (
        f"{name} (={others}) must be the same on all ranks, and is {usual} on {_name_ranks(by_value[usual])}; "
        "build the model from one configuration on every rank"
    )


def _name_ranks(ranks: list[int]) -> str:
    return f"rank{'s' if len(ranks) > 1 else ''} {', '.join(map(str, ranks))}"
