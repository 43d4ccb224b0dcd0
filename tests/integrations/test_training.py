"""Routing in the logs of trainers: the real Trainer, Lightning, TensorBoard and Prometheus."""

from __future__ import annotations

import csv
import importlib
import math
import sys
from collections.abc import Iterator

import lightning
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger
from prometheus_client import CollectorRegistry, generate_latest
from torch import Tensor, nn
from torch.utils.data import DataLoader

import headgate
from headgate.errors import BackendError, InputError
from headgate.integrations.lightning import RoutingCallback
from headgate.integrations.monitor import RoutingMonitor, routing_values
from headgate.integrations.prometheus import RoutingGauges
from headgate.integrations.transformers.sites import find_sites
from headgate.observe.tallies import MAX_LAYERS, count_choices, describe_tallies, tally
from integrations import zoo

MEASURES = ("max_over_mean", "min_over_mean", "dead_expert_fraction", "normalised_entropy", "drop_fraction", "margin")
KEYS = {f"routing/{name}{worst}" for name in MEASURES for worst in ("", "_worst")}


def make_rows(number: int) -> list[dict[str, Tensor]]:
    """Texts of eight tokens, the first two of each other one padding."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(3, zoo.VOCABULARY, (number, 8), generator=generator)
    mask = torch.ones_like(ids)
    mask[::2, :2] = 0
    return [{"input_ids": i, "attention_mask": m, "labels": i} for i, m in zip(ids, mask, strict=True)]


def values_of(model: nn.Module, rows: list[dict[str, Tensor]]) -> dict[str, float]:
    """What a tap of one's own says about these texts."""
    with headgate.tap(model) as tape, torch.no_grad():
        for row in rows:
            model(**{name: value[None] for name, value in row.items()})
    return routing_values(model, tape)


@pytest.fixture
def train(tmp_path) -> Iterator:
    """Runs `transformers.Trainer` over eight texts, two at a time."""
    from transformers import Trainer, TrainingArguments

    from headgate.integrations.trainer import log_routing

    def run(model: nn.Module, rows: list[dict[str, Tensor]], *, per_layer: bool = False, **options) -> Trainer:
        settings = {"per_device_train_batch_size": 2, "num_train_epochs": 1, "report_to": "none", "disable_tqdm": True}
        arguments = TrainingArguments(
            output_dir=str(tmp_path),
            save_strategy="no",
            use_cpu=True,
            dataloader_pin_memory=False,
            **settings,
            **options,
        )
        trainer = Trainer(model=model, args=arguments, train_dataset=rows, eval_dataset=rows[:3])
        log_routing(trainer, per_layer=per_layer)
        trainer.train()
        return trainer

    return run


def routing_logs(trainer) -> list[dict[str, float]]:
    return [entry for entry in trainer.state.log_history if any(key.startswith("routing/") for key in entry)]


@pytest.mark.parametrize("name", ["mixtral", "deepseek_v3"])
def test_the_trainer_logs_what_its_passes_routed(train, name):
    """With a learning rate of 0 the routing of an epoch is that of its texts, in whatever order and batches."""
    model, rows = zoo.build(name), make_rows(8)
    expected = values_of(model, rows)
    options = {"gradient_accumulation_steps": 2, "activation_checkpointing": True, "eval_strategy": "steps"}
    trainer = train(model, rows, learning_rate=0.0, logging_steps=2, eval_steps=1, **options)
    (entry,) = routing_logs(trainer)
    assert entry["step"] == 2
    found = {key: value for key, value in entry.items() if key.startswith("routing/")}
    assert found.keys() == KEYS == expected.keys()
    # Batches of another size round the logits, and so the margins, another way.
    assert found == pytest.approx(expected, rel=1e-4)
    sites = find_sites(model)
    assert not any(site.module._forward_hooks or site.module._forward_pre_hooks for site in sites)


def test_each_entry_is_of_the_steps_since_the_last_and_stands_beside_the_loss(train):
    model = zoo.build("mixtral")
    trainer = train(model, make_rows(8), learning_rate=0.0, logging_steps=1, per_layer=True)
    entries = routing_logs(trainer)
    assert [entry["step"] for entry in entries] == [1, 2, 3, 4]
    assert [entry["step"] for entry in trainer.state.log_history if "loss" in entry] == [1, 2, 3, 4]
    assert len({entry["routing/margin"] for entry in entries}) == 4
    layers = [entries[0][f"routing/layer_{number}/max_over_mean"] for number in range(2)]
    assert max(layers) == entries[0]["routing/max_over_mean_worst"]
    assert sum(layers) / 2 == pytest.approx(entries[0]["routing/max_over_mean"])


def test_a_model_with_layers_of_headgate_is_logged_too(train):
    model = zoo.build("mixtral")
    spec = headgate.preset("switch", num_experts=4, capacity=headgate.Capacity(factor=0.5))
    model.model.layers[1].mlp = headgate.MoE(32, 8, router=spec)
    (entry,) = routing_logs(train(model, make_rows(8), learning_rate=0.0, logging_steps=4))
    assert entry["routing/drop_fraction_worst"] > 0
    assert entry["routing/drop_fraction"] == entry["routing/drop_fraction_worst"] / 2


def test_what_can_not_be_watched_is_refused_when_training_begins(train):
    with pytest.raises(InputError, match=r"torch_compile \(=True\) of the trainer can't be watched"):
        train(zoo.build("mixtral"), make_rows(2), torch_compile=True, torch_compile_backend="eager")
    model = zoo.build("mixtral")
    model.compile(backend="eager")
    with pytest.raises(InputError, match=r"model \(=MixtralForCausalLM\) is compiled, and compiled code can't be"):
        RoutingMonitor(model)
    with pytest.raises(InputError, match="holds no routed layer"):
        RoutingMonitor(nn.Linear(2, 2))


class Model(lightning.LightningModule):
    """A layer that Lightning trains with a learning rate of 0."""

    def __init__(self) -> None:
        super().__init__()
        self.net = headgate.MoE(8, 16, num_experts=4, top_k=2)
        self.seen: list[Tensor] = []

    def training_step(self, batch: Tensor, index: int) -> Tensor:
        self.seen.append(batch)
        return self.net(batch).square().mean()

    def validation_step(self, batch: Tensor, index: int) -> None:
        self.net(-batch)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.0)


QUIET = {
    "max_epochs": 1,
    "accelerator": "cpu",
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "enable_checkpointing": False,
}


# Lightning's own code still uses what torch has deprecated.
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning:lightning")
def test_lightning_logs_at_its_own_steps_and_forgets_validation(tmp_path):
    torch.manual_seed(0)
    data = DataLoader(torch.randn(16, 8), batch_size=2)
    model, logger = Model(), CSVLogger(tmp_path)
    trainer = lightning.Trainer(
        **QUIET,
        logger=logger,
        accumulate_grad_batches=2,
        log_every_n_steps=2,
        val_check_interval=2,
        callbacks=[RoutingCallback()],
        default_root_dir=tmp_path,
    )
    trainer.fit(model, data, data)
    with open(logger.experiment.metrics_file_path, encoding="utf-8") as file:
        entries = [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]
    assert [row["step"] for row in entries] == [2, 4]
    for entry, batches in zip(entries, (model.seen[:4], model.seen[4:]), strict=True):
        with headgate.tap(model) as tape:
            for batch in batches:
                model.net(batch)
        expected = routing_values(model, tape)
        assert {key: entry[key] for key in expected} == pytest.approx(expected)
    assert not model.net.router._forward_hooks


class Wrapper(lightning.LightningModule):
    """A model of transformers, as it is trained with Lightning: called by the step alone."""

    def __init__(self) -> None:
        super().__init__()
        self.net = zoo.build("qwen3_moe").train()

    def training_step(self, batch: Tensor, index: int) -> Tensor:
        return self.net(batch, attention_mask=(batch != 0).long(), labels=batch).loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.0)


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning:lightning")
def test_lightning_logs_a_model_of_transformers_with_its_margins_and_without_padding(tmp_path):
    batch = torch.randint(3, zoo.VOCABULARY, (4, 6), generator=torch.Generator().manual_seed(0))
    batch[:, :2] = 0
    model, logger = Wrapper(), CSVLogger(tmp_path)
    options = {"logger": logger, "log_every_n_steps": 1, "default_root_dir": tmp_path}
    lightning.Trainer(**QUIET, **options, callbacks=[RoutingCallback()]).fit(model, DataLoader(batch, batch_size=4))
    with open(logger.experiment.metrics_file_path, encoding="utf-8") as file:
        (entry,) = csv.DictReader(file)
    with headgate.tap(model.net) as tape:
        model.training_step(batch, 0)
    expected = routing_values(model.net, tape)
    assert expected["routing/margin"] > 0
    assert {key: float(entry[key]) for key in expected} == pytest.approx(expected)
    with headgate.tap(model) as wrapped:
        model.training_step(batch, 0)
    assert int(wrapped.theirs.passes[0].is_padding.sum()) == 8


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning:lightning")
def test_a_run_of_lightning_that_breaks_leaves_no_hook(tmp_path):
    class Broken(Model):
        def training_step(self, batch: Tensor, index: int) -> Tensor:
            assert self.net.router._forward_hooks
            raise RuntimeError("broken")

    model = Broken()
    trainer = lightning.Trainer(**QUIET, callbacks=[RoutingCallback()], default_root_dir=tmp_path)
    with pytest.raises(RuntimeError, match="broken"):
        trainer.fit(model, DataLoader(torch.randn(2, 8)))
    assert not model.net.router._forward_hooks


def test_tensorboard_gets_each_number_under_its_name(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from torch.utils.tensorboard import SummaryWriter

    from headgate.integrations.tensorboard import write_routing

    layer = headgate.MoE(8, 16, num_experts=4, top_k=2)
    with RoutingMonitor(layer) as monitor, SummaryWriter(tmp_path) as writer:
        layer(torch.randn(5, 8))
        monitor.fold()
        values = monitor.read()
        write_routing(writer, values, step=7)
    events = EventAccumulator(str(tmp_path)).Reload()
    assert set(events.Tags()["scalars"]) == set(values) == KEYS
    (scalar,) = events.Scalars("routing/max_over_mean")
    assert (scalar.step, scalar.value) == (7, pytest.approx(values["routing/max_over_mean"]))


def test_prometheus_has_a_bounded_number_of_series():
    model = zoo.build("mixtral")
    with headgate.tap(model) as tape, torch.no_grad():
        model(**zoo.example_inputs(model))
    registry = CollectorRegistry()
    gauges = RoutingGauges(registry)
    values = routing_values(model, tape, per_layer=True)
    for _ in range(3):
        gauges.set(values)
    lines = [line for line in generate_latest(registry).decode().splitlines() if not line.startswith("#")]
    assert len(lines) == len(MEASURES) * (2 + 2)
    for layer, key in (("mean", "margin"), ("worst", "margin_worst"), ("1", None)):
        wanted = values[f"routing/{key}" if key else "routing/layer_1/margin"]
        assert registry.get_sample_value("headgate_routing_margin", {"layer": layer}) == wanted


def test_a_monitor_holds_no_decision_and_starts_anew_after_a_reading():
    layer = headgate.MoE(8, 16, num_experts=4, top_k=2)
    x, y = torch.randn(5, 8), torch.randn(3, 8)
    with RoutingMonitor(layer) as monitor:
        layer(x)
        monitor.fold()
        assert [len(passes) for passes in monitor._tape.values()] == [0]
        layer(y)
        monitor.discard()
        first = monitor.read()
        layer(y)
        monitor.fold()
        second = monitor.read()
    for values, batch in ((first, x), (second, y)):
        with headgate.tap(layer) as tape:
            layer(batch)
        assert values == routing_values(layer, tape)
    assert monitor.read() == {}


def test_the_ranks_of_a_group_are_added_up(tmp_path):
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/group", rank=0, world_size=1)
    try:
        layer, x = headgate.MoE(8, 16, num_experts=4, top_k=2), torch.randn(5, 8)
        with RoutingMonitor(layer) as monitor, headgate.tap(layer) as tape:
            layer(x)
            monitor.fold()
            assert monitor.read() == pytest.approx(routing_values(layer, tape))
    finally:
        torch.distributed.destroy_process_group()


def test_expert_choice_and_unknown_formulas_have_no_margin():
    layer = headgate.MoE.from_family("expert_choice", 8, 16, num_experts=4)
    with headgate.tap(layer) as tape:
        layer(torch.randn(1, 8, 8))
    assert routing_values(layer, tape).keys() == KEYS - {"routing/margin", "routing/margin_worst"}
    unrouted = zoo.build("vitpose_backbone")
    with headgate.tap(unrouted) as tape, torch.no_grad():
        unrouted(**zoo.example_inputs(unrouted))
    assert "routing/margin" not in routing_values(unrouted, tape)


def test_the_numbers_at_balance_at_collapse_and_without_rows():
    even, one = (tally(torch.tensor(counts)) for counts in ([4, 4, 4, 4], [16, 0, 0, 0]))
    found = describe_tallies({"even": even, "one": one, "none": tally(torch.zeros(4, dtype=torch.int64))})
    wanted = {"max_over_mean": (2.5, 4.0), "min_over_mean": (0.5, 0.0), "normalised_entropy": (0.5, 0.0)}
    wanted |= {"dead_expert_fraction": (0.375, 0.75), "drop_fraction": (0.0, 0.0)}
    for name, (mean, worst) in wanted.items():
        assert (found[f"routing/{name}"], found[f"routing/{name}_worst"]) == (mean, worst)
    assert describe_tallies({"single": tally(torch.tensor([3]))})["routing/normalised_entropy"] == 1.0
    assert describe_tallies({}) == {}
    with pytest.raises(InputError, match=r"per_layer \(=True\) would log 65 layers one by one"):
        describe_tallies({str(number): even for number in range(MAX_LAYERS + 1)}, per_layer=True)


def test_margins_that_are_infinite_or_of_padding_do_not_count():
    margins, padding = torch.tensor([0.5, math.inf, 9.0, 1.5]), torch.tensor([False, False, True, False])
    found = tally(torch.tensor([2, 2]), margins=margins, is_padding=padding)
    assert (found.margin_sum.item(), found.num_margins.item()) == (2.0, 2)


def test_choices_are_counted_without_padding_and_without_what_is_no_expert():
    ids = torch.tensor([[0, 3], [-1, 1], [4, 2], [1, 1]])
    padding = torch.tensor([False, False, False, True])
    assert count_choices(ids, num_experts=4, is_padding=padding).tolist() == [1, 1, 1, 1]


def test_the_models_own_layers_are_seen_in_training_with_their_gradients_unchanged():
    model, rows = zoo.build("qwen2_moe").train(), make_rows(2)
    batch = {name: torch.stack([row[name] for row in rows]) for name in rows[0]}
    model(**batch).loss.backward()
    expected = {path: p.grad.clone() for path, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    with RoutingMonitor(model):
        model(**batch).loss.backward()
    assert all(torch.equal(model.get_parameter(path).grad, gradient) for path, gradient in expected.items())


@pytest.mark.parametrize(
    ("name", "package"),
    [
        ("trainer", "transformers"),
        ("lightning", "lightning.pytorch"),
        ("tensorboard", "torch.utils.tensorboard"),
        ("prometheus", "prometheus_client"),
    ],
)
def test_a_package_that_is_missing_is_named_with_its_remedy(name, package, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.delitem(sys.modules, f"headgate.integrations.{name}", raising=False)
    with pytest.raises(BackendError, match=rf"install (it|them) with: pip install 'headgate\[{name}\]'"):
        importlib.import_module(f"headgate.integrations.{name}")
