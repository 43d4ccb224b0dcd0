"""The page about transformers is true: its table is that of the installed version, and the defects are there."""

from __future__ import annotations

import torch
from transformers.models.mixtral.modeling_mixtral import load_balancing_loss_func

from headgate.balance import switch_loss
from integrations import table, zoo


def test_the_table_is_that_of_the_installed_version():
    page = table.PAGE.read_text(encoding="utf-8")
    kept = page.partition(table.BEGIN)[2].partition(table.END)[0].strip()
    assert kept == table.make_table(), "run: python tests/integrations/table.py"


def test_the_router_bias_of_longcat_has_no_effect():
    chosen = zoo.model_class("longcat_flash")
    config = zoo.derive_config(chosen.config_class, {**zoo.OWN["longcat_flash"], "router_bias": True})
    model = chosen(config).eval()
    zoo.fill(model, "longcat_flash")
    inputs = zoo.example_inputs(model)
    before = model(**inputs).logits
    biases = [parameter for path, parameter in model.named_parameters() if path.endswith("classifier.bias")]
    assert len(biases) >= 2
    for bias in biases:
        torch.nn.init.normal_(bias, std=100.0)
    assert torch.equal(model(**inputs).logits, before)


def test_the_pooled_loss_calls_two_opposite_collapses_balanced():
    one, other = torch.tensor([[9.0, -9.0]]).repeat(4, 1), torch.tensor([[-9.0, 9.0]]).repeat(4, 1)
    pooled = load_balancing_loss_func((one, other), num_experts=2, top_k=1)
    alone = load_balancing_loss_func((one,), num_experts=2, top_k=1)
    assert abs(float(pooled) - 1.0) < 1e-5
    assert abs(float(alone) - 2.0) < 1e-5
    counts = torch.tensor([4, 0])
    assert float(switch_loss(one.softmax(1), counts)) > 1.99
