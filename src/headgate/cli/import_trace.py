"""`headgate import`: the routing that another engine recorded, as a trace."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import typer

from headgate.cli.output import JsonOption, QuietOption, note_console, print_json
from headgate.wording import number_of

if TYPE_CHECKING:
    from headgate.observe.importers.counts import Counted
    from headgate.observe.importers.megatron_counts import Ranks
    from headgate.observe.importers.shape import RouterShape
    from headgate.observe.trace import RoutingTrace


class Engine(StrEnum):
    """Who wrote the files."""

    VLLM = "vllm"
    SGLANG = "sglang"
    MEGATRON = "megatron"
    TENSORRT_LLM = "tensorrt-llm"
    TRANSFORMERS = "transformers"
    LLAMA_CPP = "llama.cpp"
    DEEPSPEED = "deepspeed"


class RanksOption(StrEnum):
    """What the ranks of a run had."""

    TOKENS = "tokens"
    SAME = "same"
    EXPERTS = "experts"


class CountedOption(StrEnum):
    """What counts of a token's choices."""

    ALL = "all"
    FIRST = "first"


RANKS: dict[RanksOption, Ranks] = {
    RanksOption.TOKENS: "tokens",
    RanksOption.SAME: "same",
    RanksOption.EXPERTS: "experts",
}


EngineArgument: TypeAlias = Annotated[
    Engine, typer.Argument(metavar="ENGINE", help=f"Who wrote the files: {', '.join(Engine)}.")
]
FilesArgument: TypeAlias = Annotated[
    list[Path], typer.Argument(metavar="FILE...", help="What it wrote; see docs/import.md.")
]
OutOption: TypeAlias = Annotated[
    Path, typer.Option("--out", "-o", metavar="FILE", help="The trace to write, .safetensors.")
]
ConfigOption: TypeAlias = Annotated[
    Path | None, typer.Option(metavar="FILE", help="The model's config.json: experts, choices, routed layers.")
]
ExpertsOption: TypeAlias = Annotated[
    int | None, typer.Option(min=1, metavar="E", help="Experts, where no config is given.")
]
TopKOption: TypeAlias = Annotated[int | None, typer.Option(min=1, metavar="K", help="Choices per token, likewise.")]
LayersOption: TypeAlias = Annotated[
    str | None, typer.Option(metavar="N,N,...", help="The decoder layers of the file's rows, as in 1-26 or 0,2,4.")
]
RowsOption: TypeAlias = Annotated[
    int | None, typer.Option(min=1, metavar="N", help="Layers per token in a file that could have two.")
]
DtypeOption: TypeAlias = Annotated[str | None, typer.Option(metavar="NAME", help="Of vLLM's raw blocks, as in uint8.")]
RouterOption: TypeAlias = Annotated[
    str | None, typer.Option(metavar="PRESET", help="How the model chooses from router logits.")
]
RanksAnswer: TypeAlias = Annotated[
    RanksOption | None, typer.Option(help="Had the ranks their own tokens, all the same, or their own experts?")
]
CountedAnswer: TypeAlias = Annotated[
    CountedOption | None, typer.Option(help="Does DeepSpeed's exp_counts count all choices, or the first alone?")
]
ForceOption: TypeAlias = Annotated[bool, typer.Option("--force", help="Overwrite the trace.")]


def import_trace(
    engine: EngineArgument,
    files: FilesArgument,
    out: OutOption,
    config: ConfigOption = None,
    experts: ExpertsOption = None,
    top_k: TopKOption = None,
    layers: LayersOption = None,
    rows: RowsOption = None,
    dtype: DtypeOption = None,
    router: RouterOption = None,
    ranks: RanksAnswer = None,
    counted: CountedAnswer = None,
    force: ForceOption = False,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Turn the routing that another engine wrote into a trace.

    What its files leave open is asked for by an option, never guessed.
    """
    from headgate.errors import ArtifactError
    from headgate.observe.writer import save_trace

    if out.exists() and not force:
        raise ArtifactError(f"{out} is there already; choose another --out, or overwrite it by --force")
    shape = _shape(config, layers, {"num_experts": experts, "top_k": top_k, "num_rows": rows})
    answers = Answers(
        dtype=dtype,
        router=router,
        ranks=None if ranks is None else RANKS[ranks],
        counted=None if counted is None else "all" if counted is CountedOption.ALL else "first",
    )
    trace = _read(engine, files, shape, answers)
    save_trace(out, trace)
    if json:
        print_json({"out": str(out), "num_tokens": trace.num_tokens, "layers": trace.layer_index.tolist()})
    elif not quiet:
        what = number_of(trace.num_tokens, "token") if trace.num_tokens else "counts, no tokens"
        layers = number_of(len(trace.layer_index), "layer")
        note_console().print(f"Wrote {out}: {what}, {layers}.", markup=False, soft_wrap=True)


def _shape(config: Path | None, layers: str | None, given: dict[str, int | None]) -> RouterShape:
    """The model's shape, from its config and from what was given besides."""
    from headgate.observe.importers.shape import RouterShape, shape_of_config

    shape = RouterShape() if config is None else shape_of_config(config)
    known: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    if layers is not None:
        known["moe_layers"] = parse_layers(layers)
    return replace(shape, **known)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answers:
    """What a file leaves open and the caller said; see the importers."""

    dtype: str | None
    router: str | None
    ranks: Ranks | None
    counted: Counted | None


def _read(engine: Engine, files: list[Path], shape: RouterShape, answers: Answers) -> RoutingTrace:
    from headgate.observe.importers.counts import import_deepspeed, import_llama_cpp, import_tensorrt_llm
    from headgate.observe.importers.megatron import import_megatron
    from headgate.observe.importers.router_logits import import_router_logits
    from headgate.observe.importers.sglang import import_sglang
    from headgate.observe.importers.vllm import import_vllm

    match engine:
        case Engine.VLLM:
            return import_vllm(files, shape, raw_dtype=answers.dtype)
        case Engine.SGLANG:
            return import_sglang(files, shape)
        case Engine.MEGATRON:
            return import_megatron(files, shape, ranks=answers.ranks)
        case _ if len(files) > 1:
            raise typer.BadParameter(f"{engine} takes one file or folder", param_hint="FILE...")
        case Engine.TENSORRT_LLM:
            return import_tensorrt_llm(files[0], shape, ranks=answers.ranks)
        case Engine.TRANSFORMERS:
            return import_router_logits(files[0], shape, router=answers.router)
        case Engine.DEEPSPEED:
            return import_deepspeed(files[0], shape, counted=answers.counted)
        case _:
            return import_llama_cpp(files[0], shape)


def parse_layers(text: str) -> tuple[int, ...]:
    """Read a list of layers, as in "1-26" or "0,2,4".

    Example:
        >>> parse_layers("0,3-5")
        (0, 3, 4, 5)
    """
    layers: list[int] = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()) or len(part) > 12:
            raise typer.BadParameter(f"{part!r} is no layer and no range, as in 1-26", param_hint="--layers")
        if int(last or first) > 100_000:
            raise typer.BadParameter(f"{part!r} is more than any model has", param_hint="--layers")
        if int(last or first) < int(first):
            raise typer.BadParameter(f"{part!r} runs backwards; name the lower layer first", param_hint="--layers")
        layers += range(int(first), int(last or first) + 1)
    return tuple(layers)
