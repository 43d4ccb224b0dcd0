"""Claim: what routers that compare tokens in training lose when they must decide causally, measured on held-out text.

Expert choice and Mixture-of-Depths take the best C tokens of a batch or sequence in training, later ones included; in
evaluation they take each token that reaches a threshold learned meanwhile. Both modes are evaluated on the same trained
model: "looking ahead" is not available to a decoder that generates, and is shown for the gap alone.
"""

from __future__ import annotations

import argparse

import torch
from support.report import publish
from torch import nn

import headgate
from headgate.demo.config import ModelConfig, TrainingConfig
from headgate.demo.corpus import Corpus, held_out_pieces, make_corpus
from headgate.demo.data import read_documents
from headgate.demo.model import DemoModel, Layer
from headgate.demo.tokenizer import train_tokenizer
from headgate.demo.train import held_out_loss, make_optimizer, train


class Change(nn.Module):
    """What a decoder layer adds to the residual stream."""

    def __init__(self, layer: Layer) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x, torch.zeros(x.shape[:-1], dtype=torch.int64)) - x


class SometimesLayer(nn.Module):
    """A decoder layer under Mixture-of-Depths, with a decoder layer's signature."""

    def __init__(self, layer: Layer, d_model: int, capacity_factor: float) -> None:
        super().__init__()
        self.depths = headgate.MixtureOfDepths(Change(layer), d_model, capacity_factor=capacity_factor)

    def forward(self, x: torch.Tensor, token_ids: torch.Tensor) -> torch.Tensor:
        return self.depths(x)


def expert_choice_model() -> DemoModel:
    return DemoModel(ModelConfig(router="expert_choice", balance="off"))


def depths_model(capacity_factor: float) -> DemoModel:
    """Every second layer of a dense decoder takes only part of the tokens."""
    config = ModelConfig(feed_forward="dense", balance="off")
    model = DemoModel(config)
    for index in range(1, config.num_layers, 2):
        model.layers[index] = SometimesLayer(model.layers[index], config.d_model, capacity_factor)
    return model


def measure(model: nn.Module, corpus: Corpus, training: TrainingConfig) -> tuple[float, float, float]:
    """Train; return the held-out loss looking ahead and causal, and the causal rows per row in training."""
    for _ in train(model, make_optimizer(model, training), corpus, training):
        pass
    pieces = held_out_pieces(corpus, training.sequence_length)
    options = {"batch_size": training.batch_size, "device": training.device}
    losses, picked = [], []
    for mode in (True, False):
        with headgate.tap(model.train(mode)) as tape, torch.no_grad():
            losses.append(held_out_loss(model, pieces, **options))
        rows = [routing.plan.num_rows for routings in tape.values() for routing in routings]
        picked.append(sum(rows))
    return losses[0], losses[1], picked[1] / picked[0]


def main() -> None:
    """Train each model, and publish both losses."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=300)
    training = TrainingConfig(steps=parser.parse_args().steps)
    documents = read_documents()
    tokenizer = train_tokenizer([d.text for d in documents if not d.is_held_out], vocab_size=ModelConfig().vocab_size)
    corpus = make_corpus(documents, tokenizer)
    models = {
        "expert choice, 8 experts, 2 per token on average": expert_choice_model,
        "Mixture-of-Depths, half of the tokens": lambda: depths_model(0.5),
        "Mixture-of-Depths, an eighth of the tokens": lambda: depths_model(0.125),
    }
    rows = []
    for name, build in models.items():
        torch.manual_seed(0)
        ahead, causal, share = measure(build(), corpus, training)
        rows.append([name, ahead, causal, causal - ahead, share])
    columns = ["model", "loss looking ahead", "loss causal", "gap", "causal rows / training rows"]
    title = f"held-out loss in nats per token after {training.steps} steps, one seed"
    publish("causal_gap", title, columns, rows, steps=training.steps)


if __name__ == "__main__":
    main()
