"""Checkpoints written at W ranks in any layout are read at any other, and in one process; a failure loses nothing."""

import json

import pytest
import torch
import torch.distributed.checkpoint as dcp

from headgate.errors import ArtifactError
from headgate.parallel import latest_checkpoint, load_checkpoint, save_checkpoint
from headgate.parallel.state import tensors_of
from parallel import saving

EVEN = [[0, 1, 2], [3, 4, -1]]
UNEQUAL = [[4, 0, 2], [1, 3, -1], [-1, -1, -1]]
REPLICATED = [[4, 0, 2], [1, 3, 0], [0, 4, -1]]


def require_equal(found, whole):
    """Each rank's values are those of one process that has all experts."""
    for values in found:
        assert values.keys() == whole.keys()
        for name, value in values.items():
            if isinstance(value, dict):
                assert all(torch.equal(row, whole[name][expert]) for expert, row in value.items())
            elif isinstance(value, torch.Tensor):
                assert torch.equal(value, whole[name])
            else:
                assert value == whole[name]


def load_whole(path):
    model, optimizer = saving.make_model(None, seed=2)
    resumed = load_checkpoint(path, model, optimizer)
    return resumed, saving.values_of(model, optimizer)


@pytest.mark.parametrize("slots", [EVEN, UNEQUAL, REPLICATED], ids=["even", "unequal", "replicated"])
def test_what_ranks_wrote_is_read_by_one_process_and_by_other_ranks(ranks, tmp_path, slots):
    written = ranks.run(len(slots), saving.train_and_save, str(tmp_path), slots)
    path = latest_checkpoint(tmp_path)
    resumed, whole = load_whole(path)
    assert (resumed.step, resumed.values) == (2, {"seed": 0})
    require_equal(written, whole)
    for other in (EVEN, REPLICATED):
        require_equal(ranks.run(len(other), saving.load_on_ranks, str(path), other), whole)


def test_each_expert_is_written_once_and_under_its_logical_place(ranks, tmp_path):
    ranks.run(3, saving.train_and_save, str(tmp_path), REPLICATED)
    entries = dcp.FileSystemReader(latest_checkpoint(tmp_path)).read_metadata().state_dict_metadata
    up = entries["model.moe.experts.gate_up_proj"]
    assert up.size == (saving.E, 2 * saving.F, saving.D)
    assert sorted(chunk.offsets[0] for chunk in up.chunks) == list(range(saving.E))
    assert {chunk.sizes for chunk in up.chunks} == {torch.Size([1, 2 * saving.F, saving.D])}


def test_experts_that_fsdp_cut_once_more_are_whole_in_the_file(ranks, tmp_path):
    first, second = str(tmp_path / "first"), str(tmp_path / "second")
    ranks.run(4, saving.save_fully_sharded, first)
    ranks.run(4, saving.save_fully_sharded, second, str(latest_checkpoint(first)))
    wanted, _ = saving.make_model(None, seed=0)
    for folder in (first, second):
        found, _ = saving.make_model(None, seed=2)
        load_checkpoint(latest_checkpoint(folder), found)
        for name, value in wanted.state_dict().items():
            assert torch.equal(found.state_dict()[name], value), name


def test_one_process_writes_what_ranks_read(ranks, tmp_path):
    model, optimizer = saving.make_model(None)
    model(torch.randn(4, saving.D)).sum().backward()
    optimizer.step()
    path = save_checkpoint(tmp_path, model, optimizer, step=1)
    found = ranks.run(3, saving.load_on_ranks, str(path), REPLICATED)
    require_equal(found, saving.values_of(model, optimizer))


def test_a_run_goes_on_with_the_same_bits(ranks, tmp_path):
    for unbroken, resumed in ranks.run(2, saving.go_on_twice, str(tmp_path), EVEN):
        assert unbroken == resumed


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
def test_torch_saves_asynchronously_while_training_goes_on(ranks, tmp_path):
    written = ranks.run(3, saving.save_meanwhile, str(tmp_path), REPLICATED)
    model, optimizer = saving.make_model(None, seed=2)
    dcp.load(tensors_of(model, optimizer), checkpoint_id=str(tmp_path))
    require_equal(written, saving.values_of(model, optimizer))


def test_a_full_disk_leaves_the_previous_checkpoint(ranks, tmp_path):
    errors = ranks.run(2, saving.save_on_a_full_disk, str(tmp_path), EVEN)
    assert errors[0] == errors[1]
    assert "can't write checkpoint, on rank 1, " in errors[0]
    assert "File too large; raise the limit on the size of a file or choose another disk" in errors[0]
    assert errors[0].endswith("| ['step-00000001']")
    assert load_whole(latest_checkpoint(tmp_path))[0].step == 1


def test_another_model_is_refused_on_every_rank(ranks, tmp_path):
    ranks.run(2, saving.train_and_save, str(tmp_path), EVEN)
    errors = ranks.run(2, saving.load_another_model, str(latest_checkpoint(tmp_path)), EVEN)
    assert errors[0] == errors[1]
    assert (
        "is of another model or optimizer: model.moe.experts.down_proj has shape (5, 8, 12) there, (5, 8, 13) here"
        in (errors[0])
    )


def test_a_newer_checkpoint_takes_the_place_of_the_older(tmp_path):
    model, _ = saving.make_model(None)
    assert latest_checkpoint(tmp_path) is None
    save_checkpoint(tmp_path, model, step=9)
    save_checkpoint(tmp_path, model, step=10)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000010"]


def test_damage_is_told(tmp_path):
    model, _ = saving.make_model(None)
    path = save_checkpoint(tmp_path, model, step=1)
    (path / "state.json").write_text(json.dumps({"format": "another"}))
    with pytest.raises(ArtifactError, match=r"is not a checkpoint of this version; use the Headgate that wrote it"):
        load_checkpoint(path, model)
    (path / "state.json").write_text("{")
    with pytest.raises(ArtifactError, match=r"state.json is damaged .*; take an older checkpoint"):
        load_checkpoint(path, model)
    with pytest.raises(ArtifactError, match=r"can't read checkpoint .*: No such file or directory"):
        load_checkpoint(tmp_path / "none", model)


def test_data_that_is_cut_short_is_told(tmp_path):
    model, _ = saving.make_model(None)
    path = save_checkpoint(tmp_path, model, step=1)
    data = path / "__0_0.distcp"
    data.write_bytes(data.read_bytes()[:3000])
    with pytest.raises(
        ArtifactError, match=r"can't read checkpoint .* on rank 0: .*; it is damaged: take an older one"
    ):
        load_checkpoint(path, model)
