"""One joint training, watched: look-ahead affinity all along, gradients against their noise at chosen epochs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polytask.affinity.halves import HalfGramians, half_gramians
from polytask.balance import Balancer, Equal, LookAhead
from polytask.batch import Batch
from polytask.model import MultiTaskModel
from polytask.records import Evaluation, Run
from polytask.relate.affinity import mean_over_steps
from polytask.relate.noise import NoiseBaseline, noise_baseline
from polytask.sampling import TaskSampler
from polytask.task import Task
from polytask.training import fit

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Watched:
    """What a joint training told about its tasks.

    Args:
        run: the record of the training, which is as if nobody had watched.
        look_ahead: (n, T, T), the mean look-ahead affinity of each epoch (see `LookAhead`).
        halves: epoch -> gradients of half batches, by layer.
    """

    run: Run
    look_ahead: Array
    halves: Mapping[int, HalfGramians]

    def affinity(self) -> Array:
        """(T, T): the mean look-ahead affinity over the epochs up to the best one; row helps column."""
        return np.asarray(mean_over_steps(self.look_ahead[: (self.run.best or 0) + 1]))

    def noise(self, epoch: int) -> NoiseBaseline:
        """Gradient cosines at a watched epoch, without the noise of small batches."""
        return noise_baseline(self.halves[epoch].whole())

    def by_layer(self) -> tuple[tuple[str, ...], Array]:
        """Names of the shared layers, and the cosines without noise of each, (L, T, T), over all watched epochs."""
        layers = next(iter(self.halves.values())).layers
        grams = np.concatenate([found.grams for found in self.halves.values()])
        cosines = [noise_baseline(grams[:, place]).cosine for place in range(len(layers))]
        return layers, np.stack(cosines)


def watch(
    model: MultiTaskModel,
    tasks: Mapping[str, Task],
    sampler: TaskSampler,
    valid: Sequence[Batch],
    draws: Sequence[Sequence[Batch]],
    *,
    balancer: Balancer | None = None,
    every: int = 10,
    **words: Any,
) -> Watched:
    """Train jointly, and measure on the way what the tasks do to each other.

    It costs about one training more: a look-ahead step every so many steps, and gradients of half batches at the
    epochs 0, 1, 2, 4, 8, ...

    Args:
        model: trained in place, as by `fit`.
        draws: of another sampler of the same rows, on which gradients are compared (8 to 32 of them).
        balancer: that of the training, equal weights by default.
        every: steps from one look-ahead to the next.
        words: all that `fit` takes besides.

    >>> import torch
    >>> from polytask import AllTasks, HardSharing, MLP, Stage, TensorSource, make_head
    >>> tasks = {"a": Task.regression("a"), "b": Task.regression("b")}
    >>> x = torch.randn(64, 3, generator=torch.Generator().manual_seed(0))
    >>> source = TensorSource(x, {"a": x[:, 0].clone(), "b": x[:, 0] + x[:, 1]})
    >>> model = MultiTaskModel(HardSharing(MLP(3, [8])), {name: make_head(task, 8) for name, task in tasks.items()})
    >>> draws = [AllTasks(source, batch_size=32, seed=seed).draw() for seed in range(4)]
    >>> sampler = AllTasks(source, batch_size=16)
    >>> found = watch(model, tasks, sampler, source.batches(64), draws, every=2, plan=Stage(epochs=3))
    >>> found.affinity().shape, sorted(found.halves)
    ((2, 2), [0, 1, 2])
    """
    looking = LookAhead(balancer or Equal(), list(tasks), every)
    look_ahead: list[Array] = []
    halves: dict[int, HalfGramians] = {}

    def listen(evaluation: Evaluation) -> None:
        look_ahead.append(looking.affinity().numpy())
        looking.forget()
        if _watched(evaluation.epoch):
            halves[evaluation.epoch] = half_gramians(model, tasks, draws, seed=evaluation.epoch)

    run = fit(model, tasks, sampler, valid, balancer=looking, on_evaluation=listen, **words)
    return Watched(run, np.stack(look_ahead), halves)


def _watched(epoch: int) -> bool:
    """0 and the powers of two: most changes early."""
    return epoch & (epoch - 1) == 0
