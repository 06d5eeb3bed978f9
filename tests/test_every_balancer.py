"""`check_balancer` on every registered balancer. What is registered is tested; an exception carries its reason."""

import dataclasses

import pytest
import torch

from polytask import (
    AveragedGramian,
    Clipped,
    GramBalancer,
    LogGramian,
    LookAhead,
    LossBalancer,
    NormalisedLosses,
    RefreshEvery,
    gradients,
)
from polytask.balance import METHODS, MGDA, Equal, Faded, NashMTL, PCGrad, UPGrad, WeightedHeads
from polytask.names import make_balancer, registered
from polytask.pace import Linear, Stairs
from polytask.testing import BALANCER_CHECKS, check_balancer
from polytask.testing.balancers import check_one, degenerate, direction, random_rows

TASKS = ("a", "b", "c")
OPTIONS = {"manual": {"weights": {"a": 1.0, "b": 0.5, "c": 2.0}}}
LATER = {"a": Linear(1.0, 0.5), "c": Stairs((1.0, 0.0, 1.0))}
SIZES = {"a": 100, "b": 300, "c": 50}
WRAPPED = {
    "logged": lambda: LogGramian(Equal(), every=2),
    "looked ahead": lambda: LookAhead(Equal(), TASKS, every=2),
    "normalised": lambda: NormalisedLosses(UPGrad(), TASKS),
    "faded": lambda: Faded(UPGrad(), {"b": Linear(2.0, 0.5)}, 20, TASKS),
    "faded in wrappers": lambda: LogGramian(NormalisedLosses(Faded(make_balancer("famo", TASKS), LATER, 9)), 3),
    "refreshed": lambda: RefreshEvery(UPGrad(), 3, TASKS),
    "averaged": lambda: AveragedGramian(UPGrad(), 0.9, TASKS),
    "clipped": lambda: Clipped(Equal(), 1e12),
    "weighted heads": lambda: WeightedHeads(UPGrad()),
    "all wrapped": lambda: LogGramian(
        NormalisedLosses(Clipped(RefreshEvery(AveragedGramian(UPGrad(), 0.9, TASKS), 3), 1e12)), 2
    ),
    "famo in wrappers": lambda: LogGramian(NormalisedLosses(make_balancer("famo", TASKS)), 3),
    "scores in wrappers": lambda: NormalisedLosses(LogGramian(make_balancer("dtp", TASKS), 3)),
    "drawn in wrappers": lambda: RefreshEvery(AveragedGramian(PCGrad(), 0.5, TASKS), 2),
}
NAMES = [*registered(METHODS), *WRAPPED]
PRESETS = [f"{name}:{preset}" for name, method in registered(METHODS).items() for preset in method.presets]

DEGREE = {"nashmtl": 0, "fairgrad": 0}  # d(cJ) = c^degree d(J); 1 for all others
EXCEPTIONS = {
    "mgda": {"moves": "a zero gradient is Pareto-stationary: d = 0 is the answer, and not a failure"},
    "modo": {"scale": "the rate of the weights is a number beside squared gradients"},
    "moco": {"scale": "as modo"},
    "momentumconfig": {
        "identical tasks": "divides each coordinate by its own second moment, as Adam does",
        "scale": "as identical tasks: the step has the length of an Adam step",
        "learns": "is an optimizer by itself, and the check puts Adam after it (tests/balance/test_moving_methods.py)",
    },
}
WARNS = {  # with two opposite gradients there is no solution
    "cagrad": "Pareto-stationary",
    "nashmtl": "Pareto-stationary",
    "fairgrad": "Pareto-stationary",
    "imtlg": "no direction has equal projections",
    "imtl": "no direction has equal projections",
}


def build(name):
    return WRAPPED[name]() if name in WRAPPED else make_balancer(name, TASKS, OPTIONS.get(name), sizes=SIZES)


def test_every_exception_is_about_a_method_and_a_check_that_exist():
    assert set(EXCEPTIONS) | set(DEGREE) | set(WARNS) <= set(NAMES)
    assert all(set(checks) <= set(BALANCER_CHECKS) for checks in EXCEPTIONS.values())


@pytest.mark.parametrize("check", BALANCER_CHECKS)
@pytest.mark.parametrize("name", NAMES)
def test_promises(name, check):
    """An exception must still be one."""
    balancer, degree = build(name), DEGREE.get(name, 1)
    if check in EXCEPTIONS.get(name, {}):
        with pytest.raises(AssertionError, match=check):
            check_one(check, balancer, degree=degree)
    else:
        check_one(check, balancer, degree=degree)


@pytest.mark.parametrize("check", ["order", "identical tasks", "finite", "absent task", "adds to .grad", "record"])
@pytest.mark.parametrize("name", PRESETS)
def test_promises_of_presets(name, check):
    check_one(check, build(name))


@pytest.mark.parametrize("name", NAMES)
def test_what_has_no_solution_is_said_in_the_step_and_once_aloud(name, recwarn):
    balancer = build(name)
    for _ in range(3):
        _, step = direction(balancer, degenerate("opposite"), TASKS)
        assert (WARNS[name] in step.note) if name in WARNS else step.note is None
    said = [str(warning.message) for warning in recwarn if issubclass(warning.category, RuntimeWarning)]
    assert len(said) == (name in WARNS)
    assert direction(balancer, random_rows(), TASKS)[1].note is None


@pytest.mark.parametrize("name", ["pcgrad", "graddrop"])
def test_another_seed_draws_something_else(name):
    jac = random_rows(4, size=30)
    found = {tuple(direction(make_balancer(name, TASKS, {"seed": seed}), jac, TASKS)[0].tolist()) for seed in range(12)}
    assert len(found) > 1


class Mean(GramBalancer):
    """The plain mean of the gradients."""

    def weigh(self, gram, losses, rows):
        return torch.full((len(gram),), 1 / len(gram), dtype=torch.float64)


class ByPlace(Mean):
    def weigh(self, gram, losses, rows):
        return torch.arange(1.0, len(gram) + 1).double()


class Squared(Mean):
    def weigh(self, gram, losses, rows):
        return gram.diagonal()


class Divides(Mean):
    def weigh(self, gram, losses, rows):
        return 1 / gram.diagonal().sqrt()


class Boasts(Mean):
    never_conflicts = True


class Stops(Mean):
    def weigh(self, gram, losses, rows):
        return 0 * super().weigh(gram, losses, rows)


class Uphill(Mean):
    def weigh(self, gram, losses, rows):
        return -super().weigh(gram, losses, rows)


class Forgets(Mean):
    """Its own count of steps is no part of its state."""

    steps = 0

    def weigh(self, gram, losses, rows):
        self.steps += 1
        return super().weigh(gram, losses, rows) / self.steps


class Dices(Mean):
    dice = torch.Generator().manual_seed(0)  # of the class: not part of the state, nor of any seed

    def __deepcopy__(self, memo):
        return type(self)()

    def weigh(self, gram, losses, rows):
        return super().weigh(gram, losses, rows) * torch.rand(1, generator=self.dice).double()


class Keeps(LossBalancer):
    """Its Step has weights with a graph."""

    def scalarise(self, losses, rows):
        return losses.sum()

    def _pull(self, asked):
        return dataclasses.replace(super()._pull(asked), losses=torch.ones(3, requires_grad=True))


class Overwrites(Mean):
    def _pull(self, asked):
        for reach in gradients.reaches(asked.values):
            for leaf in reach.leaves:
                leaf.grad = None
        return super()._pull(asked)


class Alone(Mean):
    def _step(self, asked):
        return super()._step(dataclasses.replace(asked, values=[2 * value for value in asked.values]))


class Counts(Mean):
    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def backward(self, losses, **options):
        self.calls += 1
        return super().backward(losses, **options)


class Float(Mean):
    def _pull(self, asked):
        step = super()._pull(asked)
        for reach in gradients.reaches(asked.values):
            if reach.leaves[0].dtype == torch.bfloat16:
                reach.leaves[0].grad = None
        return step


BROKEN = {
    "order": ByPlace, "identical tasks": Uphill, "scale": Squared, "finite": Divides, "moves": Stops,
    "conflicts": Boasts, "absent task": Stops, "one task": Alone, "adds to .grad": Overwrites,
    "not finite": Counts, "resumes": Forgets, "repeats": Dices, "learns": Stops, "record": Keeps, "types": Float,
}  # fmt: skip


@pytest.mark.parametrize("check", BALANCER_CHECKS)
def test_each_check_finds_what_it_is_about(check):
    with pytest.raises(AssertionError, match=f"^{check}: "):
        check_one(check, BROKEN[check]())


def test_check_balancer_runs_them_all_but_the_exceptions():
    check_balancer(Mean())
    check_balancer(NashMTL(), degree=0)
    with pytest.raises(AssertionError, match=r"^moves: MGDA stops without a note"):
        check_balancer(MGDA())
    check_balancer(MGDA(), exceptions={"moves": "zero is stationary"})
    with pytest.raises(AssertionError, match="no check 'move'"):
        check_balancer(MGDA(), exceptions={"move": "zero is stationary"})
    with pytest.raises(AssertionError, match="needs its reason"):
        check_balancer(MGDA(), exceptions={"moves": ""})
    with pytest.raises(AssertionError, match="three tasks, not 2"):
        check_balancer(make_balancer("dwa", ["a", "b"]))
