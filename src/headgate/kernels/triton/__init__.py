"""The experts on a GPU, in Triton. Only `ops` is imported without it."""
