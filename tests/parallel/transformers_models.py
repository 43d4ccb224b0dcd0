"""What the ranks run in the tests of transformers' models, and what one process gives."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from support.memory import peak_growth_bytes
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from transformers import MixtralConfig, MixtralForCausalLM

from headgate.errors import InputError
from headgate.integrations.transformers import expert_parallel, load_expert_parallel
from headgate.integrations.transformers.sites import find_sites
from headgate.layout import ExpertLayout
from headgate.parallel import (
    average_gradients,
    group_by_mesh,
    load_checkpoint,
    measure_traffic,
    relayout,
    save_checkpoint,
)
from headgate.parallel.logical import LogicalExperts
from headgate.parallel.spread import spread_of
from headgate.parallel.state import tensors_of
from integrations import zoo

Result = dict[str, Any]


def make_mesh(num_nodes: int = 1) -> DeviceMesh:
    num_ranks = dist.get_world_size()
    if num_nodes == 1:
        return dist.init_device_mesh("cpu", (num_ranks,), mesh_dim_names=("ep",))
    return dist.init_device_mesh("cpu", (num_nodes, num_ranks // num_nodes), mesh_dim_names=("node", "ep"))


def make_inputs(name: str, num_ranks: int) -> list[dict[str, Tensor]]:
    """Sequences of each rank, more on every rank than on the one before; the first has one."""
    model = build(name)
    inputs = zoo.example_inputs(model)
    ids = torch.randint(3, zoo.VOCABULARY, (num_ranks, 7), generator=torch.Generator().manual_seed(2))
    parts = []
    for rank in range(num_ranks):
        part = ids[rank : rank + 1, : 4 + rank]
        ours = {"input_ids": part, "decoder_input_ids": part.flip(1)}
        parts.append({key: ours.get(key, value) for key, value in inputs.items()})
    return parts


def train_once(model: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
    """The output, after the gradients of sum(y * target): of a sum of squares behind a norm, they would all be 0."""
    y = zoo.output_of(model(**inputs))
    target = torch.randn(y.shape, generator=torch.Generator().manual_seed(5))
    (y * target).sum().backward()
    return y.detach()


def get_ready() -> None:
    """Build a model, so that what is slow the first time is done."""
    build("mixtral")


def build(name: str) -> Any:
    """The same model in every process: what the zoo does not draw itself, transformers draws by the global seed."""
    torch.manual_seed(0)
    return zoo.build(name)


def run_whole(name: str, num_ranks: int) -> Result:
    """One process: each rank's sequences in turn, as they don't look at each other, and the gradients of all."""
    model = build(name)
    outputs = [train_once(model, inputs) for inputs in make_inputs(name, num_ranks)]
    grads = {key: value.grad for key, value in model.named_parameters() if value.grad is not None}
    return {"outputs": outputs, "grads": grads}


def run_on_rank(name: str, slots: Any = None, num_nodes: int = 1, save_in: str | None = None) -> Result:
    """This rank's output and gradients; those of experts by (parameter, expert). And save the model, where asked to."""
    num_ranks = dist.get_world_size()
    layout = None if slots is None else ExpertLayout(device_experts=slots, num_experts=zoo.NUM_EXPERTS)
    model = expert_parallel(build(name), make_mesh(num_nodes), layout, average_gradients=False)
    if save_in is not None:
        model.save_pretrained(save_in)
    return measure(model, make_inputs(name, num_ranks)[dist.get_rank()])


def load_on_rank(path: str, name: str) -> Result:
    model = load_expert_parallel(path, make_mesh(), model_class=zoo.model_class(name), average_gradients=False)
    return measure(model, make_inputs(name, dist.get_world_size())[dist.get_rank()])


def measure(model: nn.Module, inputs: dict[str, Tensor]) -> Result:
    output = train_once(model, inputs)
    held = {site.path: spread_of(site.module).local_experts for site in find_sites(model)}
    grads, of_experts = {}, {}
    for key, parameter in model.named_parameters():
        path = key.rpartition(".")[0]
        if isinstance(parameter, dist.tensor.DTensor):
            local = None if parameter.grad is None else parameter.grad.to_local()
            assert parameter.to_local().shape[0] == len(held[path])
            of_experts[key] = {} if local is None else dict(zip(held[path], local, strict=True))
        elif parameter.grad is not None:
            grads[key] = parameter.grad
    return {"output": output, "grads": grads, "of_experts": of_experts}


def refuse_saving() -> str:
    """The message of what `save_pretrained` raises for an option that it can't keep."""
    model = expert_parallel(build("mixtral"), make_mesh())
    try:
        model.save_pretrained("nowhere", max_shard_size="1GB")
    except InputError as error:
        return str(error)
    return "not refused"


def tune_and_save(name: str, checkpoints: str, folder: str, slots: Any = None) -> None:
    """A step of AdamW, then a checkpoint, then the published layout."""
    model, optimizer = make_tuned(name, slots)
    inputs = make_inputs(name, dist.get_world_size())[dist.get_rank()]
    train_once(model, inputs)
    average_gradients(model)
    optimizer.step()
    save_checkpoint(checkpoints, model, optimizer, step=1)
    model.save_pretrained(folder)


def save_fully_sharded(folder: str) -> None:
    """Experts over ranks, and all else sharded by FSDP2 over the same ones."""
    model = expert_parallel(build("mixtral"), make_mesh())
    experts = {parameter for parameter in model.parameters() if isinstance(parameter.data, DTensor)}
    fully_shard(model, mesh=make_mesh(), ignored_params=experts)
    model.save_pretrained(folder)


def make_tuned(name: str, slots: Any = None) -> tuple[Any, torch.optim.Optimizer]:
    """A model with its experts spread where there are ranks, and an optimizer."""
    model = build(name)
    if dist.is_initialized():
        layout = None if slots is None else ExpertLayout(device_experts=slots, num_experts=zoo.NUM_EXPERTS)
        model = expert_parallel(model, make_mesh(), layout)
    groups = [{"params": group} for group in group_by_mesh(model.parameters())]
    return model, torch.optim.AdamW(groups, lr=0.1)


def load_tuned(name: str, path: str, slots: Any = None) -> dict[str, Any]:
    """What a checkpoint brings back: each tensor, or this rank's experts of it by their ids."""
    model, optimizer = make_tuned(name, slots)
    load_checkpoint(path, model, optimizer)
    return {key: rows_of(tensor) for key, tensor in tensors_of(model, optimizer).items()}


def rows_of(tensor: Tensor) -> Any:
    if isinstance(tensor, LogicalExperts):
        return {expert: tensor.rows[row].clone() for expert, row in tensor.row_of_expert.items()}
    return tensor.clone()


def move_and_measure(name: str, slots: Any) -> tuple[Result, int]:
    """The outcome of a model whose experts were moved after it was spread; and the rows that it then sent."""
    model = expert_parallel(build(name), make_mesh(), average_gradients=False)
    relayout(model, ExpertLayout(device_experts=slots, num_experts=zoo.NUM_EXPERTS))
    with measure_traffic(model) as traffic:
        result = measure(model, make_inputs(name, dist.get_world_size())[dist.get_rank()])
    return result, sum(sum(each.rows_sent) for passes in traffic.values() for each in passes)


def generate_on_rank(name: str, lengths: tuple[int, ...]) -> list[int]:
    """What this rank generates: another prompt and another number of tokens on each."""
    model = expert_parallel(build(name), make_mesh())
    return generate(model, dist.get_rank(), lengths)


def generate(model: Any, rank: int, lengths: tuple[int, ...]) -> list[int]:
    prompt = torch.randint(3, zoo.VOCABULARY, (1, 3 + rank), generator=torch.Generator().manual_seed(rank))
    made = model.generate(prompt, min_new_tokens=lengths[rank], max_new_tokens=lengths[rank], do_sample=False)
    return made[0].tolist()


def refuse(name: str, slots: Any = None, dtype: torch.dtype | None = None) -> str:
    """The message of what `expert_parallel` raises; rank 1 has the model in another dtype."""
    model = build(name)
    if dtype is not None and dist.get_rank() == 1:
        model = zoo.cast(model, dtype)
    layout = None if slots is None else ExpertLayout(device_experts=slots, num_experts=int(slots.max()) + 1)
    try:
        expert_parallel(model, make_mesh(), layout)
    except (ValueError, RuntimeError) as error:
        return str(error)
    return "not refused"


def save_wide(path: str) -> int:
    """Write a checkpoint whose experts outweigh all else; return their bytes."""
    sizes = {"hidden_size": 512, "intermediate_size": 1024, "num_hidden_layers": 2, "vocab_size": 64}
    config = MixtralConfig(**sizes, num_attention_heads=4, num_key_value_heads=2, num_local_experts=8)
    model = MixtralForCausalLM(config)
    model.save_pretrained(path, max_shard_size="20MB")
    return sum(p.nbytes for site in find_sites(model) for p in site.module.parameters())


def measure_loading(path: str) -> int:
    """Bytes by which loading raises this process's resident size at its peak."""
    return peak_growth_bytes(lambda: load_expert_parallel(path, make_mesh()))
