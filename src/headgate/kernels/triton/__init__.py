"""Kernels for GPUs, written in Triton. Its interpreter runs the same code on a CPU (`TRITON_INTERPRET=1`)."""
