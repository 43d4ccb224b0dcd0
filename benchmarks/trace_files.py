"""The claim: ten million tokens of 48 layers and top-8 are opened in under a second and summarised in bounded memory.

Floor: ids alone are 10^7 * 48 * 8 bytes = 3.8 GB; opening reads headers and sequence offsets, 80 kB. Summarising reads
everything once, so it takes at least the bytes over the speed of the disk (or of memory, where the file is cached).

    python benchmarks/trace_files.py                        # 200,000 tokens
    python benchmarks/trace_files.py --tokens 10000000      # the claim; needs 4 GB of disk, --all 14 GB
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

import headgate
from headgate.observe.pieces import count_rows
from headgate.observe.trace import RoutingTrace

L, E, K, LENGTH = 48, 128, 8, 2000
PIECE = 20_000

MEASURE = """
import json, sys, time
start = time.perf_counter()
import headgate
from headgate.observe.summary import summarise_trace
imported = time.perf_counter()
trace = headgate.open_trace(sys.argv[1])
sizes = trace.sizes
opened = time.perf_counter()
part = trace.select(layers=[7], sequences=[trace.sizes.S // 2])
sliced = time.perf_counter()
summary = summarise_trace(trace) if sys.argv[2] == "summarise" else None
done = time.perf_counter()
# Pages of the mapped file count as resident, and the kernel takes them back when it likes.
status = dict(line.split(":", 1) for line in open("/proc/self/status") if ":" in line)
print(json.dumps({
    "import_s": imported - start, "open_s": opened - imported, "slice_s": sliced - opened, "summarise_s": done - sliced,
    "tokens": sizes.T, "slice_tokens": part.num_tokens, "peak_rss_mib": int(status["VmHWM"].split()[0]) / 1024,
    "anonymous_mib": int(status["RssAnon"].split()[0]) / 1024, "mapped_mib": int(status["RssFile"].split()[0]) / 1024,
}))
"""


def make_piece(number: int, full: bool) -> RoutingTrace:
    """Tokens whose eight experts are distinct: a random first one, and odd steps from it."""
    generator = torch.Generator().manual_seed(number)
    first = torch.randint(E, (L, PIECE, 1), generator=generator)
    step = 2 * torch.randint(E // 2, (L, PIECE, 1), generator=generator) + 1
    ids = (first + step * torch.arange(K)) % E
    extra = {
        "topk_weights": torch.rand(L, PIECE, K, generator=generator).half(),
        "select_margin": torch.rand(L, PIECE, generator=generator).half(),
        "router_entropy": torch.rand(L, PIECE, generator=generator).half(),
    }
    return RoutingTrace(
        topk_ids=ids,
        layer_index=torch.arange(L, dtype=torch.int32),
        seq_offsets=torch.arange(0, PIECE + 1, LENGTH),
        counts=count_rows(ids, num_experts=E),
        metadata={"model": "synthetic"},
        token_ids=torch.randint(150_000, (PIECE,), generator=generator).int(),
        forward_id=torch.arange(PIECE, dtype=torch.int32) // LENGTH + number * (PIECE // LENGTH),
        **(extra if full else {}),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=200_000)
    parser.add_argument("--all", action="store_true", help="weights, margins and entropies, too")
    parser.add_argument("--folder", type=Path, help="where to write; default a temporary folder, removed at the end")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        path = Path(folder) / "routing.safetensors"
        start = time.perf_counter()
        with headgate.TraceWriter(path, shard_bytes=2**30) as writer:
            for number in range(options.tokens // PIECE):
                writer.append(make_piece(number, options.all))
        write_s = time.perf_counter() - start
        num_bytes = sum(file.stat().st_size for file in Path(folder).iterdir())
        shards = len(list(Path(folder).glob("*.safetensors")))
        print(
            f"headgate {headgate.__version__}, torch {torch.__version__}, {platform.processor() or platform.machine()}"
        )
        print(f"wrote {num_bytes / 1e9:.2f} GB in {shards} files in {write_s:.1f} s, making the numbers included")
        for what in ("open", "summarise"):
            found = subprocess.run(
                [sys.executable, "-c", MEASURE, str(path), what], capture_output=True, text=True, check=True
            ).stdout
            print(what, json.dumps({name: round(value, 3) for name, value in json.loads(found).items()}))
        print(f"peak of the writer: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB")


if __name__ == "__main__":
    main()
