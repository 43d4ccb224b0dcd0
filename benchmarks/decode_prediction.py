"""Claim: the decode speed of a model on this machine is predicted within 20 %, at batch 1 and 8.

OLMoE-1B-7B's shapes with random bfloat16 weights and fewer layers, as in `whole_model.py`, on the headgate backend. The
prediction adds up the parts of a step, each at a rate that was measured on other shapes (`transformers/rates.py`), for
the experts that uniform routing touches. Rates and steps are measured in turns, for the machine is shared. Beside it,
the ceiling: bytes over bandwidth alone, which the measurement must not break.
"""

from __future__ import annotations

import statistics
import time

import torch
import typer
from support.report import publish
from whole_model import CONTEXT, build_model, make_step

from headgate.integrations.transformers import register
from headgate.integrations.transformers.rates import measure_rates
from headgate.integrations.transformers.shapes import model_shape
from headgate.planning.expected import expect_decode
from headgate.planning.machine import measure_device
from headgate.planning.memory import Parallel, choose_precision
from headgate.planning.roofline import decode_work, floor_time, refuse_broken_floor
from headgate.planning.touch import uniform_touch

STEPS = 5
COLUMNS = ("batch", "measured_ms", "predicted_ms", "predicted_over_measured", "parts_ms", "floor_ms")


def main(layers: int = 4, rounds: int = 3) -> None:
    """Predict and measure decoding at batch 1 and 8."""
    register()
    model = build_model(layers)
    model.set_experts_implementation("headgate")
    shape = model_shape(model.config, name="OLMoE-1B-7B")
    precision = choose_precision(shape, dtype="bf16")
    touches = [uniform_touch(layer) for layer in shape.routed]
    rows = []
    for batch in (1, 8):
        with torch.inference_mode():
            step = make_step(model, batch=batch, tokens=1, context=CONTEXT)
        measured, expected, floors = [], [], []
        for _ in range(rounds):
            device = measure_device()
            rates = measure_rates(device, batch=batch, context=CONTEXT, dtype=torch.bfloat16)
            expected.append(expect_decode(shape, precision, touches, rates))
            work = decode_work(shape, precision, touches, batch=batch, context=CONTEXT)
            floors.append(floor_time(work, device, Parallel()).time_s)
            measured.append(time_steps(step))
        middle = sorted(expected, key=lambda one: one.time_s)[rounds // 2]
        took, floor = statistics.median(measured), statistics.median(floors)
        refuse_broken_floor(floor, took, device="this-machine")
        parts = ", ".join(
            f"{name[:-2]} {1e3 * value:.1f}" for name, value in middle.to_dict().items() if name != "time_s"
        )
        rows.append((batch, 1e3 * took, 1e3 * middle.time_s, middle.time_s / took, parts, 1e3 * floor))
    title = f"decode, OLMoE-1B-7B with {layers} layers, bfloat16, context {CONTEXT}"
    publish("decode_prediction", title, COLUMNS, rows, layers=layers, rounds=rounds)


def time_steps(step: object) -> float:
    """Seconds of one step, the median of several."""
    times = []
    with torch.inference_mode():
        for _ in range(1 + STEPS):
            begin = time.perf_counter()
            step()
            times.append(time.perf_counter() - begin)
    return statistics.median(times[1:])


if __name__ == "__main__":
    typer.run(main)
