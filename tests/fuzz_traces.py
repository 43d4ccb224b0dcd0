"""Feed damaged files to the reader and to every importer: an error of ours or a right answer, and nothing else.

The suite runs a few inputs (tests/observe/test_fuzz.py). For many:

    python tests/fuzz_traces.py --inputs 100000
"""

from __future__ import annotations

import argparse
import base64
import io
import json
import random
import resource
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import save

from headgate.errors import HeadgateError
from headgate.observe.importers.counts import import_deepspeed, import_llama_cpp, import_tensorrt_llm
from headgate.observe.importers.megatron import import_megatron
from headgate.observe.importers.router_logits import import_router_logits
from headgate.observe.importers.sglang import import_sglang
from headgate.observe.importers.shape import RouterShape, shape_of_config
from headgate.observe.importers.vllm import import_vllm
from headgate.observe.reader import open_trace
from headgate.observe.validate import validate_trace

GOLDEN = Path(__file__).parent / "observe" / "golden"
SHAPE = RouterShape(num_experts=8, top_k=2, num_layers=4, moe_layers=(1, 2, 3))
SLOW_S = 5.0
"""No input is larger than a few kilobytes, so this is a hang."""

Target = tuple[str, bytes, Callable[[Path], object]]


def _ids(tokens: int = 5) -> np.ndarray:
    return np.argsort(np.random.default_rng(0).random((tokens, 3, 8)), axis=-1)[..., :2]


def _npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def _pt(value: object) -> bytes:
    file = io.BytesIO()
    torch.save(value, file)
    return file.getvalue()


def _text(value: object) -> bytes:
    return json.dumps(value).encode()


def _read_trace(path: Path) -> object:
    trace = open_trace(path)
    validate_trace(trace)
    return trace.load()


def _read_statistic(path: Path) -> object:
    path.rename(path.with_name("rank0.safetensors"))
    path.with_name("meta_info.json").write_bytes(_text({"num_experts": 8, "num_experts_per_token": 2}))
    return import_tensorrt_llm(path.parent, RouterShape())


def _read_with_logits(path: Path) -> object:
    path = path.rename(path.with_name("router_trace_rank0.jsonl"))
    path.with_name("logits_rank0.bin").write_bytes(bytes(240))
    return import_megatron([path], SHAPE)


def targets() -> dict[str, Target]:
    """Each format: the ending of its files, a right one, and what reads it."""
    ids = _ids()
    b64 = base64.b64encode(_npy(ids.astype(np.uint8))).decode()
    flat = base64.b64encode(ids.astype(np.int32).tobytes()).decode()
    nested = {
        "prompt_routed_experts": ids.tolist(),
        "choices": [{"routed_experts": ids.tolist(), "token_ids": [1] * 5}],
    }
    record = {"step": 0, "block": "decoder", "num_tokens": 5, "topk": 2}
    records = b"\n".join(_text({**record, "layer": n + 1, "top_indices": ids[:, n].tolist()}) for n in range(3))
    raw = base64.b64encode(ids.astype(np.uint8).tobytes()).decode()
    place = {"logits_bytes": 80, "logits_shape": [5, 8]}
    with_logits = b"\n".join(
        _text({**record, **place, "layer": n + 1, "logits_offset": 80 * n, "top_indices": ids[:, n].tolist()})
        for n in range(3)
    )
    batches = [list(range(8))] * 2
    micro_batches = b"\n".join(_text({"iter": 1, "block": "decoder", "layer": n, "tpe": batches}) for n in range(3))
    tokens = {
        "input_ids": torch.arange(5),
        "positions": torch.arange(5),
        "extend_seq_lens": [5],
        "topk_ids_of_layer": torch.cat([torch.full((1, 5, 2), -1), torch.from_numpy(ids).transpose(0, 1)]).int(),
    }
    physical = {"records": [tokens], "last_physical_to_logical_map": torch.arange(8).repeat(4, 1)}
    counts = {f"7_{layer}": np.arange(8, dtype=np.int64) for layer in range(3)}
    config = {"num_hidden_layers": 4, "num_experts_per_tok": 2, "n_routed_experts": 8, "first_k_dense_replace": 1}
    return {
        **{
            f"trace {name}": (".safetensors", (GOLDEN / f"{name}.safetensors").read_bytes(), _read_trace)
            for name in ("full", "wide", "counts")
        },
        "vllm npy": (".npy", _npy(ids), lambda path: import_vllm([path], SHAPE)),
        "vllm nested": (".json", _text(nested), lambda path: import_vllm([path], SHAPE)),
        "vllm base64": (
            ".json",
            _text({"choices": [{"routed_experts": b64}]}),
            lambda path: import_vllm([path], SHAPE),
        ),
        "vllm raw": (".bin", ids.astype(np.uint8).tobytes(), lambda p: import_vllm([p], SHAPE, raw_dtype="uint8")),
        "sglang response": (
            ".json",
            _text({"meta_info": {"routed_experts": flat, "routed_experts_dtype": "int32"}}),
            lambda path: import_sglang([path], SHAPE),
        ),
        "sglang stat": (
            ".pt",
            _pt({"logical_count": torch.ones(1, 4, 8, dtype=torch.int32)}),
            lambda path: import_sglang([path], SHAPE),
        ),
        "sglang tokens": (".pt", _pt(physical), lambda path: import_sglang([path], SHAPE)),
        "sglang csv": (".csv", b"layer_id,expert_id,count\n1,2,3\n", lambda path: import_sglang([path], SHAPE)),
        "megatron list": (
            ".pt",
            _pt([torch.from_numpy(ids[:, layer]) for layer in range(3)]),
            lambda path: import_megatron([path], SHAPE),
        ),
        "vllm shape": (
            ".json",
            _text({"choices": [{"routed_experts": {"data": raw, "shape": list(ids.shape)}}]}),
            lambda path: import_vllm([path], SHAPE),
        ),
        "megatron counts": (".jsonl", micro_batches, lambda path: import_megatron([path], SHAPE)),
        "megatron logits": (".jsonl", with_logits, _read_with_logits),
        "deepspeed": (
            ".pt",
            _pt([torch.arange(8)] * 3),
            lambda path: import_deepspeed(path, SHAPE, counted="all"),
        ),
        "megatron trace": (".jsonl", records, lambda path: import_megatron([path], SHAPE)),
        "tensorrt-llm": (".safetensors", save(counts), _read_statistic),
        "transformers": (
            ".pt",
            _pt(tuple(torch.randn(5, 8, generator=torch.Generator().manual_seed(0)) for _ in range(3))),
            lambda path: import_router_logits(path, SHAPE, router="mixtral"),
        ),
        "llama.cpp": (".csv", b"layer,expert\n1,2\n1,3\n", lambda path: import_llama_cpp(path, SHAPE)),
        "config": (".json", _text(config), shape_of_config),
    }


TOKENS = [
    b"-1",
    b"999999999999999999999",
    b"1e400",
    b"NaN",
    b"[]",
    b"{}",
    b"null",
    b'"',
    b"\\ud800",
    b"\x00",
    b"\xff",
    b"[" * 50,
]


def damage(content: bytes, rng: random.Random) -> bytes:
    """Change a file in one to four places, in ways that files are damaged and attackers try."""
    found = bytearray(content)
    for _ in range(rng.randint(1, 4)):
        place = rng.randrange(len(found) + 1)
        kind = rng.randrange(7)
        if kind == 0:
            del found[place:]
        elif kind == 1:
            found[place : place + 1] = bytes([rng.randrange(256)])
        elif kind == 2:
            found[place:place] = rng.choice(TOKENS)
        elif kind == 3:
            del found[place : place + rng.randint(1, 8)]
        elif kind == 4:
            source = rng.randrange(len(found) + 1)
            found[place:place] = found[source : source + rng.randint(1, 32)]
        elif kind == 5:
            # A number becomes another one: sizes, offsets, ids.
            digits = [at for at, byte in enumerate(found) if chr(byte).isdigit()]
            if digits:
                at = rng.choice(digits)
                found[at : at + 1] = rng.choice([b"0", b"9", b"12", b"-1", b"4294967296", b"1.5"])
        else:
            width = rng.choice([1, 2, 4, 8])
            found[place : place + width] = rng.choice([b"\xff", b"\x00", b"\x7f"]) * width
    return bytes(found)


def try_one(target: Target, content: bytes, folder: Path) -> str:
    """Read one damaged file: "read" or "refused"; whatever else is raised goes through."""
    suffix, _, read = target
    path = folder / f"input{suffix}"
    path.write_bytes(content)
    # Of this thread: another program's work is no hang of ours.
    start = time.thread_time()
    try:
        # What torch says about a file is no part of the answer.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            read(path)
        return "read"
    except HeadgateError as error:
        message = str(error)
    finally:
        assert time.thread_time() - start < SLOW_S, "a hang"
    assert message.isprintable(), ascii(message)
    return "refused"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inputs", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rng, known, outcomes = random.Random(options.seed), targets(), Counter()
    names, start = list(known), time.perf_counter()
    # Files are of a few kilobytes: whoever needs gigabytes for one believes a header.
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for number in range(options.inputs):
        name = names[number % len(names)]
        content = damage(known[name][1], rng)
        with tempfile.TemporaryDirectory() as folder:
            try:
                outcomes[name, try_one(known[name], content, Path(folder))] += 1
            except BaseException:
                print(f"input {number}, {name}: {content!r}", file=sys.stderr)
                raise
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    for name in names:
        print(f"{name:16} read {outcomes[name, 'read']:6}   refused {outcomes[name, 'refused']:6}")
    print(f"{options.inputs} inputs in {time.perf_counter() - start:.0f} s; memory grew by {grown:.0f} MiB at its peak")


if __name__ == "__main__":
    main()
