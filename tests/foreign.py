"""What other engines write, made by hand: ids, and how they are packed."""

import base64
import io
import json

import numpy as np
import torch

from headgate.observe.importers.shape import RouterShape
from headgate.observe.reader import open_trace
from headgate.observe.validate import validate_trace
from headgate.observe.writer import save_trace

# Four decoder layers, the first one dense.
SHAPE = RouterShape(num_experts=8, top_k=2, num_layers=4, moe_layers=(1, 2, 3))
UNNAMED = RouterShape(num_experts=8, top_k=2)


def choices(tokens, *, layers=3, k=2, experts=8, seed=0):
    """[T, L, K] distinct ids."""
    rng = np.random.default_rng(seed)
    return np.argsort(rng.random((tokens, layers, experts)), axis=-1)[..., :k]


def assert_holds(trace, ids, folder):
    """The trace has these ids [T, L, K], and breaks no rule of the format."""
    assert np.array_equal(trace.topk_ids.numpy(), np.asarray(ids).transpose(1, 0, 2))
    assert trace.layer_index.tolist() == [1, 2, 3]
    save_trace(folder / "imported.safetensors", trace)
    assert validate_trace(open_trace(folder / "imported.safetensors")) == []


def write(path, value):
    path.write_text(value if isinstance(value, str) else json.dumps(value))
    return path


def npy(array):
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def encoded(array):
    return base64.b64encode(array.tobytes()).decode()


def save_pt(path, value):
    torch.save(value, path)
    return path
