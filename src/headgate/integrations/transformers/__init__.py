"""Every MoE model of `transformers`: faster with one line, and visible.

    import headgate.integrations.transformers as hg

    model = AutoModelForCausalLM.from_pretrained(...)
    print(hg.accelerate(model))
    with hg.tap(model) as tape:
        model.generate(...)
    trace = hg.make_trace(tape)

`register` alone adds the name "headgate" to the experts interface. Nothing happens at import.
"""

from headgate.integrations.transformers.balancing import Balanced, balance
from headgate.integrations.transformers.formulas import Formula, formula_from_config, spec_from_config
from headgate.integrations.transformers.norms import measure_norms
from headgate.integrations.transformers.parallel import expert_parallel, load_expert_parallel
from headgate.integrations.transformers.parallel_saving import save_expert_parallel
from headgate.integrations.transformers.recording import make_trace
from headgate.integrations.transformers.replay import replay
from headgate.integrations.transformers.switch import Acceleration, LayerBackend, accelerate, register, restore
from headgate.integrations.transformers.tap import Decision, ForwardPass, LayerTape, Tape, tap

__all__ = [
    "Acceleration",
    "Balanced",
    "Decision",
    "Formula",
    "ForwardPass",
    "LayerBackend",
    "LayerTape",
    "Tape",
    "accelerate",
    "balance",
    "expert_parallel",
    "formula_from_config",
    "load_expert_parallel",
    "make_trace",
    "measure_norms",
    "register",
    "replay",
    "restore",
    "save_expert_parallel",
    "spec_from_config",
    "tap",
]
