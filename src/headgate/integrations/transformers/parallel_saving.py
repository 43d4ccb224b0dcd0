"""Save a model of transformers whose experts are spread over ranks, in the layout in which it is published."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from headgate.errors import BackendError
from headgate.files import explain_os_errors
from headgate.integrations.transformers.expert_rows import EXPERT_NUMBER
from headgate.parallel.launch import on_first_rank
from headgate.parallel.logical import LogicalExperts, experts_here
from headgate.parallel.spread import find_spread
from headgate.parallel.weights import write_safetensors

_WEIGHTS, _INDEX = "model.safetensors", "model.safetensors.index.json"


def save_expert_parallel(model: Any, folder: Path | str) -> None:
    """Write a model with spread experts in the layout in which transformers publishes it, all ranks together.

    Names and numbers are those that `save_pretrained` writes of the whole model, in one `model.safetensors`; each rank
    writes its own experts at their place, and none gathers them. What FSDP has sharded besides is gathered.

    Args:
        model: of `expert_parallel` or `load_expert_parallel`; every rank of the default group calls this.
        folder: on a disk that all ranks see, made if need be; `from_pretrained(folder)` loads it.

    Raises:
        ArtifactError: on all ranks: something can't be written, on which rank, and why.
        BackendError: transformers' own conversion back to the published layout mixes experts.
    """
    folder = Path(folder)
    on_first_rank(lambda: _write_settings(model, folder))
    write_safetensors(folder / _WEIGHTS, published_tensors(model), metadata={"format": "pt"})
    # Of an older save in several files, whose index would be read first.
    on_first_rank(lambda: (folder / _INDEX).unlink(missing_ok=True))


def _write_settings(model: Any, folder: Path) -> None:
    """What `save_pretrained` writes besides the weights."""
    with explain_os_errors("write", folder):
        folder.mkdir(parents=True, exist_ok=True)
        # FSDP gives a model a class of its own, named after the model's.
        model.config.architectures = [type(model).__name__.removeprefix("FSDP")]
        model.config.dtype = model.dtype
        model.config.save_pretrained(folder)
        if model.can_generate():
            model.generation_config.save_pretrained(folder)


@torch.no_grad()
def published_tensors(model: Any) -> dict[str, Tensor]:
    """This rank's part of a model under the names of its published layout.

    Returns:
        All that is not of experts; of these, this rank's, each under its own name, or a `LogicalExperts` of them where
        the layout has them stacked.

    Raises:
        BackendError: see `save_expert_parallel`.
    """
    from transformers.core_model_loading import revert_weight_conversion
    from transformers.modeling_utils import remove_tied_weights_from_state_dict

    state = dict(model.state_dict())
    published: dict[str, Tensor] = {}
    for path, (module, spread) in find_spread(model).items():
        names = {f"{path}.{name}": module.get_parameter(name) for name in spread.weights}
        local = {name: state.pop(name).to_local() for name in names}
        name, weight = next(iter(names.items()))
        experts = experts_here(name, weight, spread)
        if experts:
            published |= _numbered(revert_weight_conversion(model, local), experts, spread.num_experts)
    whole = {name: value.full_tensor() if isinstance(value, DTensor) else value for name, value in state.items()}
    rest: Mapping[str, Tensor] = revert_weight_conversion(model, remove_tied_weights_from_state_dict(whole, model))
    return {**rest, **published}


def _numbered(tensors: Mapping[str, Tensor], experts: Sequence[int], num_experts: int) -> dict[str, Tensor]:
    """Give experts that a conversion has counted from 0 their own numbers."""
    found: dict[str, Tensor] = {}
    for key, tensor in tensors.items():
        number = EXPERT_NUMBER.search(key)
        if number is not None:
            found[f"{key[: number.start(1)]}{experts[int(number[1])]}{key[number.end(1) :]}"] = tensor
        elif len(tensor) == len(experts):
            found[key] = LogicalExperts(tensor, experts, num_experts)
        else:
            raise BackendError(
                f"{key} (={tuple(tensor.shape)}) is made by a conversion of transformers that mixes experts, so no "
                "rank can write its own alone; use headgate.parallel.save_checkpoint"
            )
    return found
