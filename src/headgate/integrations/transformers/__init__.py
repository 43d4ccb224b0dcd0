"""Every MoE model of `transformers`: faster with one line, and visible.

    import headgate.integrations.transformers as hg

    model = AutoModelForCausalLM.from_pretrained(...)
    print(hg.accelerate(model))
    with hg.tap(model) as tape:
        model.generate(...)
    trace = hg.make_trace(tape)

`register` alone adds the name "headgate" to the experts interface. Nothing happens at import.
"""

from headgate.integrations.transformers.recording import make_trace
from headgate.integrations.transformers.replay import replay
from headgate.integrations.transformers.switch import Acceleration, LayerBackend, accelerate, register, restore
from headgate.integrations.transformers.tap import Decision, ForwardPass, LayerTape, Tape, tap

__all__ = [
    "Acceleration",
    "Decision",
    "ForwardPass",
    "LayerBackend",
    "LayerTape",
    "Tape",
    "accelerate",
    "make_trace",
    "register",
    "replay",
    "restore",
    "tap",
]
