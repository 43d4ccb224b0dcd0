"""Every MoE model of `transformers`: faster with one line.

    import headgate.integrations.transformers as hg

    model = AutoModelForCausalLM.from_pretrained(...)
    print(hg.accelerate(model))

`register` alone adds the name "headgate" to the experts interface. Nothing happens at import.
"""

from headgate.integrations.transformers.switch import Acceleration, LayerBackend, accelerate, register, restore

__all__ = ["Acceleration", "LayerBackend", "accelerate", "register", "restore"]
