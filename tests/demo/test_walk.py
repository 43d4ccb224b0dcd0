import pytest
import torch

from headgate.demo.config import usual_balance
from headgate.demo.model import DemoModel
from headgate.demo.tokenizer import token_strings
from headgate.demo.walk import choose_token, find_paragraph, route_passage, walk_token
from headgate.spec import preset_names
from tiny_demo import prepared, tiny_config


@pytest.fixture(scope="module")
def ready(tmp_path_factory):
    return prepared(tmp_path_factory.mktemp("walk") / "out", tiny_config())


def walk(ready, **options):
    config = tiny_config(**options)
    torch.manual_seed(1)
    model = DemoModel(config.model).eval()
    passage = route_passage(model, ready.corpus, ready.tokenizer, layer=1, device="cpu")
    strings = token_strings(ready.tokenizer, passage.token_ids.tolist())
    token = choose_token(passage, strings)
    return model, passage, strings, walk_token(model.get_submodule(passage.path), passage, token)


@pytest.mark.parametrize("router", preset_names())
def test_by_hand_and_by_the_layer_it_is_the_same(ready, router):
    model, passage, _, found = walk(ready, router=router, balance=usual_balance(router))
    # walk_token itself holds the bound; here is the layer's own output again, from its input.
    moe = model.layers[1].moe
    y = moe(passage.x[None], token_ids=passage.token_ids[None])[0, found.token]
    torch.testing.assert_close(found.combined, y, rtol=1e-4, atol=1e-5)
    assert found.largest_difference < 1e-4
    assert len(found.expert_ids) == len(found.combine_weights) == len(found.outputs) >= 1
    assert found.scores.shape == (moe.spec.num_choices,)


def test_a_wrong_sum_is_noticed(ready):
    model, passage, _, found = walk(ready)
    passage.y[found.token] += 0.01
    with pytest.raises(AssertionError, match=r"combined by hand and by the layer differ by 0\.0"):
        walk_token(model.get_submodule(passage.path), passage, found.token)


def test_the_token_is_a_word_with_an_expert(ready):
    _, passage, strings, found = walk(ready, router="switch", capacity=0.5)
    assert strings[found.token].strip().isalpha()
    assert found.token >= passage.start
    assert passage.routing.plan.token_offsets.diff()[found.token] > 0


def test_a_paragraph_is_found():
    code, prose = ["="] * 90, [" b"] * 60
    strings = [" a", "\n", "\n", *code, "\n\n", *prose, "\n", "\n", " c"]
    begin, end = find_paragraph(strings)
    assert strings[begin - 1 : end + 1] == ["\n\n", *[" b"] * 49]
    assert find_paragraph([" a", "b"]) == (0, 2)
    assert find_paragraph([" a", "\n\n", " c", "d", " e", "\n\n"]) == (2, 5)
