"""Jacobians on which methods differ or break; one row per task."""

import torch

MATRICES = {
    "A": [[-4.0, 1, 1], [6, 1, 1]],
    "B": [[3.0, 0], [1, 2]],
    "C": [[3.0, 0], [1, 0.5]],
    "D": [[3.0, 0, 1], [-2, 2, 0], [0, -1, 2]],
    "E": [[1.0, 0], [0, 1], [1, -0.5]],
    "F": [[4.0, 0], [-2, 3], [-2, -3]],  # zero inside the hull: strongly stationary
    "G": [[1.0, 0], [-1, 0], [0, 1]],  # zero on the edge of the hull: weakly stationary
    "H": [[1000.0, 0], [-1, 1]],
    "I": [[-2.0, 0, 1], [-1, 0, 0], [0, -1, -2]],
    "J": [[2.0, -1, 0, 3, 1, -2], [-1, 2, 1, 0, -2, 1], [0, 1, -3, 1, 1, 0], [1, 1, 1, -1, 2, 2]],
    "K": [[1.0, 2], [1, 2]],  # twins
}


def jacobian(name):
    return torch.tensor(MATRICES[name], dtype=torch.float64)


def linear_losses(jac, dtype=torch.float64):
    """Losses whose task gradients are the rows of `jac`, and the parameter they share."""
    x = torch.zeros(jac.shape[1], dtype=dtype, requires_grad=True)
    return x, {f"t{i}": row.to(dtype) @ x for i, row in enumerate(jac)}


def direction(balancer, jac):
    x, losses = linear_losses(jac)
    balancer.backward(losses)
    return x.grad
