"""What the ranks of the weight-file tests run."""

import torch
import torch.distributed as dist

import headgate
from headgate.demo.export import mixtral_tensors
from headgate.demo.model import DemoModel
from headgate.demo.shares import spread_experts
from headgate.parallel.state import model_tensors
from headgate.parallel.weights import read_safetensors, write_safetensors
from parallel import saving
from parallel.layers import to_local
from tiny_demo import tiny_config


def make_model(seed):
    torch.manual_seed(seed)
    config = tiny_config()
    model = DemoModel(config.model)
    spread_experts(model, config)
    return model, config.model


def write(path):
    model, config = make_model(0)
    write_safetensors(path, mixtral_tensors(model_tensors(model), config), metadata={"format": "pt"})


def read(path):
    """Whether a model with other weights has those of the file after reading."""
    model, config = make_model(1)
    wanted, _ = make_model(0)
    tensors = mixtral_tensors(model_tensors(model), config)
    before = {name: tensor.clone() for name, tensor in tensors.items()}
    read_safetensors(path, tensors)
    right = mixtral_tensors(model_tensors(wanted), config)
    return (
        sum(not torch.equal(before[name], tensor) for name, tensor in tensors.items()),
        all(torch.equal(tensor, right[name]) for name, tensor in tensors.items()),
        sum(".experts." in name for name in tensors),
    )


def write_and_read_stacked(path):
    """Whether another model has the first one's weights after reading what that wrote, experts stacked."""
    model, _ = make_model(0)
    other, _ = make_model(1)
    write_safetensors(path, model_tensors(model))
    read_safetensors(path, model_tensors(other))
    pairs = zip(model.parameters(), other.parameters(), strict=True)
    return all(torch.equal(to_local(a.detach()), to_local(b.detach())) for a, b in pairs)


def write_on_a_full_disk(path):
    try:
        with saving.at_most(1000 if dist.get_rank() == 1 else None):
            write(path)
    except headgate.ArtifactError as error:
        return str(error)
    return "no error"


def write_strings(path):
    try:
        write_safetensors(path, {"a": torch.zeros(2, dtype=torch.complex64)})
    except headgate.InputError as error:
        return str(error)
    return "no error"
