"""Kernels: the reference that specifies each operation, and the backends that run it."""
