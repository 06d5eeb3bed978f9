"""The promises of a balancer as checks: `check_balancer` for users' own methods and for every registered one."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from polytask.balance import Balancer
from polytask.balance.randomness import SeededModule
from polytask.records import Step

TOLERANCE = 1e-6  # relative, of a direction in float64


def check_balancer(balancer: Balancer, *, degree: float = 1.0, exceptions: Mapping[str, str] | None = None) -> None:
    """Run every check of `BALANCER_CHECKS` on copies of a balancer.

    Args:
        balancer: as it was built, not yet used; one that knows its tasks needs three of them.
        degree: the power of a constant by which d grows when all gradients are multiplied by it.
        exceptions: name of a check -> the reason why it does not hold here.

    Raises:
        AssertionError: a promise is broken; the message names the check and says what happened.

    >>> from polytask import GramBalancer
    >>> class Loudest(GramBalancer):
    ...     \"\"\"The task with the longest gradient decides.\"\"\"
    ...
    ...     def weigh(self, gram, losses, rows):
    ...         return torch.eye(len(gram)).double()[gram.diagonal().argmax()]
    >>> check_balancer(Loudest())
    """
    excused = exceptions or {}
    for name in excused:
        assert name in BALANCER_CHECKS, f"there is no check '{name}'"
        assert excused[name], f"an exception needs its reason: '{name}'"
    for name in BALANCER_CHECKS:
        if name not in excused:
            check_one(name, balancer, degree=degree)


def check_one(name: str, balancer: Balancer, *, degree: float = 1.0) -> None:
    """Run the check of that name."""
    tasks = balancer.tasks or ("a", "b", "c")
    assert len(tasks) == 3, f"the checks need a balancer for three tasks, not {len(tasks)}"
    torch.manual_seed(0)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=RuntimeWarning)  # a step without a solution says so
            BALANCER_CHECKS[name](Subject(balancer, tasks, degree))
    except AssertionError as error:
        raise AssertionError(f"{name}: {type(balancer).__name__} {error}") from error


@dataclass(frozen=True)
class Subject:
    """What is checked: a balancer that is only ever copied, and what it claims."""

    balancer: Balancer
    tasks: tuple[str, ...]
    degree: float

    def new(self) -> Balancer:
        """A copy that has not been used."""
        return copy.deepcopy(self.balancer)

    @property
    def draws(self) -> bool:
        """Whether random numbers decide."""
        return any(isinstance(module, SeededModule) for module in self.balancer.modules())


def random_rows(seed: int = 0, tasks: int = 3, size: int = 8) -> Tensor:
    """Task gradients (T, P) in float64."""
    return torch.randn(tasks, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def direction(balancer: Balancer, jacobian: Tensor, names: Sequence[str]) -> tuple[Tensor, Step]:
    """One step of losses whose task gradients are the rows of a matrix, and whose values are 1: (d, Step)."""
    x = nn.Parameter(torch.zeros(jacobian.shape[1], dtype=jacobian.dtype))
    balancer.attach([x])

    def losses() -> dict[str, Tensor]:
        return {name: row @ x + 1.0 for name, row in zip(names, jacobian, strict=True)}

    step = balancer.backward(losses(), fresh=losses)
    balancer.after_step(losses)
    return torch.zeros_like(x) if x.grad is None else x.grad, step


def close(found: Tensor, expected: Tensor, tolerance: float = TOLERANCE) -> bool:
    """Whether two vectors agree, relative to the expected one."""
    return bool((found - expected).norm() <= tolerance * expected.norm() + 1e-8 * (expected.norm() == 0))


def _order(subject: Subject) -> None:
    """Where random numbers decide it holds in law only, and gradients without conflicts are compared."""
    jacobian, (a, b, c) = random_rows(), subject.tasks
    jacobian = jacobian.abs() if subject.draws else jacobian
    d, step = direction(subject.new(), jacobian, (a, b, c))
    turned, again = direction(subject.new(), jacobian[[2, 0, 1]], (c, a, b))
    assert close(turned, d), "steps elsewhere when the dict of losses has another order"
    if step.weights is not None and again.weights is not None:
        assert close(again.weights, step.weights[[2, 0, 1]]), "gives a task another weight in another order of the dict"


def _twins(subject: Subject) -> None:
    g = random_rows(tasks=1)
    d, _ = direction(subject.new(), g.expand(3, -1), subject.tasks)
    assert d.norm() > 0, "does not move although all tasks want the same"
    assert close(d / d.norm(), g[0] / g[0].norm()), "does not go where identical tasks all want to go"


def _scale(subject: Subject) -> None:
    d, _ = direction(subject.new(), random_rows(), subject.tasks)
    for factor in (1e-8, 1e-3, 1e3, 1e8):
        scaled, _ = direction(subject.new(), factor * random_rows(), subject.tasks)
        assert close(scaled / factor**subject.degree, d), f"turns when all gradients are multiplied by {factor:g}"


def degenerate(case: str) -> Tensor:
    """Three task gradients of which one is special."""
    jacobian = random_rows()
    special = {"zero": 0 * jacobian[1], "twins": jacobian[0], "opposite": -jacobian[0], "nothing": jacobian[1]}
    jacobian[1] = special.get(case, jacobian[1])
    if case == "spread":
        jacobian = jacobian * torch.tensor([1e4, 1.0, 1e-4])[:, None]
    return 0 * jacobian if case == "nothing" else jacobian


def _finite(subject: Subject) -> None:
    for case in ("zero", "twins", "opposite", "spread", "nothing"):
        d, step = direction(subject.new(), degenerate(case), subject.tasks)
        assert step.skipped is None, f"skipped a step with finite gradients ({case}): {step.skipped}"
        assert torch.isfinite(d).all(), f"is not finite where the gradients are special ({case})"
        assert step.weights is None or torch.isfinite(step.weights).all(), f"has weights that are not finite ({case})"
        assert case != "nothing" or (d == 0).all(), "moves although no task has a gradient"


def _moves(subject: Subject) -> None:
    for case in ("zero", "twins", "opposite", "spread"):
        d, step = direction(subject.new(), degenerate(case), subject.tasks)
        assert step.note or d.norm() > 0, f"stops without a note although some gradients are not zero ({case})"


def _conflicts(subject: Subject) -> None:
    for seed in range(30 if subject.balancer.never_conflicts else 0):
        jacobian = random_rows(seed) * 10.0 ** (random_rows(seed + 99, size=1))
        d, _ = direction(subject.new(), jacobian, subject.tasks)
        worst = float((jacobian @ d / jacobian.norm(dim=1) / d.norm()).min())
        assert worst > -TOLERANCE, f"says `never_conflicts`, and has a cosine of {worst:.3g} with a task"


def _absent(subject: Subject) -> None:
    (a, _, c), jacobian = subject.tasks, random_rows().abs()[[0, 2]]
    d, step = direction(subject.new(), jacobian, (a, c))
    assert step.tasks == (a, c), f"reports tasks {step.tasks} for losses of {(a, c)}"
    assert d.norm() > 0, "stops when a task is absent"
    assert step.weights is None or step.weights.shape == (2,), "has a weight for a task that is absent"


def _alone(subject: Subject) -> None:
    balancer, jacobian = subject.new(), random_rows(tasks=1)
    if balancer.plain_alone:
        d, _ = direction(balancer, jacobian, subject.tasks[:1])
        assert torch.equal(d, jacobian[0]), "changes the gradient of a step with one task"


def _accumulates(subject: Subject) -> None:
    jacobian, x = random_rows(), nn.Parameter(torch.zeros(8, dtype=torch.float64))
    x.grad = torch.ones_like(x)
    expected, _ = direction(subject.new(), jacobian, subject.tasks)
    balancer = subject.new()
    balancer.attach([x])

    def losses() -> dict[str, Tensor]:
        return {name: row @ x + 1.0 for name, row in zip(subject.tasks, jacobian, strict=True)}

    balancer.backward(losses(), fresh=losses)
    assert close(x.grad - 1.0, expected), "does not add to the gradients that were there"


def _not_finite(subject: Subject) -> None:
    balancer, x = subject.new(), nn.Parameter(torch.ones(3))
    balancer.attach([x])
    before = _state(balancer)
    losses = {name: (x * x).sum() for name in subject.tasks}
    losses[subject.tasks[1]] = losses[subject.tasks[1]] * float("inf")
    step = balancer.backward(losses, fresh=lambda: losses)
    assert subject.tasks[1] in (step.skipped or ""), "does not skip a step with an infinite loss, or name it"
    assert x.grad is None, "wrote gradients in a step that it skipped"
    assert _same(before, _state(balancer)), "changed its state in a step that it skipped"


class _Net(nn.Module):
    """Three tasks on one encoder; only two of them use the second layer."""

    def __init__(self, tasks: Sequence[str]) -> None:
        super().__init__()
        self.encoder, self.deeper = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Dropout(0.1)), nn.Linear(8, 8)
        self.heads = nn.ModuleList(nn.Linear(8, 1) for _ in tasks)
        self.tasks = tuple(tasks)

    def losses(self, x: Tensor, names: Sequence[str]) -> dict[str, Tensor]:
        features = self.encoder(x)
        deeper = features + self.deeper(features).tanh()
        found = {}
        for place, name in enumerate(self.tasks):
            prediction = self.heads[place](features if place == 2 else deeper)
            found[name] = (prediction - 1.0 - 0.1 * place).square().mean()
        return {name: found[name] for name in names}


class _Training:
    """A training of the net by the balancer, from fixed seeds."""

    def __init__(self, subject: Subject, dtype: torch.dtype = torch.float32) -> None:
        torch.manual_seed(1)
        self.tasks = subject.tasks
        self.net, self.balancer = _Net(subject.tasks).to(dtype), subject.new()
        self.balancer.attach(self.net.parameters())
        self.optimizer: torch.optim.Optimizer = torch.optim.Adam(
            [*self.net.parameters(), *self.balancer.parameters()], lr=0.05
        )
        self.data = torch.Generator().manual_seed(2)

    def run(self, steps: int) -> list[Step]:
        """So many steps; every third has a task less and another order."""
        seen = []
        for number in range(steps):
            torch.manual_seed(number)
            self.optimizer.zero_grad()
            names = self.tasks if number % 3 else self.tasks[::-2]
            dtype = next(self.net.parameters()).dtype
            x = torch.randn(16, 4, generator=self.data).to(dtype)

            def losses(x: Tensor = x, names: Sequence[str] = names) -> dict[str, Tensor]:
                return self.net.losses(x, names)

            seen.append(self.balancer.backward(losses(), fresh=losses))
            self.optimizer.step()
            self.balancer.after_step(losses)
            self.balancer.observe({self.tasks[0]: 0.9 - 0.01 * number, self.tasks[2]: 0.2})
        return seen

    def numbers(self) -> list[Tensor]:
        """Everything that was learnt."""
        return [p.detach().clone() for p in [*self.net.parameters(), *self.balancer.parameters()]]


def _resumes(subject: Subject) -> None:
    whole, cut = _Training(subject), _Training(subject)
    whole.run(4), cut.run(4)
    saved = copy.deepcopy((cut.balancer.state_dict(), cut.net.state_dict(), cut.optimizer.state_dict()))
    resumed = _Training(subject)
    resumed.data.set_state(cut.data.get_state())
    resumed.balancer.load_state_dict(saved[0])
    resumed.net.load_state_dict(saved[1])
    resumed.optimizer.load_state_dict(saved[2])
    first, second = whole.run(5), resumed.run(5)
    assert _same(whole.numbers(), resumed.numbers()), "goes on differently after its state_dict was saved and loaded"
    assert [s.gram is None for s in first] == [s.gram is None for s in second], "measures at other steps when resumed"


def _repeats(subject: Subject) -> None:
    first, second = _Training(subject), _Training(subject)
    first.run(4), second.run(4)
    assert _same(first.numbers(), second.numbers()), "does something else the second time, with the same seeds"


def _learns(subject: Subject) -> None:
    training = _Training(subject)
    before = training.numbers()
    losses = torch.stack([step.losses.sum() for step in training.run(45)[2::3]])
    moved = [not torch.equal(a, b) for a, b in zip(before, training.numbers(), strict=True)]
    assert all(moved), f"never moved {moved.count(False)} of {len(moved)} parameters"
    assert losses[-4:].mean() < 0.5 * losses[0], f"does not halve the losses of an easy task: {losses.tolist()}"


def _record(subject: Subject) -> None:
    step = _Training(subject).run(2)[1]
    assert step.tasks == subject.tasks, f"reports tasks {step.tasks}"
    assert step.losses.shape == (3,), "does not report one loss per task"
    tensors = [value for value in (step.losses, step.weights, step.gram) if value is not None]
    assert not any(value.requires_grad for value in tensors), "keeps the graph alive in its Step"
    assert step.weights is None or step.weights.shape == (3,), "does not report one weight per task"
    assert step.gram is None or step.gram.dtype == torch.float64, "reports a Gramian that is not in float64"
    assert step.gram is None or close(step.gram, step.gram.T), "reports a Gramian that is not symmetric"


def _types(subject: Subject) -> None:
    for dtype in (torch.bfloat16, torch.float64):
        training = _Training(subject, dtype)
        training.optimizer = torch.optim.SGD(training.net.parameters(), lr=0.0)
        step = training.run(2)[1]
        assert step.skipped is None, f"skips a step in {dtype}: {step.skipped}"
        for parameter in training.net.parameters():
            assert parameter.grad is not None, f"leaves a parameter without a gradient in {dtype}"
            assert parameter.grad.dtype == dtype, f"writes {parameter.grad.dtype} gradients for {dtype} parameters"


def _state(balancer: Balancer) -> list[Any]:
    return [copy.deepcopy(value) for value in balancer.state_dict().values()]


def _same(left: Sequence[Any], right: Sequence[Any]) -> bool:
    """Bit for bit, with NaN equal to NaN."""
    pairs = list(zip(left, right, strict=True))
    return all(torch.equal(torch.nan_to_num(a, 0.5), torch.nan_to_num(b, 0.5)) for a, b in pairs if _is_tensor(a)) and (
        all(a == b for a, b in pairs if not _is_tensor(a))
    )


def _is_tensor(value: Any) -> bool:
    return isinstance(value, Tensor)


BALANCER_CHECKS: dict[str, Callable[[Subject], None]] = {
    "order": _order,
    "identical tasks": _twins,
    "scale": _scale,
    "finite": _finite,
    "moves": _moves,
    "conflicts": _conflicts,
    "absent task": _absent,
    "one task": _alone,
    "adds to .grad": _accumulates,
    "not finite": _not_finite,
    "resumes": _resumes,
    "repeats": _repeats,
    "learns": _learns,
    "record": _record,
    "types": _types,
}
"""Each check by its name; the order is from a single step to a whole training."""
