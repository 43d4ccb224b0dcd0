"""transformers' models with their experts over ranks: outputs, gradients and generated tokens are one process's."""

import numpy as np
import pytest
import torch

from compare import assert_close
from headgate.integrations.transformers.gates import WEIGHT_NAMES
from integrations import zoo
from parallel import transformers_models as models

NAMES = ("mixtral", "olmoe", "qwen3_moe", "deepseek_v3", "gpt_oss")
# Whose experts outside the interface can't be spread.
INSIDE = [name for name in zoo.architectures() if zoo.is_in_interface(name)]
UNEQUAL = np.array([[[7, 2, 0, -1, -1], [3, 1, -1, -1, -1], [4, 5, 6, 0, 2]]])


def check(name, results):
    expected = models.run_whole(name, len(results))
    for rank, result in enumerate(results):
        assert_close(f"output of rank {rank}", result["output"], expected["outputs"][rank], **TOLERANCE)
    for key, grad in expected["grads"].items():
        if key not in results[0]["of_experts"]:
            found = sum(result["grads"][key] for result in results if key in result["grads"])
            assert_close(key, found, grad, **TOLERANCE)
            continue
        by_expert = {}
        for result in results:
            for expert, part in result["of_experts"][key].items():
                assert torch.equal(by_expert.setdefault(expert, part), part), f"replicas of {expert} differ in {key}"
        assert_close(key, torch.stack([by_expert[expert] for expert in range(zoo.NUM_EXPERTS)]), grad, **TOLERANCE)
    assert any(key.rpartition(".")[2] in WEIGHT_NAMES for key in expected["grads"])


# As in the sweep of architectures: every weight takes part in a few sums of this width.
TOLERANCE = {"dtype": torch.float32, "terms": 2000, "scale": 1e-1}


@pytest.mark.parametrize("num_ranks", [2, 3])
@pytest.mark.parametrize("name", NAMES)
def test_outputs_and_gradients_are_those_of_one_process(ranks, name, num_ranks):
    check(name, ranks.run(num_ranks, models.run_on_rank, name))


@pytest.mark.parametrize("name", ["mixtral", "gpt_oss", "nemotron_h"])
def test_a_layout_with_replicas_and_unequal_ranks(ranks, name):
    check(name, ranks.run(3, models.run_on_rank, name, UNEQUAL))


def test_two_levels(ranks):
    check("deepseek_v3", ranks.run(4, models.run_on_rank, "deepseek_v3", None, 2))
