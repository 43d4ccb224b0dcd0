import errno
import itertools
import json
import os
import shutil

import pytest
import torch

from headgate.demo.checkpoint import TrainingState, load_checkpoint, save_checkpoint
from headgate.demo.model import DemoModel
from headgate.demo.train import make_optimizer
from headgate.errors import ArtifactError
from headgate.parallel.checkpoint import latest_checkpoint
from tiny_demo import tiny_config

TOKENS = torch.arange(32).view(2, 16)


def trained(config, steps=1):
    """A model and its optimizer after some steps."""
    torch.manual_seed(0)
    model = DemoModel(config.model)
    optimizer = make_optimizer(model, config.training)
    for _ in range(steps):
        model(TOKENS).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    return model, optimizer


def save(folder, model, optimizer, config, step):
    return save_checkpoint(folder, model, optimizer, TrainingState(step=step, config=config.to_dict()))


def test_a_checkpoint_brings_everything_back(tmp_path):
    config = tiny_config(router="noisy_top_k", num_experts=4)
    model, optimizer = trained(config)
    torch.manual_seed(7)
    path = save(tmp_path, model, optimizer, config, 1)
    drawn = torch.rand(3)
    other, other_optimizer = trained(config, steps=3)
    assert load_checkpoint(path, other, other_optimizer, config=config.to_dict()) == 1
    assert torch.equal(torch.rand(3), drawn)
    for (name, value), found in zip(model.state_dict().items(), other.state_dict().values(), strict=True):
        assert torch.equal(value, found), name
    for one in (model, other):
        one.eval()
    assert torch.equal(model(TOKENS), other(TOKENS))
    before, after = optimizer.state_dict(), other_optimizer.state_dict()
    assert before["state"].keys() == after["state"].keys()
    for index, values in before["state"].items():
        assert all(torch.equal(value, after["state"][index][name]) for name, value in values.items())


def test_only_the_newest_stays(tmp_path):
    config = tiny_config()
    model, optimizer = trained(config)
    assert latest_checkpoint(tmp_path / "none") is None
    for step in (1, 9, 10):
        path = save(tmp_path, model, optimizer, config, step)
        assert latest_checkpoint(tmp_path) == path
    assert os.listdir(tmp_path) == ["step-00000010"]
    assert sorted(os.listdir(path)) == ["model.safetensors", "optimizer.safetensors", "state.json"]
    assert save(tmp_path, model, optimizer, config, 10) == path


class Killed(BaseException):
    """What a kill does: nothing runs after it."""


def save_and_die(patch, name, moment, *args):
    """Save, but die at call number `moment` of a function of `os`; return whether the save got that far."""
    real, calls = getattr(os, name), itertools.count()

    def call(*args, **kwargs):
        if next(calls) >= moment:
            raise Killed
        return real(*args, **kwargs)

    patch.setattr(os, name, call)
    patch.setattr(shutil, "rmtree", lambda *_, **__: None)
    try:
        save(*args)
    except Killed:
        return True
    return False


@pytest.mark.parametrize(("name", "num_moments"), [("fsync", 5), ("rename", 1), ("open", 2), ("mkdir", 2)])
def test_a_kill_at_any_moment_leaves_a_whole_checkpoint(tmp_path, monkeypatch, name, num_moments):
    config = tiny_config()
    model, optimizer = trained(config)
    save(tmp_path, model, optimizer, config, 1)
    deaths = 0
    for moment in range(10):
        with monkeypatch.context() as patch:
            died = save_and_die(patch, name, moment, tmp_path, model, optimizer, config, moment + 2)
        found = latest_checkpoint(tmp_path)
        assert found is not None
        fresh, fresh_optimizer = trained(config, steps=0)
        assert load_checkpoint(found, fresh, fresh_optimizer, config=config.to_dict()) >= 1
        deaths += died
    assert deaths == num_moments
    save(tmp_path, model, optimizer, config, 100)
    assert os.listdir(tmp_path) == ["step-00000100"]


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (errno.ENOSPC, "No space left on device; free some space or choose another folder"),
        (errno.EACCES, "Permission denied; choose a folder that you may write to"),
    ],
)
def test_a_failed_save_keeps_the_previous_checkpoint(tmp_path, monkeypatch, number, said):
    config = tiny_config()
    model, optimizer = trained(config)
    path = save(tmp_path, model, optimizer, config, 1)

    def fail(descriptor):
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        with pytest.raises(ArtifactError) as caught:
            save(tmp_path, model, optimizer, config, 2)
    assert str(caught.value) == f"can't write checkpoint {tmp_path / 'step-00000002'}: {said}"
    assert os.listdir(tmp_path) == ["step-00000001"]
    assert load_checkpoint(path, model, optimizer, config=config.to_dict()) == 1


def test_a_checkpoint_of_another_spec_names_the_fields(tmp_path):
    config = tiny_config()
    model, optimizer = trained(config)
    path = save(tmp_path, model, optimizer, config, 1)
    other = tiny_config(num_experts=8, top_k=3)
    with pytest.raises(ArtifactError) as caught:
        load_checkpoint(path, model, optimizer, config=other.to_dict())
    assert str(caught.value) == (
        f"{path} is of another run: model.num_experts (4 there, 8 here), model.top_k (None there, 3 here), "
        "router_spec.num_experts (4 there, 8 here), router_spec.top_k (2 there, 3 here); leave these options out to "
        "go on with it, or start a new run with another --out"
    )


def test_a_damaged_checkpoint_says_so(tmp_path):
    config = tiny_config()
    model, optimizer = trained(config)
    path = save(tmp_path, model, optimizer, config, 1)
    good = (path / "model.safetensors").read_bytes()
    (path / "model.safetensors").write_bytes(good[:100])
    with pytest.raises(ArtifactError, match=r"step-00000001 is damaged \(.*\); start the run again in another folder$"):
        load_checkpoint(path, model, optimizer, config=config.to_dict())
    (path / "model.safetensors").write_bytes(good)
    (path / "state.json").write_text(json.dumps({"format": "another"}))
    with pytest.raises(ArtifactError, match=r"is not a checkpoint of this version of the demo; use the Headgate that"):
        load_checkpoint(path, model, optimizer, config=config.to_dict())
    (path / "state.json").unlink()
    with pytest.raises(ArtifactError, match=r"^can't read checkpoint .*: No such file or directory; check the path"):
        load_checkpoint(path, model, optimizer, config=config.to_dict())
