"""Writes the tables of the docs that the code knows: docs/methods.md."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from polytask.balance import METHODS, Balancer, JacobianBalancer, LossBalancer
from polytask.names import describe, make_balancer, registered
from polytask.testing.balancers import direction

HEADER = """# Methods

Written by `make docs` from the classes themselves; `polytask methods` prints the same.

| kind | name | class | what it does |
|---|---|---|---|
"""

CONVENTIONS = """
## Conventions of the balancers

How long a step is and what happens to the heads is part of a method: a learning rate that is right for one convention
is wrong for another. The columns are read from the classes or measured on them when this page is written.

- **sees**: the losses (one backward pass), the Gramian of the task gradients, or all their numbers (Jacobian); *+ fresh
  batches*: independent batches in the same step (`fresh=`, which `fit` gives).
- **T twins**: the length of the first step where T tasks have the same gradient g, a sum or a mean of them or neither.
- **heads**: the gradient of the parameters that one task alone reaches: *plain*, or *weighted* like the loss.
  `WeightedHeads(balancer)`, in `make_balancer` the option `scale_heads`, weights them for any method that has weights.
- **conflicts**: *never*, as a guarantee (for linearly independent gradients; tested, and declared by the attribute
  `never_conflicts`), or the share of 60 random draws of 2 to 4 tasks in which one of them is made worse; methods that
  see losses only do not look.
- **options**: with their defaults, which are the paper's; `preference` and `priority` say how much each task matters.
- **keeps**: what its `state_dict()` holds, and resumes from.
- **presets**: conventions of other code where they differ, as `--balancer nash-mtl:reference` or
  `make_balancer("nash-mtl:reference", tasks)`.

| name | sees | T twins | heads | conflicts | options | keeps | presets |
|---|---|---|---|---|---|---|---|
"""

NO_PREFERENCE = """
**Preferences.** `preference` is the combination that a method starts from (UPGrad, DualProj, CAGrad, Aligned-MTL,
SDMGrad), the power of each task in a bargain (Nash-MTL, FairGrad) or the proportion of the cosines (ConFIG); `priority`
of PCGrad is an order. The others have none because their equation leaves no room for it: MGDA is the shortest vector of
the hull whoever asks, IMTL-G is defined by equal projections, GradVac's targets are what it remembers, GradDrop draws
signs, and GradNorm, DB-MTL, MoCo, MoDo and ExcessMTL choose the weights themselves. Multiply the losses to prefer a
task there, where the method is not invariant to it.

**Clipping.** `max_norm=` where the authors' code has it; around any balancer `Clipped(balancer, max_norm)`.
"""

TASKS = ("a", "b", "c", "d")
OPTIONS: dict[str, dict[str, Any]] = {"manual": {"weights": dict.fromkeys(TASKS, 1.0)}}
DRAWS = 60  # of random gradients, on which conflicts are counted
OWN_LENGTH = {"momentumconfig": "that of an Adam step"}  # which a step on one number cannot tell


def methods_page() -> str:
    """One line for each registered method, and the conventions of the balancers."""
    rows = [f"| {m['kind']} | `{m['name']}` | `{m['class']}` | {escaped(m['what'])} |" for m in describe()]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        conventions = [convention(name, method) for name, method in registered(METHODS).items()]
    return HEADER + "\n".join(rows) + "\n" + CONVENTIONS + "\n".join(conventions) + "\n" + NO_PREFERENCE


def escaped(text: str) -> str:
    """Text for a cell."""
    return text.replace("|", "\\|")


def convention(name: str, method: type[Balancer]) -> str:
    """A line of the second table."""
    cells = [
        sees(method),
        twins(name),
        heads(name),
        conflicts(name, method),
        options(method),
        keeps(name),
        presets(method),
    ]
    return f"| `{name}` | " + " | ".join(escaped(cell) for cell in cells) + " |"


def build(name: str, tasks: Sequence[str]) -> Balancer:
    """The balancer with its defaults."""
    given = {key: {task: per[task] for task in tasks} for key, per in OPTIONS.get(name, {}).items()}
    return make_balancer(name, tasks, given, sizes=dict.fromkeys(tasks, 1))


def sees(method: type[Balancer]) -> str:
    """What it must see."""
    kind = "losses" if issubclass(method, LossBalancer) else "Gramian"
    kind = "Jacobian" if issubclass(method, JacobianBalancer) else kind
    return kind + (" + fresh batches" if method.draws_again else "")


def step_of_twins(name: str, tasks: int, length: float) -> float:
    """|d| where all tasks have one gradient of that length."""
    d, _ = direction(build(name, TASKS[:tasks]), torch.full((tasks, 1), length, dtype=torch.float64), TASKS[:tasks])
    return float(d.norm())


def twins(name: str) -> str:
    """The step of T tasks with the same gradient g, in units of g."""
    if name in OWN_LENGTH:
        return OWN_LENGTH[name]
    lengths = np.array([[step_of_twins(name, tasks, length) for tasks in (2, 4)] for length in (1.0, 3.0)])
    unit = "g"
    if np.allclose(lengths[0], lengths[1]):
        unit = "g/\\|g\\|".replace("\\", "")
    elif not np.allclose(3 * lengths[0], lengths[1], rtol=1e-2):
        return "depends on \\|g\\|".replace("\\", "")
    two, four = lengths[0]
    for word, factors in {"": (1, 1), "T ": (2, 4), "√T ": (2**0.5, 2)}.items():
        if np.allclose((two, four), factors, rtol=1e-2):
            return {"": f"{unit} (mean)", "T ": f"T {unit} (sum)"}.get(word, word + unit)
    return f"{two:.3g} {unit}" if np.isclose(two, four) else f"{two:.3g} {unit} (T = 2), {four:.3g} {unit} (T = 4)"


def heads(name: str) -> str:
    """The gradient of a parameter of one task, after a first step that gives the tasks different weights."""
    x, own = nn.Parameter(torch.zeros(2, dtype=torch.float64)), nn.Parameter(torch.ones((), dtype=torch.float64))
    balancer = build(name, TASKS[:2])
    balancer.attach([x, own])
    rows = torch.tensor([[3.0, 1.0], [-1.0, 1.0]], dtype=torch.float64)

    learnt = [*balancer.parameters()]
    optimizer = torch.optim.SGD(learnt, lr=0.1) if learnt else None
    for factor in (1.0, 3.0):  # the second step differs, for methods whose weights start equal

        def losses(factor: float = factor) -> dict[str, Tensor]:
            return {"a": factor * (rows[0] @ x) + 2.0 * own, "b": rows[1] @ x + 0.5}

        own.grad = None
        balancer.backward(losses(), fresh=losses)
        balancer.after_step(losses)
        if optimizer is not None:
            optimizer.step()
    if isinstance(balancer, LossBalancer) or own.grad is None or not np.isclose(float(own.grad), 2.0):
        return "Adam" if name in OWN_LENGTH else "weighted"
    return "plain"


def conflicts(name: str, method: type[Balancer]) -> str:
    """The guarantee, or the share of random draws with a conflict at the first step."""
    if method.never_conflicts:
        return "never"
    if issubclass(method, LossBalancer):
        return "not looked at"
    rng, worse = np.random.default_rng(0), 0
    for draw in range(DRAWS):
        tasks = int(rng.integers(2, 5))
        jacobian = rng.normal(size=(tasks, 8)) + (draw % 2) * rng.normal(size=8)
        jacobian *= 10.0 ** rng.uniform(-1, 1, size=(tasks, 1))
        rows = torch.from_numpy(jacobian)
        d, _ = direction(build(name, TASKS[:tasks]), rows, TASKS[:tasks])
        worse += bool(((rows @ d) < -1e-6 * rows.norm(dim=1) * d.norm()).any())
    return f"{100 * worse / DRAWS:.0f} %"


def options(method: type[Balancer]) -> str:
    """Arguments and their defaults."""
    parameters = inspect.signature(method).parameters
    given = [key if p.default is p.empty else f"{key}={p.default!r}" for key, p in parameters.items()]
    return ", ".join(f"`{word}`" for word in given if not word.startswith(("tasks", "seed="))) or "–"


def keeps(name: str) -> str:
    """Names in the state after a step."""
    balancer = build(name, TASKS[:2])
    direction(balancer, torch.eye(2, dtype=torch.float64), TASKS[:2])
    words = ["random numbers" if "_extra_state" in key else key for key in balancer.state_dict()]
    parts = [word.rsplit(".", 1)[-1] for word in words]
    return (
        ", ".join(dict.fromkeys(f"{part[:-2]} per parameter" if part.endswith("_0") else part for part in parts)) or "–"
    )


def presets(method: type[Balancer]) -> str:
    """Each preset with its options."""

    def spelled(given: Mapping[str, Any]) -> str:
        return ", ".join(f"`{key}={value!r}`" for key, value in given.items())

    return "; ".join(f"**{name}**: {spelled(given)}" for name, given in method.presets.items()) or "–"


if __name__ == "__main__":
    (Path(__file__).parent / "methods.md").write_text(methods_page())
