"""What the balancers have in common that hold another balancer and change one thing about it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from polytask.balance.base import Asked, Balancer, Closure, GramBalancer, RefusedLoss
from polytask.errors import UserError
from polytask.gradients import Reach
from polytask.gradients.entering import weigh_entries
from polytask.gradients.graph import walk
from polytask.records import Step


class Wrapper(Balancer):
    """Holds a balancer and passes on to it everything that it may want to hear.

    Args:
        balancer: the one that decides.
        tasks: names of all tasks, where the wrapper keeps something per task and the balancer does not know them.
    """

    def __init__(self, balancer: Balancer, tasks: Sequence[str] | None = None) -> None:
        if balancer.tasks is not None and tasks is not None and set(tasks) != set(balancer.tasks):
            raise UserError(f"{type(self).__name__} was given other tasks than the {type(balancer).__name__} inside it")
        super().__init__(balancer.tasks or tasks)
        self.balancer = balancer
        self.looks_again = balancer.looks_again

    @property
    def plain_alone(self) -> bool:
        return self.balancer.plain_alone

    def attach(self, parameters: Iterable[nn.Parameter]) -> None:
        self.balancer.attach(parameters)

    def after_step(self, losses: Closure) -> None:
        self.balancer.after_step(losses)

    def observe(self, scores: Mapping[str, float]) -> None:
        self.balancer.observe(scores)


class GramWrapper(Wrapper, GramBalancer):
    """Stands between the measured Gramian and a Gram balancer's `weigh`."""

    balancer: GramBalancer
    stateful = True

    def __init__(self, balancer: GramBalancer, tasks: Sequence[str] | None = None) -> None:
        name = type(balancer).__name__
        if not isinstance(balancer, GramBalancer):
            raise UserError(f"{type(self).__name__} needs a balancer that decides by the Gramian; {name} does not. "
                            "A wrapper such as NormalisedLosses goes around it, not into it")  # fmt: skip
        kinds = (GramBalancer, GramWrapper)
        if any(getattr(type(balancer), hook) not in [getattr(kind, hook) for kind in kinds] for hook in HOOKS):
            raise UserError(f"{type(self).__name__} needs a balancer that looks at the Gramian alone; {name} does more")
        super().__init__(balancer, tasks)
        self.memory, self.dense = balancer.memory, balancer.dense
        self.present: int | None = None

    def _begin(self, present: int) -> None:
        """Hear how many tasks the step has: parameters that fewer of them share are another set."""
        self.present = present
        if isinstance(self.balancer, GramWrapper):
            self.balancer._begin(present)

    def _pull(self, asked: Asked) -> Step:
        self._begin(len(asked.names))
        return super()._pull(asked)


HOOKS = ("_pull", "_agree")  # a Gram balancer that changes one of these does more than `weigh`


def scaled(asked: Asked, scales: Tensor) -> Asked:
    """The same call with every loss multiplied by a constant of its own (T,)."""
    by_name = dict(zip(asked.names, scales, strict=True))
    return dataclasses.replace(
        asked,
        values=[value * scale.to(value) for value, scale in zip(asked.values, scales, strict=True)],
        losses=asked.losses * scales.to(asked.losses),
        fresh=scaled_closure(asked.fresh, by_name.__getitem__) if asked.fresh else None,
    )


def scaled_closure(losses: Closure, scale: Callable[[str], Tensor]) -> Closure:
    """The closure's losses, each multiplied by its task's constant."""
    return lambda: {name: value * scale(name).to(value) for name, value in losses().items()}


def unscaled(step: Step, asked: Asked, scales: Tensor) -> Step:
    """The Step of `scaled(asked, scales)` in terms of the losses as they came: d = sum_t w_t g_t for both."""
    own = scales.detach().cpu().double()
    return dataclasses.replace(
        step,
        losses=asked.losses,
        weights=None if step.weights is None else step.weights * scales.detach().to(step.weights),
        gram=None if step.gram is None else step.gram / torch.outer(own, own),
    )


def known_reaches(asked: Asked, who: str) -> list[Reach]:
    """What the losses reach, for a wrapper that decides by it before anything is measured.

    Raises:
        UserError: where the graph alone does not tell (`Graph.blended`).
    """
    graph = walk(asked.values)
    if graph.blended():
        raise UserError(
            f"{who} must know which parameters belong to one task alone, and the graph does not tell: the whole model "
            "is compiled, or tasks' own parameters are stacked (adapters). Compile the trunk only, or use the balancer "
            "without it"
        )
    return graph.reaches()


def combine(asked: Asked, groups: Sequence[Reach], weighed: Sequence[tuple[Reach, Tensor]]) -> Step:
    """The gradients of losses whose weights are known already, without the task gradients.

    Where all tasks share the same parameters, it is one backward. Else one pass for what is not shared, and one
    for each set of shared parameters; none walks the others' part.

    Args:
        groups: all that the losses reach.
        weighed: the shared ones, largest set first, each with weights (T,) for all tasks of the step.
    """
    scaled = [value * asked.factor for value in asked.values] if isinstance(asked.factor, Tensor) else asked.values
    if len(weighed) == 1 and weigh_entries(scaled, weighed[0][1].tolist()):
        return Step(asked.names, asked.losses, weighed[0][1])
    own = [leaf for group in groups if len(group.rows) == 1 for leaf in group.leaves]
    values = torch.stack(scaled)
    if own:
        values.sum().backward(inputs=own, retain_graph=bool(weighed))
    chosen = torch.full((len(asked.values),), float("nan"), dtype=torch.float64)
    for group, weights in reversed(weighed):  # the largest set's weights stay, as on a measured step
        (weights.to(values) @ values).backward(inputs=group.leaves, retain_graph=group is not weighed[0][0])
        present = list(range(len(chosen)) if asked.at is not None else group.rows)
        chosen[present] = weights[present]
    return Step(asked.names, asked.losses, chosen)


@contextmanager
def naming(names: Sequence[str]) -> Iterator[None]:
    """Put the task's name into the error about a loss that a method cannot use."""
    try:
        yield
    except RefusedLoss as refused:
        raise UserError(f"task '{names[refused.row]}': {refused}") from None
