"""Where experts live when several devices share them, and which replica a row goes to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from numpy.typing import NDArray
from torch import Tensor

from headgate.errors import InputError

EMPTY = -1
"""The entry of a slot that holds no expert."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ExpertLayout:
    """Where the replicas of every expert live, layer by layer.

    Every device has as many slots as the others, and a slot holds one replica or nothing: empty slots make devices
    unequal. Slot s of device w is the physical expert `w * S + s`; the devices of a node follow each other.
    Letters: L layers, W devices, S slots of a device, P = W * S, E experts.

    Attributes:
        device_experts: [L, W, S] int64, the expert in each slot, -1 = empty; every expert somewhere, none twice on a
            device.
        num_experts: E.
        layer_index: decoder layer of each row; None = 0 to L - 1.
        num_nodes: groups of devices with fast links among them.

    Raises:
        InputError: the first rule that does not hold, with layer and device.

    Example:
        >>> layout = ExpertLayout(device_experts=np.array([[[0, 1], [2, 0]]]), num_experts=3)
        >>> layout.physical_to_logical.tolist(), layout.replica_counts.tolist()
        ([[0, 1, 2, 0]], [[2, 1, 1]])
        >>> layout.device_loads(np.array([[4, 1, 1]])).tolist()
        [[3.0, 3.0]]
    """

    device_experts: NDArray[np.int64]
    num_experts: int
    layer_index: tuple[int, ...] | None = None
    num_nodes: int = 1

    def __post_init__(self) -> None:
        slots = self.device_experts
        if slots.ndim != 3 or 0 in slots.shape:
            raise InputError(
                f"device_experts.shape (={slots.shape}) must be [L, W, S], none 0; give a layer one device"
            )
        if self.num_nodes < 1 or slots.shape[1] % self.num_nodes:
            raise InputError(
                f"num_nodes (={self.num_nodes}) must divide the number of devices (={slots.shape[1]}); "
                "give every node as many devices"
            )
        if self.layer_index is not None and len(self.layer_index) != len(slots):
            raise InputError(f"layer_index (={len(self.layer_index)} layers) must name each row (={len(slots)})")
        self._check_slots()

    def _check_slots(self) -> None:
        slots, num_experts = self.device_experts, self.num_experts
        is_outside = (slots < EMPTY) | (slots >= num_experts)
        if is_outside.any():
            row, device, slot = np.argwhere(is_outside)[0]
            raise InputError(
                f"expert (={slots[row, device, slot]}) on device {device} of layer {self.layers[row]} must be in "
                f"[0, {num_experts}), or {EMPTY} for an empty slot; give the right number of experts"
            )
        ranked = np.sort(slots, axis=2)
        is_twice = (ranked[..., 1:] == ranked[..., :-1]) & (ranked[..., 1:] != EMPTY)
        if is_twice.any():
            row, device, slot = np.argwhere(is_twice)[0]
            raise InputError(
                f"expert (={ranked[row, device, slot]}) is twice on device {device} of layer {self.layers[row]}; "
                "put its replicas on different devices, a second one beside the first takes memory and no load"
            )
        is_missing = self.replica_counts == 0
        if is_missing.any():
            row, expert = np.argwhere(is_missing)[0]
            raise InputError(f"expert (={expert}) is on no device of layer {self.layers[row]}; give it a slot")

    @property
    def layers(self) -> tuple[int, ...]:
        """Decoder layer of each row."""
        return self.layer_index if self.layer_index is not None else tuple(range(len(self.device_experts)))

    @property
    def num_devices(self) -> int:
        """W."""
        return int(self.device_experts.shape[1])

    @property
    def slots_per_device(self) -> int:
        """S."""
        return int(self.device_experts.shape[2])

    @property
    def num_replicas(self) -> int:
        """Slots beyond one for each expert, in the layer that fills the most."""
        return int((self.physical_to_logical != EMPTY).sum(1).max()) - self.num_experts

    @property
    def has_empty_slots(self) -> bool:
        """Whether a slot holds no expert."""
        return bool((self.device_experts == EMPTY).any())

    def require_full(self) -> None:
        """Require an expert in every slot, as engines and the planning of layouts do.

        Raises:
            InputError: a slot is empty.
        """
        if self.has_empty_slots:
            row, device, slot = np.argwhere(self.device_experts == EMPTY)[0]
            raise InputError(
                f"slot {slot} (={EMPTY}) of device {device} in layer {self.layers[row]} must not be empty here; give "
                "every device as many experts, with replicas where they don't come out even"
            )

    @property
    def physical_to_logical(self) -> NDArray[np.int64]:
        """[L, P] the expert of each physical expert; -1 = empty."""
        return self.device_experts.reshape(len(self.device_experts), -1)

    @property
    def replica_counts(self) -> NDArray[np.int64]:
        """[L, E] slots that hold each expert."""
        num_layers, width = len(self.device_experts), self.num_experts + 1
        # Each layer counts in columns of its own, the first of which takes the empty slots.
        columns = self.physical_to_logical + 1 + width * np.arange(num_layers)[:, None]
        return np.bincount(columns.ravel(), minlength=num_layers * width).reshape(num_layers, width)[:, 1:]

    @property
    def logical_to_physical(self) -> NDArray[np.int64]:
        """[L, E, C] the physical experts of each expert, rising; -1 after the last."""
        flat, counts = self.physical_to_logical, self.replica_counts
        table = np.full((*counts.shape, int(counts.max())), -1, dtype=np.int64)
        for row, experts in enumerate(flat):
            filled = np.flatnonzero(experts != EMPTY)
            order = filled[np.argsort(experts[filled], kind="stable")]
            first = np.cumsum(counts[row]) - counts[row]
            table[row, experts[order], np.arange(len(order)) - first[experts[order]]] = order
        return table

    def device_loads(self, counts: NDArray[Any]) -> NDArray[np.float64]:
        """Rows of each device when the replicas of an expert share its rows evenly.

        Args:
            counts: [L, E] rows per expert.

        Returns:
            [L, W].
        """
        share = counts / self.replica_counts
        # The column after the last is what an empty slot, index -1, picks.
        share = np.pad(share, ((0, 0), (0, 1)))
        of_slots = np.take_along_axis(share, self.physical_to_logical, axis=1)
        loads: NDArray[np.float64] = of_slots.reshape(self.device_experts.shape).sum(2)
        return loads

    def moves_from(self, old: ExpertLayout) -> int:
        """Count the experts that a device must load which it does not hold in the old layout, over all layers.

        Raises:
            InputError: another number of layers, devices or experts.
        """
        mine, theirs = ((*x.device_experts.shape[:2], x.num_experts) for x in (self, old))
        if mine != theirs:
            raise InputError(f"old layout (={theirs} layers, devices, experts) must be as the new one (={mine})")
        held = np.zeros((*mine[:2], self.num_experts + 1), dtype=bool)
        np.put_along_axis(held, old.device_experts, True, axis=2)
        held[..., EMPTY] = True  # Nothing is loaded into a slot that stays or becomes empty.
        return int((~np.take_along_axis(held, self.device_experts, axis=2)).sum())


def deal_experts(
    num_layers: int, num_experts: int, *, num_devices: int, num_replicas: int = 0, num_nodes: int = 1
) -> ExpertLayout:
    """Deal out the experts in the order of their ids, and then the first ones again: what engines start from.

    Raises:
        InputError: the slots do not fill the devices evenly, or a device would need one expert twice.

    Example:
        >>> deal_experts(1, 4, num_devices=3, num_replicas=2).device_experts.tolist()
        [[[0, 1], [2, 3], [0, 1]]]
    """
    check_sizes(num_experts, num_devices=num_devices, num_replicas=num_replicas, num_nodes=num_nodes)
    slots = np.arange(num_experts + num_replicas) % num_experts
    table = np.broadcast_to(slots.reshape(num_devices, -1), (num_layers, num_devices, len(slots) // num_devices))
    return ExpertLayout(device_experts=table.copy(), num_experts=num_experts, num_nodes=num_nodes)


def check_sizes(num_experts: int, *, num_devices: int, num_replicas: int, num_nodes: int = 1) -> None:
    """Require that experts and replicas fill the devices evenly, and no device needs an expert twice.

    Raises:
        InputError: they don't.
    """
    if num_devices < 1:
        raise InputError(f"devices (={num_devices}) must be at least 1; give how many share the experts")
    if num_nodes < 1 or num_devices % num_nodes:
        raise InputError(f"nodes (={num_nodes}) must divide the devices (={num_devices}); give each node as many")
    if num_replicas < 0:
        raise InputError(f"replicas (={num_replicas}) must be at least 0; leave it out for as few as fill the devices")
    most = num_experts * (num_devices - 1)
    if num_replicas > most:
        raise InputError(
            f"replicas (={num_replicas}) must be at most {most}: with {num_devices} devices and {num_experts} experts, "
            "every device then holds every expert; ask for fewer"
        )
    num_slots = num_experts + num_replicas
    if num_slots % num_devices:
        fewest = fewest_replicas(num_experts, num_devices)
        near = (num_slots // num_devices * num_devices - num_experts, num_replicas + -num_slots % num_devices)
        fitting = " or ".join(str(n) for n in near if fewest <= n <= most)
        raise InputError(
            f"experts + replicas (={num_experts} + {num_replicas}) must be a multiple of the devices (={num_devices}), "
            f"since every device has as many slots; ask for {fitting} replicas"
        )


def fewest_replicas(num_experts: int, num_devices: int) -> int:
    """The fewest replicas with which every device has as many slots as the others.

    Example:
        >>> fewest_replicas(256, 8), fewest_replicas(256, 48), fewest_replicas(256, 320)
        (0, 32, 64)
    """
    return -num_experts % num_devices


def choose_replicas(
    expert_ids: Int[Tensor, "T K"],
    source_rank: Int[Tensor, " T"],
    replicas: Int[Tensor, "E C"],
    *,
    step: Int[Tensor, " T"] | None = None,
) -> Int[Tensor, "T K"]:
    """Choose the replica that each row goes to: the n-th row of an expert from rank r takes replica (n + r) mod c.

    Rows are counted from 0 in the order of tokens and slots, on each rank for itself, so a rank needs to know nothing
    of the others; c is the expert's number of replicas. Of the rows of one rank and step, no replica gets more than
    one above another. Beginning with another replica on every rank keeps small batches even, too.

    Args:
        expert_ids: [T, K], -1 = no expert.
        source_rank: [T] where each token is.
        replicas: [E, C] physical experts of each expert, -1 after the last; see `ExpertLayout.logical_to_physical`.
        step: [T] which forward pass each token is in; rows are counted in each for itself. None = all in one.

    Returns:
        [T, K] int64 physical experts; -1 where there is no expert.

    Example:
        >>> replicas = torch.tensor([[0, 3], [1, -1]])
        >>> ids = torch.tensor([[0, 1], [0, -1], [0, 1]])
        >>> choose_replicas(ids, torch.tensor([0, 0, 1]), replicas).tolist()
        [[0, 1], [3, -1], [3, 1]]
    """
    flat = expert_ids.long().flatten()
    num_slots, num_experts = expert_ids.shape[1], len(replicas)
    rank = source_rank.long().repeat_interleave(num_slots)
    part = torch.zeros_like(rank) if step is None else step.long().repeat_interleave(num_slots)
    key = (part * (rank.amax() + 1 if len(rank) else 1) + rank) * (num_experts + 1) + flat
    known = flat.clamp(min=0)
    turn = _count_turns(key) + rank
    chosen = replicas[known, turn % (replicas >= 0).sum(1)[known]]
    return chosen.long().where(flat >= 0, -1).view(expert_ids.shape)


def _count_turns(keys: Int[Tensor, " N"]) -> Int[Tensor, " N"]:
    """How many equal keys come before each one."""
    ranked, order = torch.sort(keys, stable=True)
    _, lengths = torch.unique_consecutive(ranked, return_counts=True)
    first = (lengths.cumsum(0) - lengths).repeat_interleave(lengths)
    turns = torch.empty_like(keys)
    turns[order] = torch.arange(len(keys), device=keys.device) - first
    return turns
