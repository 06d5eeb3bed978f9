"""Is it the same step? The first move of the shared weights in float32 against float64, TorchJD and LibMTL; lr 1."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor

from benchmarks import peers
from benchmarks.clock import silence
from benchmarks.workloads import Stand, Workload
from polytask.balance import GramBalancer
from polytask.names import make_balancer

METHODS: dict[str, tuple[str | None, str | None]] = {  # polytask: (TorchJD, LibMTL)
    "UPGrad": ("UPGrad", "UPGrad"),
    "DualProj": ("DualProj", None),
    "MGDA": ("MGDA", "MGDA"),
    "CAGrad": ("CAGrad", "CAGrad"),
    "NashMTL": ("NashMTL", "Nash_MTL"),
    "FairGrad": ("FairGrad", "FairGrad"),
    "IMTLG": ("IMTLG", None),
    "AlignedMTL": ("AlignedMTL", None),
    "ConFIG": ("ConFIG", None),
}
OPTIONS = {"CAGrad": {"c": 0.5, "rescale": False}}  # what the peers' rows of this table use


def _flat(leaves: list[torch.nn.Parameter]) -> Tensor:
    return torch.cat([p.grad.flatten().double() for p in leaves if p.grad is not None])


def _double(tensor: Tensor) -> Tensor:
    return tensor.double() if tensor.is_floating_point() else tensor


def reference(workload: Workload, method: str) -> Tensor:
    """A loop of `torch.autograd.grad` in float64 through the balancer's own weights."""
    stand = Stand(workload)
    stand.encoder.double()
    stand.heads.double()
    inputs, targets = stand.draw()
    losses = stand.losses((_double(inputs), {task: _double(target) for task, target in targets.items()}))
    rows = []
    for loss in losses.values():
        found = torch.autograd.grad(loss, stand.shared, retain_graph=True, allow_unused=True)
        rows.append(torch.cat([torch.zeros(p.numel(), dtype=torch.float64) if g is None else g.flatten()
                               for p, g in zip(stand.shared, found, strict=True)]))  # fmt: skip
    jacobian = torch.stack(rows)
    balancer = make_balancer(method, workload.tasks, OPTIONS.get(method))
    assert isinstance(balancer, GramBalancer)
    values = torch.stack([loss.detach() for loss in losses.values()])
    return balancer.weigh(jacobian @ jacobian.T, values, torch.arange(len(rows))) @ jacobian


def ours(workload: Workload, method: str) -> Tensor:
    """What polytask leaves in `.grad`."""
    stand = Stand(workload)
    make_balancer(method, workload.tasks, OPTIONS.get(method)).backward(stand.losses(stand.draw()))
    return _flat(stand.shared)


def torchjd(workload: Workload, method: str) -> Tensor:
    """What TorchJD's Jacobian route leaves there."""
    from torchjd.autojac import jac_to_grad, mtl_backward

    stand = Stand(workload)
    mtl_backward(list(stand.losses(stand.draw()).values()), features=stand.features)
    jac_to_grad(stand.shared, peers.torchjd_methods(len(workload.tasks))[0][method]())
    return _flat(stand.shared)


def libmtl(workload: Workload, method: str) -> Tensor:
    """What LibMTL leaves there."""
    model: Any = peers.libmtl_model(workload, method)
    losses = peers.libmtl_losses(model, workload, workload.batches[0])
    model.zero_grad(set_to_none=False)
    model.backward(losses, **peers.LIBMTL_ARGUMENTS[method])
    return _flat(list(model.encoder.parameters()))


def compare(found: Tensor, exact: Tensor) -> dict[str, float]:
    """Cosine, ratio of the lengths, and relative difference."""
    lengths = float(found.norm()), float(exact.norm())
    return {
        "cosine": float(found @ exact) / (lengths[0] * lengths[1]),
        "length": lengths[0] / lengths[1],
        "difference": float((found - exact).norm()) / lengths[1],
    }


def agreement(workload: Workload) -> dict[str, dict[str, dict[str, float]]]:
    """For each method, each library's first move against the float64 reference."""
    table: dict[str, dict[str, dict[str, float]]] = {}
    for method, names in METHODS.items():
        workload = copy.deepcopy(workload)
        exact = reference(workload, method)
        table[method] = {"polytask": compare(ours(workload, method), exact)}
        for library, move, name in (("TorchJD", torchjd, names[0]), ("LibMTL", libmtl, names[1])):
            if name is None:
                continue
            try:
                with silence():
                    table[method][library] = compare(move(workload, name), exact)
            except (ImportError, FileNotFoundError) as missing:
                print(f"{library} is skipped: {missing}")
    return table
