"""What a checkpoint of a model and its optimizer consists of: tensors by name, and the optimizer's settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import get_model_state_dict, get_optimizer_state_dict
from torch.distributed.tensor import DTensor

from headgate.errors import ArtifactError, InputError
from headgate.parallel.logical import LogicalExperts, held_experts

_RANDOM_CPU, _RANDOM_CUDA = "random.cpu", "random.cuda"


def tensors_of(model: nn.Module, optimizer: torch.optim.Optimizer | None) -> dict[str, Tensor]:
    """Name every tensor of a model and its optimizer as a checkpoint does; they are the live ones, not copies.

    What torch.distributed.checkpoint's own `save` and `load` take. Experts that are spread over ranks come as the
    stacked tensor that they are together.

    Args:
        model: any mix of expert parallelism, FSDP2 and plain tensors.
        optimizer: of that model. If it has made no step, torch makes one with zero gradients and learning rate, to
            have a state.

    Raises:
        InputError: the optimizer's state holds something besides tensors.

    Example:
        >>> import headgate
        >>> layer = headgate.MoE(8, 16, num_experts=4, top_k=2)
        >>> optimizer = torch.optim.SGD(layer.parameters(), momentum=0.9)
        >>> tensors_of(layer, optimizer)["model.experts.down_proj"].shape
        torch.Size([4, 8, 16])
    """
    model = unwrapped(model)
    held = held_experts(model)
    found = {f"model.{name}": value for name, value in model_tensors(model).items()}
    states: Any = {} if optimizer is None else get_optimizer_state_dict(model, optimizer)["state"]
    for parameter, values in states.items():
        for key, value in values.items():
            if not isinstance(value, Tensor):
                raise InputError(
                    f"the optimizer's {key} (={value!r}) of {parameter} must be a tensor; save without the optimizer, "
                    "or use one of torch.optim"
                )
            # A state of the parameter's shape lies as the parameter does; others, as the step, are the same everywhere.
            found[f"optimizer.{parameter}.{key}"] = _logical(value, held.get(parameter) if value.dim() else None)
    return found


def model_tensors(model: nn.Module) -> dict[str, Tensor]:
    """A model's parameters and buffers by their names in the state dict; spread experts as for `tensors_of`."""
    model = unwrapped(model)
    held = held_experts(model)
    values: Mapping[str, Any] = get_model_state_dict(model)
    return {name: _logical(value, held.get(name)) for name, value in values.items()}


def _logical(value: Tensor, held: tuple[Sequence[int], int] | None) -> Tensor:
    value = value.detach()
    if held is None:
        return value
    rows = value.to_local() if isinstance(value, DTensor) else value
    return LogicalExperts(rows, *held)


def optimizer_settings(model: nn.Module, optimizer: torch.optim.Optimizer) -> list[dict[str, Any]]:
    """Each parameter group's options, and the names of its parameters, as JSON holds them."""
    groups: Any = get_optimizer_state_dict(unwrapped(model), optimizer)["param_groups"]
    return [
        {key: value.item() if isinstance(value, Tensor) else value for key, value in group.items()} for group in groups
    ]


def set_optimizer_settings(
    model: nn.Module, optimizer: torch.optim.Optimizer, settings: Sequence[Mapping[str, Any]]
) -> None:
    """Give an optimizer the options that `optimizer_settings` returned, however it groups its parameters.

    Raises:
        ArtifactError: a group holds parameters that had other options.
    """
    options_of = {name: group for group in settings for name in group["params"]}
    groups: Any = get_optimizer_state_dict(unwrapped(model), optimizer)["param_groups"]
    for group, names in zip(optimizer.param_groups, (each["params"] for each in groups), strict=True):
        options = [{key: value for key, value in options_of[name].items() if key != "params"} for name in names]
        if not options:
            continue  # A group without parameters has no settings of theirs to get back.
        if any(other != options[0] for other in options):
            raise ArtifactError(
                f"the optimizer's parameter group (={names[0]} and {len(names) - 1} more) must hold parameters that "
                "had the same options in the checkpoint; group them as before"
            )
        for key, value in options[0].items():
            if isinstance(group[key], Tensor):
                group[key].fill_(value)
            else:
                group[key] = tuple(value) if isinstance(group[key], tuple) else value


def random_states(rank: int) -> dict[str, Tensor]:
    """Torch's random-number states on this rank, under names of its own."""
    states = {f"{_RANDOM_CPU}.{rank}": torch.get_rng_state()}
    if torch.cuda.is_available():
        states[f"{_RANDOM_CUDA}.{rank}"] = torch.cuda.get_rng_state()
    return states


def set_random_states(states: Mapping[str, Tensor]) -> None:
    """Let random numbers go on as `random_states` said; a device that isn't among them is left alone."""
    for name, state in states.items():
        if name.startswith(_RANDOM_CPU):
            torch.set_rng_state(state)
        else:
            torch.cuda.set_rng_state(state)


def unwrapped(model: nn.Module) -> nn.Module:
    """The module within DistributedDataParallel and torch.compile, whose names a checkpoint has."""
    while True:
        wrapped = model.module if isinstance(model, nn.parallel.DistributedDataParallel) else model
        wrapped = getattr(wrapped, "_orig_mod", wrapped)
        if wrapped is model:
            return model
        model = wrapped
