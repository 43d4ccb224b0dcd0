"""What a config.json says of a model's shape."""

import pytest

from foreign import write
from headgate.errors import InputError
from headgate.observe.importers.shape import RouterShape, shape_of_config


@pytest.mark.parametrize(
    ("config", "layers"),
    [
        ({"num_local_experts": 8}, (0, 1, 2, 3)),
        ({"n_routed_experts": 8, "first_k_dense_replace": 1, "moe_layer_freq": 1}, (1, 2, 3)),
        ({"n_routed_experts": 8, "moe_layer_freq": [0, 1, 0, 1]}, (1, 3)),
        ({"num_experts": 8, "decoder_sparse_step": 2, "mlp_only_layers": []}, (1, 3)),
        ({"num_experts": 8, "decoder_sparse_step": 1, "mlp_only_layers": [2]}, (0, 1, 3)),
        ({"num_local_experts": 8, "moe_layers": [1, 3]}, (1, 3)),
        ({"text_config": {"num_local_experts": 8, "interleave_moe_layer_step": 2, "num_hidden_layers": 4}}, (1, 3)),
    ],
)
def test_the_shape_of_a_config(tmp_path, config, layers):
    path = write(tmp_path / "config.json", {"num_hidden_layers": 4, "num_experts_per_tok": 2, **config})
    found = shape_of_config(path)
    assert (found.num_experts, found.top_k, found.moe_layers) == (8, 2, layers)


def test_configs_that_are_none(tmp_path):
    with pytest.raises(InputError, match=r"has none of n_routed_experts, .*; give a Mixture-of-Experts model's config"):
        shape_of_config(write(tmp_path / "config.json", {"num_hidden_layers": 4}))
    with pytest.raises(InputError, match=r"holds no JSON object; give the model's config.json"):
        shape_of_config(write(tmp_path / "config.json", []))
    with pytest.raises(InputError, match=r"^top_k \(=0\) must be between 1 and 65535; give the model's own$"):
        RouterShape(top_k=0)
    with pytest.raises(InputError, match=r"^moe_layers \(=\[1, 1\]\) must be distinct decoder layers, from 0"):
        RouterShape(moe_layers=(1, 1))
