"""transformers' models with their experts over ranks: outputs, gradients and generated tokens are one process's."""

import statistics

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from compare import assert_close
from headgate.integrations.transformers.gates import WEIGHT_NAMES
from headgate.parallel import latest_checkpoint, load_checkpoint
from integrations import zoo
from parallel import transformers_models as models

NAMES = ("mixtral", "olmoe", "qwen3_moe", "deepseek_v3", "gpt_oss")
# Whose experts outside the interface can't be spread.
INSIDE = [name for name in zoo.architectures() if zoo.is_in_interface(name)]
# The longest chain of sums, as in the sweep of architectures, there and back.
TERMS = 2 * zoo.NUM_LAYERS * (12 * zoo.D_MODEL + 2 * zoo.D_FF)
UNEQUAL = np.array([[[7, 2, 0, -1, -1], [3, 1, -1, -1, -1], [4, 5, 6, 0, 2]]])
REPLICATED = np.array([[[7, 2, 0, 5, 1], [3, 4, 6, 0, 2]]])


def check(name, num_ranks, begun):
    """Require that the results that `begun` waits for are those of one process; return its model."""
    model = models.build(name)
    expected = models.run_whole(model, num_ranks)
    results = begun()
    # Where an architecture saturates, a gradient is what is left of terms of the usual size.
    usual = statistics.median(grad.square().mean().sqrt().item() for grad in expected["grads"].values())
    tolerance = {"dtype": torch.float32, "terms": TERMS, "scale": usual}
    for rank, result in enumerate(results):
        assert_close(f"output of rank {rank}", result["output"], expected["outputs"][rank], **tolerance)
    for key, grad in expected["grads"].items():
        if key not in results[0]["of_experts"]:
            found = sum(result["grads"][key] for result in results if key in result["grads"])
            assert_close(key, found, grad, **tolerance)
            continue
        by_expert = {}
        for result in results:
            for expert, part in result["of_experts"][key].items():
                assert torch.equal(by_expert.setdefault(expert, part), part), f"replicas of {expert} differ in {key}"
        assert_close(key, torch.stack([by_expert[expert] for expert in range(zoo.NUM_EXPERTS)]), grad, **tolerance)
    assert any(key.rpartition(".")[2] in WEIGHT_NAMES for key in expected["grads"])
    return model


# On two ranks: every architecture, below.
@pytest.mark.parametrize(("name", "num_ranks"), [*((name, 3) for name in NAMES), ("mixtral", 4)])
def test_outputs_and_gradients_are_those_of_one_process(ranks, name, num_ranks):
    check(name, num_ranks, ranks.begin(num_ranks, models.run_on_rank, name))


@pytest.mark.parametrize("name", ["mixtral", "gpt_oss", "nemotron_h"])
def test_a_layout_with_replicas_and_unequal_ranks(ranks, name):
    check(name, 3, ranks.begin(3, models.run_on_rank, name, UNEQUAL))


def test_two_levels(ranks):
    check("deepseek_v3", 4, ranks.begin(4, models.run_on_rank, "deepseek_v3", None, 2))


def test_a_checkpoint_is_loaded_rank_by_rank(ranks, tmp_path):
    models.build("qwen3_moe").save_pretrained(tmp_path, max_shard_size="40KB")
    check("qwen3_moe", 3, ranks.begin(3, models.load_on_rank, str(tmp_path), "qwen3_moe"))


def test_no_rank_ever_holds_all_experts(ranks, tmp_path):
    total = models.save_wide(str(tmp_path))
    # A quarter of the experts twice, in the mapped file and as parameters, and one parameter while it is put together.
    # A rank that read them all would need more than `total` for that.
    assert max(ranks.run(4, models.measure_loading, str(tmp_path))) < 0.8 * total


@pytest.mark.parametrize("lengths", [(5, 5), (9, 2), (1, 6)], ids=str)
def test_generation_keeps_the_ranks_in_step(ranks, lengths):
    model = models.build("mixtral")
    expected = [models.generate(model, rank, lengths) for rank in range(2)]
    assert ranks.run(2, models.generate_on_rank, "mixtral", lengths) == expected


@pytest.mark.parametrize("name", INSIDE)
def test_every_architecture_of_the_interface(ranks, tmp_path, name):
    whole = check(name, 2, ranks.begin(2, models.run_on_rank, name, None, 1, str(tmp_path / "ranks")))
    whole.save_pretrained(tmp_path / "alone")
    require_same_files(tmp_path / "ranks", tmp_path / "alone")


def require_same_files(found, wanted):
    """The same tensors in one file, the same configuration."""
    ours, theirs = (load_file(folder / "model.safetensors") for folder in (found, wanted))
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        assert torch.equal(ours[name], tensor), name
    assert {path.name for path in found.iterdir()} == {path.name for path in wanted.iterdir()}
    assert (found / "config.json").read_bytes() == (wanted / "config.json").read_bytes()


# Mixtral's experts are published one by one, those of gpt-oss stacked.
@pytest.mark.parametrize(("name", "slots"), [("mixtral", REPLICATED), ("gpt_oss", None)])
def test_a_tuned_model_is_saved_and_goes_on_anywhere(ranks, tmp_path, name, slots):
    checkpoints, folder = tmp_path / "checkpoints", tmp_path / "model"
    folder.mkdir()
    (folder / "model.safetensors.index.json").write_text("{}")  # of an older save in several files
    ranks.run(2, models.tune_and_save, name, str(checkpoints), str(folder), slots)
    path = latest_checkpoint(checkpoints)
    whole = models.load_tuned(name, str(path))
    assert sum(key.startswith("optimizer.") for key in whole) > sum(key.startswith("model.") for key in whole)
    for result in ranks.run(3, models.load_tuned, name, str(path), UNEQUAL):
        assert result.keys() == whole.keys()
        for key, value in result.items():
            parts = value.items() if isinstance(value, dict) else [(..., value)]
            assert all(torch.equal(part, whole[key][place]) for place, part in parts), key
    tuned = models.build(name)
    load_checkpoint(path, tuned)
    tuned.save_pretrained(tmp_path / "alone")
    require_same_files(folder, tmp_path / "alone")
    assert not torch.equal(tuned.state_dict()["lm_head.weight"], models.build(name).state_dict()["lm_head.weight"])


def test_what_fsdp_has_sharded_besides_is_saved_whole(ranks, tmp_path):
    ranks.run(2, models.save_fully_sharded, str(tmp_path / "ranks"))
    models.build("mixtral").save_pretrained(tmp_path / "alone")
    require_same_files(tmp_path / "ranks", tmp_path / "alone")


def test_experts_of_a_running_model_move(ranks):
    answers = ranks.run(3, models.move_and_measure, "mixtral", UNEQUAL)
    check("mixtral", 3, lambda: [result for result, _ in answers])
    assert all(num_rows > 0 for _, num_rows in answers)


def test_what_cannot_be_spread_is_refused_on_every_rank(ranks):
    outside = (
        "transformer.blocks.0.ffn.experts (=DbrxExperts) runs its experts itself, and only experts that dispatch "
        "through transformers' own interface can be spread over ranks; run this model on one"
    )
    assert ranks.run(2, models.refuse, "dbrx") == [outside] * 2
    layers = (
        "layout (=3 layers) must have one for each MoE layer of the model (=2), or one for all; plan for this model"
    )
    three = np.repeat(np.arange(8).reshape(1, 2, 4), 3, axis=0)
    assert ranks.run(2, models.refuse, "mixtral", three) == [layers] * 2
    experts = (
        "layout (=10 experts on 2 devices) must be for the layer's experts and the mesh's ranks (=8 on 2); plan one "
        "with headgate place"
    )
    assert ranks.run(2, models.refuse, "mixtral", np.arange(10).reshape(1, 2, 5)) == [experts] * 2


def test_ranks_with_different_models_are_refused_and_named(ranks):
    for message in ranks.run(2, models.refuse, "mixtral", None, torch.float64):
        assert message.startswith("dtype (=")
        assert "on rank 1) must be the same on all ranks" in message


def test_what_saving_cannot_keep_is_refused(ranks):
    for message in ranks.run(2, models.refuse_saving):
        assert message.startswith("save_pretrained's max_shard_size (given) can't be kept where experts are spread")
