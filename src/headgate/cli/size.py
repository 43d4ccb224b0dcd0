"""`headgate size`: what it takes to run a model, before any weight is downloaded."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from headgate.cli.output import JsonOption, QuietOption, print_json, result_console
from headgate.errors import InputError

if TYPE_CHECKING:
    from headgate.integrations.transformers.headers import Checkpoint
    from headgate.planning.catalogue import Published
    from headgate.planning.expected import ExpectedStep
    from headgate.planning.hardware import Device
    from headgate.planning.parameters import ModelShape
    from headgate.planning.routes import Routes
    from headgate.planning.sizing import SizeReport, Workload

ModelArgument = Annotated[
    str,
    typer.Argument(help="A built-in name such as olmoe-1b-7b, a config.json, a directory, a Hub id, or a .toml."),
]
BatchOption = Annotated[int, typer.Option(help="Sequences at once, of all ranks together.")]
ContextOption = Annotated[int, typer.Option(help="Tokens of each sequence.")]
DtypeOption = Annotated[str | None, typer.Option(help="Format of the weights: bf16, fp8, mxfp4, q4_k, ...")]
ExpertDtypeOption = Annotated[str | None, typer.Option(help="Format of the expert matrices, if another.")]
CacheDtypeOption = Annotated[str | None, typer.Option(help="Format of keys and values: fp32, bf16, fp16, fp8.")]
DeviceOption = Annotated[str | None, typer.Option(help="Such as h200; a wrong name lists them.")]
RanksOption = Annotated[str, typer.Option(help="8, or ep=8,tp=4,dp=2: expert, tensor and data parallelism.")]
SpecOption = Annotated[int, typer.Option("--spec", metavar="K", help="Tokens guessed ahead in each step.")]
CapacityOption = Annotated[
    float | None, typer.Option(metavar="FACTOR", help="Buffers of fixed capacity: rows of an expert in even shares.")
]
TraceOption = Annotated[Path | None, typer.Option(help="A recorded trace of this model, for the experts touched.")]
MeasureOption = Annotated[bool, typer.Option("--measure", help="Measure this machine, and plan for it.")]
MeasuredOption = Annotated[
    float | None, typer.Option(metavar="MS", help="A decoding step that you timed on the device, to hold against it.")
]


def size(
    model: ModelArgument,
    batch: BatchOption = 1,
    context: ContextOption = 4096,
    dtype: DtypeOption = None,
    expert_dtype: ExpertDtypeOption = None,
    cache_dtype: CacheDtypeOption = None,
    device: DeviceOption = None,
    ranks: RanksOption = "1",
    spec: SpecOption = 0,
    capacity: CapacityOption = None,
    trace: TraceOption = None,
    measure: MeasureOption = False,
    measured_ms: MeasuredOption = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Say what a model needs: parameters, memory, work of a token, and speed.

    Nothing is downloaded but its configuration. With -q, print the counts alone.
    """
    from headgate.planning.memory import choose_precision, parse_ranks
    from headgate.planning.sizing import Workload, size_model

    chosen = _device(device, measure)
    load = Workload(
        batch=batch,
        context=context,
        drafts=spec,
        parallel=parse_ranks(ranks),
        capacity=capacity,
        device=chosen,
        measured_s=_seconds(measured_ms, chosen),
    )
    shape, published, checkpoint = _read(model)
    precision = choose_precision(shape, dtype=dtype, expert_dtype=expert_dtype, cache_dtype=cache_dtype)
    routes = None if trace is None else read_routes(trace, shape, load)
    report = size_model(shape, load, precision, published=published, routes=routes)
    expected = _expect(report) if measure else None
    if json:
        print_json(_to_dict(report, checkpoint, expected))
        return
    from headgate.cli.size_view import print_counts, print_size

    show = print_counts if quiet else print_size
    show(report, checkpoint, expected, result_console())


def _read(model: str) -> tuple[ModelShape, Published | None, Checkpoint | None]:
    """A model as sizing sees it, its vendor's figures and its files, where there are any."""
    if model.endswith(".toml"):
        from headgate.files import explain_os_errors
        from headgate.planning.layer_file import parse_layer_file

        with explain_os_errors("read", Path(model)):
            content = Path(model).read_bytes()
        return parse_layer_file(content.decode("utf-8", "replace"), name=model), None, None
    from headgate.integrations.transformers.headers import read_checkpoint
    from headgate.integrations.transformers.shapes import read_model

    shape, published = read_model(model)
    return shape, published, read_checkpoint(model, shape)


def _device(name: str | None, measure: bool) -> Device | None:
    from headgate.planning.hardware import find_device

    if not measure:
        return None if name is None else find_device(name)
    if name is not None:
        raise InputError(f"device (={name}) and --measure exclude each other; --measure plans for this machine")
    from headgate.planning.machine import measure_device

    return measure_device()


def _seconds(measured_ms: float | None, device: Device | None) -> float | None:
    if measured_ms is None:
        return None
    if device is None:
        raise InputError(f"measured-ms (={measured_ms:g}) needs the device that it was measured on; add --device")
    if measured_ms <= 0:
        raise InputError(f"measured-ms (={measured_ms:g}) must be above 0; pass the time of a step in milliseconds")
    return measured_ms / 1e3


def read_routes(path: Path, shape: ModelShape, load: Workload) -> Routes:
    """What the tokens of a trace touch in each layer of a model."""
    from headgate.observe.reader import open_trace
    from headgate.observe.trace import Phase
    from headgate.planning.routes import measured_routes

    file = open_trace(path)
    trace = file.select(phases=[Phase.PROMPT, Phase.GENERATED] if file.has("phase") else None)
    offsets = trace.seq_offsets.tolist()
    return measured_routes(
        shape,
        trace.topk_ids[trace.layer_index.argsort()],
        list(pairwise(offsets)),
        source=str(path),
        span=1 + load.drafts,
        num_ranks=load.parallel.expert,
    )


def _expect(report: SizeReport) -> ExpectedStep | None:
    """What the measured parts of this machine add up to; None where they do not run the model as it is planned."""
    import torch

    from headgate.integrations.transformers.rates import measure_rates
    from headgate.planning.expected import expect_decode

    load, precision = report.workload, report.precision
    dtypes = {"bf16": torch.bfloat16, "fp32": torch.float32}
    is_plain = precision.dense.name == precision.experts.name == precision.cache.name and precision.dense.name in dtypes
    if load.device is None or not is_plain or load.parallel.num_ranks > 1 or load.drafts:
        return None
    rates = measure_rates(load.device, batch=load.batch, context=load.context, dtype=dtypes[precision.dense.name])
    return expect_decode(report.shape, precision, report.routes.step, rates)


def _to_dict(report: SizeReport, checkpoint: Checkpoint | None, expected: ExpectedStep | None) -> dict[str, object]:
    values = report.to_dict()
    values["checkpoint"] = None if checkpoint is None else checkpoint.to_dict()
    if values["speed"] is not None:
        values["speed"]["expected_decode"] = None if expected is None else expected.to_dict()
    return values
