"""What is timed: PyTorch by hand and polytask. A case is a name, its group in the tables, and how to build its step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from benchmarks.clock import Step
from benchmarks.workloads import Stand, Targets, Workload
from polytask import balance
from polytask.balance import Balancer, GramBalancer, LossBalancer
from polytask.names import canonical, make_balancer

AT_FEATURES = ("UPGrad", "MGDA", "IMTLG", "CAGrad", "NashMTL")
WRAPPED = ("UPGrad", "MGDA")
REFRESH = 8
# what a method wants one number per task for
NEEDED = {"manual": "weights", "inversesize": "sizes", "sizeweights": "sizes"}
Make = Callable[[Sequence[str]], Balancer]
Draw = tuple[Tensor, Targets]
Losses = dict[str, Tensor]
Probe = Callable[[Stand, Draw], Losses]


@dataclass(frozen=True)
class Case:
    """One line of the table.

    Args:
        name: the library and what it runs.
        group: which lines it is compared with.
        build: from a workload to a function that does one step on a copy of the model.
    """

    name: str
    group: str
    build: Callable[[Workload], Step]


def plain(workload: Workload) -> Step:
    """The floor: zero_grad, forward, the sum of the losses backward, SGD."""
    stand = Stand(workload)

    def step() -> None:
        stand.optimizer.zero_grad()
        torch.stack(list(stand.losses(stand.draw()).values())).sum().backward()
        stand.optimizer.step()

    return step


def uncertainty_by_hand(workload: Workload) -> Step:
    """Kendall's weighting in ten lines."""
    logs = nn.Parameter(torch.zeros(len(workload.tasks)))
    stand = Stand(workload, iter([logs]))

    def step() -> None:
        stand.optimizer.zero_grad()
        losses = torch.stack(list(stand.losses(stand.draw()).values()))
        (torch.exp(-logs) * losses + logs).sum().backward()
        stand.optimizer.step()

    return step


def loop_by_hand(workload: Workload) -> Step:
    """T backward passes, the stacked Jacobian, its Gramian, the mean."""
    stand = Stand(workload)

    def step() -> None:
        stand.optimizer.zero_grad()
        losses, rows = stand.losses(stand.draw()), []
        for name, loss in losses.items():
            own = list(stand.heads[name].parameters())
            found = torch.autograd.grad(loss, [*stand.shared, *own], retain_graph=True)
            for leaf, gradient in zip(own, found[len(stand.shared) :], strict=True):
                leaf.grad = gradient
            rows.append(torch.cat([g.reshape(-1) for g in found[: len(stand.shared)]]))
        jacobian = torch.stack(rows)
        gram = jacobian @ jacobian.T
        direction = torch.full((len(gram),), 1 / len(gram)) @ jacobian
        for leaf, part in zip(stand.shared, direction.split([p.numel() for p in stand.shared]), strict=True):
            leaf.grad = part.view_as(leaf)
        stand.optimizer.step()

    return step


def balanced(make: Make, *, at_features: bool = False) -> Callable[[Workload], Step]:
    """A polytask balancer in a loop of one's own."""

    def build(workload: Workload) -> Step:
        balancer = make(workload.tasks)
        stand = Stand(workload, balancer.parameters())
        balancer.attach([*stand.shared, *stand.heads.parameters()])

        def step() -> None:
            batch = stand.draw()
            stand.optimizer.zero_grad()
            losses = stand.losses(batch)
            at = stand.features if at_features else None
            balancer.backward(losses, at=at, fresh=lambda: stand.losses(stand.draw()))
            stand.optimizer.step()
            if balancer.looks_again:
                balancer.after_step(lambda: stand.losses(batch))

        return step

    return build


def _in_bfloat16(stand: Stand, batch: Draw) -> Losses:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return {task: loss.float() for task, loss in stand.losses(batch).items()}


def _on_a_quarter(stand: Stand, batch: Draw) -> Losses:
    inputs, targets = batch
    few = len(inputs) // 4
    return stand.losses((inputs[:few], {task: target[:few] for task, target in targets.items()}))


PROBES: dict[str, Probe] = {"bfloat16": _in_bfloat16, "a quarter of the batch": _on_a_quarter}


def probed(make: Make, probe: Probe) -> Callable[[Workload], Step]:
    """Weights from cheaper losses on the same batch, the gradient from the step's own."""

    def build(workload: Workload) -> Step:
        balancer, stand = make(workload.tasks), Stand(workload)

        def step() -> None:
            batch = stand.draw()
            stand.optimizer.zero_grad()
            balancer.backward(stand.losses(batch), fresh=lambda: probe(stand, batch))
            stand.optimizer.step()

        return step

    return build


def _named(word: str) -> Make:
    def make(tasks: Sequence[str]) -> Balancer:
        numbers = {task: 1.0 + 0.1 * i for i, task in enumerate(tasks)}
        needed = NEEDED.get(canonical(word))
        return make_balancer(word, tasks, {needed: numbers} if needed else None)

    return make


def _wrapped(wrapper: str, word: str, **options: float) -> Make:
    return lambda tasks: getattr(balance, wrapper)(_named(word)(tasks), tasks=tasks, **options)


def by_hand() -> list[Case]:
    """PyTorch alone."""
    group = "PyTorch by hand"
    return [
        Case("plain step", group, plain),
        Case("uncertainty weighting, ten lines", group, uncertainty_by_hand),
        Case("loop: T backward passes, J, J Jᵀ, mean", group, loop_by_hand),
    ]


def polytask_cases() -> list[Case]:
    """Every registered balancer; some of them at the features, and in the wrappers that measure less."""
    found = []
    for method in balance.METHODS:
        kind = "loss balancers" if issubclass(method, LossBalancer) else "exact"
        found.append(Case(f"polytask {method.__name__}", f"polytask, {kind}", balanced(_named(method.__name__))))
    group = "polytask, approximate"
    named = {method.__name__: method for method in balance.METHODS}
    for word in AT_FEATURES:
        if issubclass(named[word], GramBalancer):
            build = balanced(_named(word), at_features=True)
            found.append(Case(f"polytask {word}, at the features", group, build))
    for word in WRAPPED:
        build = balanced(_wrapped("RefreshEvery", word, every=REFRESH))
        found.append(Case(f"polytask {word}, exact every {REFRESH}th step", group, build))
        build = balanced(_wrapped("AveragedGramian", word))
        found.append(Case(f"polytask {word}, averaged Gramian", group, build))
        for words, probe in PROBES.items():
            build = probed(_wrapped("Probed", word), probe)
            found.append(Case(f"polytask {word}, weights from {words}", group, build))
    return found
