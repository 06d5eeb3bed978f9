"""TorchJD and LibMTL, each doing one step of its own training loop; a library that is missing is reported and skipped.

LibMTL is imported from the checkout that $POLYTASK_LIBMTL names. Its `Trainer` asks for a CUDA device in its
constructor, so a case repeats one iteration of `Trainer.train_singlelevel`: losses by index into a tensor of zeros,
`zero_grad`, `backward`, `step`. Metrics and `loss.item()` are left out, in its favour.
"""

from __future__ import annotations

import copy
import importlib
import os
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.cases import Case
from benchmarks.clock import Step
from benchmarks.workloads import LEARNING_RATE, Stand, Workload

LIBMTL = "POLYTASK_LIBMTL"
LIBMTL_ARGUMENTS: dict[str, dict[str, Any]] = {  # the defaults of LibMTL/config.py
    "EW": {}, "UW": {}, "DWA": {"T": 2.0}, "RLW": {},
    "FAMO": {"FAMO_w_lr": 0.025, "FAMO_w_gamma": 1e-3},
    "GradNorm": {"alpha": 1.5},
    "MGDA": {"mgda_gn": "none"},
    "PCGrad": {},
    "GradVac": {"GradVac_beta": 0.5, "GradVac_group_type": 0},
    "GradDrop": {"leak": 0.0},
    "CAGrad": {"calpha": 0.5, "rescale": 1},
    "IMTL": {},
    "Nash_MTL": {"update_weights_every": 1, "optim_niter": 20, "max_norm": 1.0},
    "FairGrad": {"FairGrad_alpha": 1.0},
    "UPGrad": {"UPGrad_norm_eps": 1e-4, "UPGrad_reg_eps": 1e-4},
    "Aligned_MTL": {},
    "DB_MTL": {"DB_beta": 0.9, "DB_beta_sigma": 0.0},
    "MoCo": {"MoCo_beta": 0.5, "MoCo_beta_sigma": 0.5, "MoCo_gamma": 0.1, "MoCo_gamma_sigma": 0.5, "MoCo_rho": 0.0},
    "ExcessMTL": {"robust_step_size": 1e-2},
}  # fmt: skip
AT_FEATURES = ("GradNorm", "MGDA", "GradDrop", "IMTL")
ONLY_AT_FEATURES = ("GradDrop",)
LOSSES_ONLY = ("EW", "UW", "DWA", "RLW", "FAMO")


def peer_cases(tasks: int) -> tuple[list[Case], list[str]]:
    """The cases of the libraries that are here, and a note for each that is not."""
    cases, notes = [], []
    for find in (torchjd_cases, libmtl_cases):
        try:
            cases += find(tasks)
        except (ImportError, FileNotFoundError) as missing:
            notes.append(f"{find.__name__.removesuffix('_cases')} is skipped: {missing}")
    return cases, notes


# LibMTL --------------------------------------------------------------------------------------------------------------


def _import_libmtl() -> tuple[Any, Any]:
    root = Path(os.environ.get(LIBMTL, "")) / "LibMTL"
    if LIBMTL not in os.environ or not root.is_dir():
        raise FileNotFoundError(f"${LIBMTL} does not name a checkout of LibMTL")
    if "LibMTL" not in sys.modules:  # LibMTL/__init__.py wants torch_geometric, which neither of these two rooms needs
        package = types.ModuleType("LibMTL")
        package.__path__ = [str(root)]
        sys.modules["LibMTL"] = package
    return importlib.import_module("LibMTL.weighting"), importlib.import_module("LibMTL.architecture")


def libmtl_model(workload: Workload, name: str, *, rep_grad: bool = False) -> nn.Module:
    """LibMTL's hard sharing with one of its weightings, on a copy of the workload's modules."""
    weighting, architecture = _import_libmtl()
    model = type("Model", (architecture.HPS, weighting.__dict__[name]), {})(
        task_name=workload.tasks,
        encoder_class=lambda: copy.deepcopy(workload.encoder),
        decoders=copy.deepcopy(workload.heads),
        rep_grad=rep_grad,
        multi_input=False,
        device=torch.device("cpu"),
    )
    model.init_param()
    model.epoch, model.epochs = 2, 10
    model.train_loss_buffer = np.ones([len(workload.tasks), 10])
    return model.train()  # type: ignore[no-any-return]


def libmtl_losses(model: Any, workload: Workload, batch: Any) -> Tensor:
    """As `Trainer._compute_loss`: by index into a tensor of zeros."""
    inputs, targets = batch
    predictions = model(inputs)
    losses = torch.zeros(len(workload.tasks))
    for i, task in enumerate(workload.tasks):
        losses[i] = workload.criteria[task](predictions[task], targets[task])
    return losses


def _libmtl_step(name: str, rep_grad: bool) -> Callable[[Workload], Step]:
    def build(workload: Workload) -> Step:
        model: Any = libmtl_model(workload, name, rep_grad=rep_grad)
        optimizer = torch.optim.SGD(model.parameters(), lr=LEARNING_RATE)
        walk = Stand(workload)

        def step() -> None:
            batch = walk.draw()
            losses = libmtl_losses(model, workload, batch)
            optimizer.zero_grad(set_to_none=False)
            model.backward(losses, **LIBMTL_ARGUMENTS[name])
            optimizer.step()
            if name == "FAMO":
                with torch.no_grad():
                    model.update_w(libmtl_losses(model, workload, batch).detach())

        return step

    return build


def libmtl_cases(tasks: int) -> list[Case]:
    """Every weighting that needs one batch a step."""
    _import_libmtl()
    cases = []
    for name in LIBMTL_ARGUMENTS:
        kind = "loss balancers" if name in LOSSES_ONLY else "exact"
        if name not in ONLY_AT_FEATURES:
            cases.append(Case(f"LibMTL {name}", f"LibMTL, {kind}", _libmtl_step(name, False)))
        if name in AT_FEATURES:
            cases.append(Case(f"LibMTL {name} (rep_grad)", "LibMTL, rep_grad", _libmtl_step(name, True)))
    return cases


# TorchJD -------------------------------------------------------------------------------------------------------------


def _scalarized(make: Callable[[], Any]) -> Callable[[Workload], Step]:
    def build(workload: Workload) -> Step:
        scalarizer = make()
        stand = Stand(workload, scalarizer.parameters())
        if hasattr(scalarizer, "step") and not hasattr(scalarizer, "update"):  # DWA: acts from the third epoch on
            for _ in range(2):
                scalarizer(torch.ones(len(workload.tasks)))
                scalarizer.step()

        def step() -> None:
            batch = stand.draw()
            stand.optimizer.zero_grad()
            scalarizer(torch.stack(list(stand.losses(batch).values()))).backward()
            stand.optimizer.step()
            if hasattr(scalarizer, "update"):  # FAMO: a second forward
                with torch.no_grad():
                    scalarizer.update(torch.stack(list(stand.losses(batch).values())))

        return step

    return build


def _autojac(make: Callable[[], Any], *, chunk: int | None = None, gramian: bool = False) -> Callable[[Workload], Step]:
    def build(workload: Workload) -> Step:
        from torchjd.autojac import jac_to_grad, mtl_backward

        stand, aggregator = Stand(workload), make()

        def step() -> None:
            stand.optimizer.zero_grad()
            losses = list(stand.losses(stand.draw()).values())
            mtl_backward(losses, features=stand.features, parallel_chunk_size=chunk)
            jac_to_grad(stand.shared, aggregator, optimize_gramian_computation=gramian)
            stand.optimizer.step()

        return step

    return build


def _autogram(make: Callable[[], Any]) -> Callable[[Workload], Step]:
    def build(workload: Workload) -> Step:
        from torchjd.autogram import Engine

        stand, weighting = Stand(workload), make()
        engine = Engine(stand.encoder, batch_dim=None)

        def step() -> None:
            stand.optimizer.zero_grad()
            losses = torch.stack(list(stand.losses(stand.draw()).values()))
            losses.backward(weighting(engine.compute_gramian(losses)))
            stand.optimizer.step()

        return step

    return build


def torchjd_methods(tasks: int) -> tuple[dict[str, Callable[[], Any]], dict[str, Callable[[], Any]]]:
    """Aggregators (Jacobian to direction) and weightings (Gramian to weights) with their defaults, by name."""
    a = importlib.import_module("torchjd.aggregation")
    aggregators: dict[str, Callable[[], Any]] = {
        name: getattr(a, name)
        for name in ("Mean", "Random", "MGDA", "PCGrad", "GradVac", "GradDrop", "IMTLG", "AlignedMTL", "UPGrad",
                     "DualProj", "ConFIG")
    }  # fmt: skip
    aggregators["CAGrad"] = lambda: a.CAGrad(c=0.5)
    aggregators["NashMTL"] = lambda: a.NashMTL(n_tasks=tasks)
    aggregators["FairGrad"] = lambda: a.FairGrad(alpha=1.0)
    weightings: dict[str, Callable[[], Any]] = {
        name: getattr(a, f"{name}Weighting") for name in ("MGDA", "PCGrad", "GradVac", "IMTLG", "AlignedMTL", "UPGrad")
    }
    weightings["CAGrad"] = lambda: a.CAGradWeighting(c=0.5)
    weightings["FairGrad"] = lambda: a.FairGradWeighting(alpha=1.0)
    return aggregators, weightings


def torchjd_cases(tasks: int) -> list[Case]:
    """Scalarizers, its Jacobian route with every aggregator, its other settings, its Gramian engine."""
    s = importlib.import_module("torchjd.scalarization")
    scalarizers: dict[str, Callable[[], Any]] = {
        "Sum": s.Sum, "UW": lambda: s.UW(tasks), "DWA": s.DWA, "Random": s.Random,
        "FAMO": lambda: s.FAMO(tasks), "IMTLL": lambda: s.IMTLL(tasks),
    }  # fmt: skip
    aggregators, weightings = torchjd_methods(tasks)
    cases = [Case(f"TorchJD {n}, loss", "TorchJD, loss balancers", _scalarized(m)) for n, m in scalarizers.items()]
    cases += [Case(f"TorchJD {n}", "TorchJD, autojac", _autojac(m)) for n, m in aggregators.items()]
    group, upgrad = "TorchJD, other settings", aggregators["UPGrad"]
    cases += [
        Case("TorchJD Mean, chunk 1", group, _autojac(aggregators["Mean"], chunk=1)),
        Case("TorchJD UPGrad, chunk 1", group, _autojac(upgrad, chunk=1)),
        Case("TorchJD UPGrad, optimised Gramian", group, _autojac(upgrad, gramian=True)),
        Case("TorchJD UPGrad, chunk 1, optimised Gramian", group, _autojac(upgrad, chunk=1, gramian=True)),
    ]
    return cases + [Case(f"TorchJD {n}, autogram", group, _autogram(m)) for n, m in weightings.items()]
