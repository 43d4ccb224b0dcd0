"""Kernels for GPUs, in Triton, whose interpreter runs them on a CPU as well. Only `ops` is imported without Triton."""
