"""Expert parallelism on torch.distributed."""
