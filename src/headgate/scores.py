"""From tokens to scores: the router's matrix product, its noise, and the score function."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


def working_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype in which a router decides: float64 for float64, float32 for everything narrower."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def compute_logits(
    x: Float[Tensor, "T D"],
    weight: Float[Tensor, "E D"],
    bias: Float[Tensor, " E"] | None,
    *,
    linear_dtype: Literal["float32", "model"],
) -> Float[Tensor, "T E"]:
    """Multiply tokens with the router's weight: logits = x @ weight.T + bias, never under autocast.

    Args:
        x: [T, D].
        weight: [E, D].
        bias: [E] or None.
        linear_dtype: "float32" computes in float32 (float64 for float64 tokens), "model" in the dtype of `x`. A
            bfloat16 product changes the experts of about one token in twenty, so float32 is the better choice
            except to match a model that was trained otherwise.

    Returns:
        [T, E] in the dtype of the computation.

    Example:
        >>> import torch
        >>> compute_logits(torch.eye(2), torch.tensor([[1.0, 2.0]]), None, linear_dtype="float32").tolist()
        [[1.0], [2.0]]
    """
    dtype = x.dtype if linear_dtype == "model" else working_dtype(x.dtype)
    with torch.autocast(device_type=x.device.type, enabled=False):
        return F.linear(x.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype))


def jitter_tokens(x: Float[Tensor, "T D"], *, jitter: float) -> Float[Tensor, "T D"]:
    """Multiply each entry by uniform noise from [1 - jitter, 1 + jitter]: a new tensor, the experts see the old one.

    References:
        Fedus et al., "Switch Transformers", 2021, https://arxiv.org/abs/2101.03961, section 2.2.

    Example:
        >>> import torch
        >>> jitter_tokens(torch.ones(2, 3), jitter=0.0).tolist()
        [[1.0, 1.0, 1.0], [1.0, 1.0, 1.0]]
    """
    noise = torch.empty_like(x, dtype=working_dtype(x.dtype)).uniform_(1.0 - jitter, 1.0 + jitter)
    return x * noise.to(x.dtype)


def add_learned_noise(logits: Float[Tensor, "T E"], noise_logits: Float[Tensor, "T E"]) -> Float[Tensor, "T E"]:
    """Add Gaussian noise of learned width: logits + normal(0, 1) * softplus(noise_logits).

    References:
        Shazeer et al., "Outrageously Large Neural Networks", 2017, https://arxiv.org/abs/1701.06538, equation 4.

    Example:
        >>> import torch
        >>> add_learned_noise(torch.zeros(1, 2), torch.full((1, 2), float("-inf"))).tolist()
        [[0.0, 0.0]]
    """
    return logits + torch.randn_like(logits) * F.softplus(noise_logits)


def compute_scores(
    logits: Float[Tensor, "T E"],
    *,
    score: Literal["softmax", "sigmoid", "sqrt_softplus", "linear", "ones"],
    score_dtype: Literal["float32", "model", "rounded"],
    model_dtype: torch.dtype,
) -> Float[Tensor, "T E"]:
    """Apply the score function to each token's logits.

    Args:
        logits: [T, E].
        score: "softmax" over the experts; "sigmoid"; "sqrt_softplus" = sqrt(log(1 + exp(z))) (DeepSeek-V4);
            "linear" = the logits themselves; "ones".
        score_dtype: where the function is computed, see `RouterSpec.score_dtype`.
        model_dtype: dtype of the layer's input, for "model" and "rounded".

    Returns:
        [T, E] float32 (float64 for float64 logits), whatever it was computed in.

    Example:
        >>> import torch
        >>> logits = torch.zeros(1, 4)
        >>> compute_scores(logits, score="softmax", score_dtype="float32", model_dtype=logits.dtype).tolist()
        [[0.25, 0.25, 0.25, 0.25]]
    """
    wide = working_dtype(logits.dtype)
    z = logits.to(model_dtype if score_dtype == "model" else wide)
    if score == "softmax":
        scores = z.softmax(dim=-1)
    elif score == "sigmoid":
        scores = z.sigmoid() if z.dtype != wide else _sigmoid(z)
    elif score == "sqrt_softplus":
        scores = _sqrt(F.softplus(z) if z.dtype != wide else _softplus(z))
    elif score == "linear":
        scores = z
    else:
        scores = torch.ones_like(z)
    if score_dtype == "rounded":
        scores = scores.to(model_dtype)
    return scores.to(wide)


# torch.sigmoid and softplus round by an entry's place on a CPU (the last few of a tensor don't fill a vector), so
# equal logits would get unequal scores and ties would not go to the lowest id. exp and log1p don't.


def _decay(z: Float[Tensor, "T E"]) -> Float[Tensor, "T E"]:
    """exp(-|z|), whose gradient at 0 is that from the right."""
    return torch.where(z >= 0, -z, z).exp()


def _sigmoid(z: Float[Tensor, "T E"]) -> Float[Tensor, "T E"]:
    decay = _decay(z)
    return torch.where(z >= 0, 1.0, decay) / (1.0 + decay)


def _softplus(z: Float[Tensor, "T E"]) -> Float[Tensor, "T E"]:
    return torch.log1p(_decay(z)) + torch.where(z >= 0, z, 0.0)


def _sqrt(positive: Float[Tensor, "T E"]) -> Float[Tensor, "T E"]:
    """The square root, whose gradient where softplus underflowed to 0 is 0 and not infinity * 0."""
    is_zero = positive == 0
    return positive.masked_fill(is_zero, 1.0).sqrt().masked_fill(is_zero, 0.0)
