"""Properties of every registered trunk, and of every trunk under every balancer."""

import pytest
import torch
from torch import nn

from polytask import MLP, Batch, MultiTaskModel, Task, make_head, train_step
from polytask.balance import METHODS as BALANCERS
from polytask.names import make_balancer, registered
from polytask.testing import TRUNK_CHECKS
from polytask.trunks import (
    AITM,
    CGC,
    METHODS,
    MTAN,
    NDDR,
    PLE,
    Adapters,
    AdaShare,
    Branched,
    Conditioned,
    CrossStitch,
    DescribedMoE,
    DSelectK,
    Grouped,
    HardSharing,
    Hierarchical,
    LearningToBranch,
    MMoE,
    OMoE,
    Separate,
    Sluice,
    SoftModules,
    SoftSharing,
    SparseMoE,
    TaskToken,
)
from polytask.trunks.descriptors import Embedding

TASKS = ("a", "b", "c", "d")
BUILD = {
    "separate": lambda: Separate(MLP(3, [8]), TASKS),
    "hard": lambda: HardSharing(MLP(3, [8])),
    "grouped": lambda: Grouped([("a", "b", "c"), ("d",)], [HardSharing(MLP(3, [8])) for _ in range(2)]),
    "softsharing": lambda: SoftSharing(MLP(3, [8, 6]), TASKS),
    "crossstitch": lambda: CrossStitch(MLP(3, [8, 6]), TASKS, per="channel"),
    "sluice": lambda: Sluice(MLP(3, [8, 6, 6]), TASKS),
    "nddr": lambda: NDDR(MLP(3, [8, 6]), TASKS),
    "mtan": lambda: MTAN(MLP(3, [8, 6]), TASKS),
    "tasktoken": lambda: TaskToken(MLP(3, [8, 6]), TASKS, width=8, heads=2),
    "omoe": lambda: OMoE(nn.Identity(), TASKS, experts=3, widths=(8,), features=3),
    "describedmoe": lambda: DescribedMoE(nn.Identity(), TASKS, Embedding(TASKS), experts=3, widths=(8,), features=3),
    "mmoe": lambda: MMoE(nn.Identity(), TASKS, experts=3, widths=(8,), features=3),
    "cgc": lambda: CGC(nn.Identity(), TASKS, widths=(8,), features=3),
    "ple": lambda: PLE(nn.Identity(), TASKS, levels=3, widths=(8,), features=3),
    "dselectk": lambda: DSelectK(nn.Identity(), TASKS, experts=3, per_row="features", widths=(8,), features=3),
    "sparsemoe": lambda: SparseMoE(nn.Identity(), TASKS, experts=3, widths=(8,), features=3),
    "softmodules": lambda: SoftModules(nn.Identity(), TASKS, layers=3, width=8, features=3),
    "conditioned": lambda: Conditioned(MLP(3, [8, 6]), TASKS, "film"),
    "adapters": lambda: Adapters(MLP(3, [8, 6]), TASKS, frozen=False),
    "branched": lambda: Branched(MLP(3, [8, 6]), [[TASKS], [("a", "b"), ("c", "d")]]),
    "learningtobranch": lambda: LearningToBranch(MLP(3, [8, 6]), TASKS, nodes=2),
    "adashare": lambda: AdaShare(MLP(3, [8, 8]), TASKS),
    "hierarchical": lambda: Hierarchical(MLP(3, [8, 6]), {"a": 0, "b": 0, "c": 1, "d": 1}),
    "aitm": lambda: AITM(HardSharing(MLP(3, [8])), TASKS, widths=(6,)),
}
NAMES = list(registered(METHODS))
EXCEPTIONS: dict[str, dict[str, str]] = {  # trunk -> check -> the reason why it does not hold
    "sparsemoe": {
        "compiles": "which rows an expert gets is known only when they are seen: one graph cannot hold it",
        "exports": "as compiles",
    },
    "learningtobranch": {"exports": "the path is read from the logits: export harden()"},
}
KINDS = {
    "a": Task.regression("a"),
    "b": Task.binary("b"),
    "c": Task.ordinal("c", 4),
    "d": Task.classes("d", 3),
}


def model(name):
    torch.manual_seed(0)
    trunk = BUILD[name]()
    return MultiTaskModel(trunk, {n: make_head(task, trunk.out_features, (5,)) for n, task in KINDS.items()})


def batch(rows=16):
    targets = {
        "a": torch.randn(rows),
        "b": torch.randint(2, (rows,)).float(),
        "c": torch.randint(4, (rows,)).float(),
        "d": torch.randint(3, (rows,)).float(),
    }
    return Batch(torch.randn(rows, 3), targets)


def test_every_trunk_has_an_example():
    assert set(BUILD) == set(NAMES)


QUICK = ("hard", "mmoe", "cgc", "crossstitch")  # what is compiled in the quick tests; the others take a minute
PROMISES = [
    pytest.param(name, check, marks=[pytest.mark.slow] if check == "compiles" and name not in QUICK else [])
    for name in NAMES
    for check in TRUNK_CHECKS
    if check not in EXCEPTIONS.get(name, {})
]


@pytest.mark.parametrize(("name", "check"), PROMISES)
def test_promises(name, check):
    TRUNK_CHECKS[check](BUILD[name], torch.randn(12, 3), TASKS)


def test_an_exception_has_a_reason():
    assert set(EXCEPTIONS) <= set(NAMES)
    for excused in EXCEPTIONS.values():
        assert set(excused) <= set(TRUNK_CHECKS)
        assert all(excused.values())


# every balancer on shared, partly shared and separate parameters; every trunk under each kind of balancer
SHAPES, SORTS = ("mmoe", "grouped", "separate"), ("equal", "pcgrad", "graddrop")
APART = {"gradnorm": ("separate",)}  # it measures at a layer that tasks share


@pytest.mark.parametrize(
    ("name", "balancer"),
    [
        (name, balancer)
        for name in NAMES
        for balancer in registered(BALANCERS)
        if (name in SHAPES or balancer in SORTS) and name not in APART.get(balancer, ())
    ],
)
def test_every_parameter_that_a_loss_reaches_moves(name, balancer):
    net = model(name)
    options = {"weights": dict.fromkeys(TASKS, 0.5)} if balancer == "manual" else None
    balance = make_balancer(balancer, TASKS, options, sizes={"a": 90, "b": 30, "c": 60, "d": 20})
    balance.attach(net.parameters())
    optimizer = torch.optim.Adam([*net.parameters(), *balance.parameters()], lr=0.01)
    parameters = [*net.named_parameters(), *balance.named_parameters()]
    before = {n: p.detach().clone() for n, p in parameters}
    for _ in range(4):
        step = train_step(net, KINDS, [batch()], balance, optimizer, draw=lambda: [batch()])
        assert step.skipped is None
    still = [n for n, p in parameters if torch.equal(p, before[n])]
    assert not still
