"""A small language model on `headgate.MoE`, trained on Python's own documentation in about two minutes."""
