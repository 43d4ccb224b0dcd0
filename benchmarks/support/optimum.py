"""The best placement there is, of one layer, by mixed-integer programming (HiGHS, through scipy)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import lil_array


def smallest_maximum(counts: NDArray[np.float64], *, num_slots: int, num_devices: int, time_limit_s: float) -> float:
    """Compute the smallest rows of the busiest device that any placement of one layer reaches.

    Every expert e has m replicas, one y[e, m] being 1, on m different devices, z[e, m, w] being 1; a device has P / W
    of them; the rows of e over m on each are at most T, which is minimised.

    Raises:
        RuntimeError: the solver did not prove an optimum in time.
    """
    num_experts = len(counts)
    most = min(num_devices, num_slots - num_experts + 1)
    num_y = num_experts * most
    num_variables = num_y + num_y * num_devices + 1
    rows = lil_array((num_experts + num_y + 2 * num_devices, num_variables))
    low, high = np.zeros(rows.shape[0]), np.zeros(rows.shape[0])
    for expert in range(num_experts):
        for m in range(1, most + 1):
            y = expert * most + m - 1
            first = num_y + y * num_devices
            rows[expert, y] = 1
            rows[num_experts + y, y] = -m
            for device in range(num_devices):
                rows[num_experts + y, first + device] = 1
                rows[num_experts + num_y + device, first + device] = 1
                rows[num_experts + num_y + num_devices + device, first + device] = counts[expert] / m
    low[:num_experts] = high[:num_experts] = 1
    low[num_experts + num_y :][:num_devices] = high[num_experts + num_y :][:num_devices] = num_slots // num_devices
    rows[num_experts + num_y + num_devices :, num_variables - 1] = -1
    low[num_experts + num_y + num_devices :] = -np.inf
    cost = np.zeros(num_variables)
    cost[-1] = 1
    upper = np.ones(num_variables)
    upper[-1] = np.inf
    found = milp(
        cost,
        constraints=LinearConstraint(rows.tocsr(), low, high),
        bounds=Bounds(0, upper),
        integrality=np.append(np.ones(num_variables - 1), 0),
        options={"time_limit": time_limit_s, "mip_rel_gap": 0},
    )
    if found.status != 0:
        raise RuntimeError(f"no optimum of E = {num_experts}, W = {num_devices} within {time_limit_s} s")
    return float(found.fun)
