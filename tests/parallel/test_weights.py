"""One safetensors file that ranks write together is the one that a process alone writes, and is read in parts."""

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from headgate.demo.export import mixtral_tensors
from headgate.errors import ArtifactError
from headgate.parallel.state import model_tensors
from headgate.parallel.weights import read_safetensors, write_safetensors
from parallel import weight_files


@pytest.fixture(scope="module")
def whole():
    model, config = weight_files.make_model(0)
    return {name: tensor.contiguous() for name, tensor in mixtral_tensors(model_tensors(model), config).items()}


@pytest.mark.parametrize("num_ranks", [2, 3])
def test_the_file_holds_what_one_process_would_write(ranks, tmp_path, whole, num_ranks):
    path = tmp_path / "model.safetensors"
    ranks.run(num_ranks, weight_files.write, str(path))
    found = load_file(path)
    assert found.keys() == whole.keys()
    assert all(torch.equal(tensor, whole[name]) for name, tensor in found.items())
    with safe_open(path, framework="pt") as file:
        assert file.metadata() == {"format": "pt"}
    assert [each.name for each in tmp_path.iterdir()] == ["model.safetensors"]


def test_each_rank_reads_its_own_experts(ranks, tmp_path, whole):
    path = tmp_path / "model.safetensors"
    write_safetensors(path, whole)
    num_expert_tensors = sum(".experts." in name for name in whole)
    results = ranks.run(3, weight_files.read, str(path))
    assert all(changed > 0 and is_right for changed, is_right, _ in results)
    assert sum(number for _, _, number in results) == num_expert_tensors


@pytest.mark.parametrize("num_ranks", [1, 3])
def test_stacked_experts_are_one_tensor_in_the_file(ranks, tmp_path, num_ranks):
    path = tmp_path / "model.safetensors"
    assert ranks.run(num_ranks, weight_files.write_and_read_stacked, str(path)) == [True] * num_ranks
    found, wanted = load_file(path), model_tensors(weight_files.make_model(0)[0])
    assert found.keys() == wanted.keys()
    assert all(torch.equal(tensor, wanted[name]) for name, tensor in found.items())


def test_a_full_disk_leaves_the_older_file(ranks, tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"older")
    errors = ranks.run(2, weight_files.write_on_a_full_disk, str(path))
    assert errors[0] == errors[1]
    assert errors[0] == (
        f"can't write, on rank 1, {path}: File too large; raise the limit on the size of a file or choose another disk"
    )
    assert path.read_bytes() == b"older"
    assert [each.name for each in tmp_path.iterdir()] == ["model.safetensors"]


def test_a_dtype_that_files_have_not_is_refused_on_every_rank(ranks, tmp_path):
    errors = ranks.run(2, weight_files.write_strings, str(tmp_path / "a.safetensors"))
    assert set(errors) == {"a (=torch.complex64) must have a dtype of safetensors; convert it first"}


def test_a_file_of_another_model_is_refused(tmp_path):
    path = tmp_path / "a.safetensors"
    write_safetensors(path, {"a": torch.zeros(2, 3)})
    with pytest.raises(ArtifactError, match=r"has a with shape \(2, 3\) .*and the model has \(3, 2\); read the"):
        read_safetensors(path, {"a": torch.zeros(3, 2)})
    with pytest.raises(ArtifactError, match=r"has b with shape None \(None = missing\)"):
        read_safetensors(path, {"b": torch.zeros(3)})
    path.write_bytes(b"no header")
    with pytest.raises(ArtifactError, match=r"can't be read \(.*; write it again"):
        read_safetensors(path, {"a": torch.zeros(2, 3)})
