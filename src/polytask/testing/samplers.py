"""The promises of a sampler as checks: `check_sampler` for users' own samplers and schedules and for polytask's."""

from __future__ import annotations

import copy
import io
import json
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from polytask.batch import Batch, map_tensors
from polytask.errors import UserError
from polytask.records import Evaluation, Step
from polytask.sampling import FromSources, Look, Scheduled, TaskSampler

Make = Callable[[Sequence[str], int], TaskSampler]


def check_sampler(make: Make, tasks: Sequence[str], *, exceptions: Mapping[str, str] | None = None) -> None:
    """Run every check of `SAMPLER_CHECKS` on a sampler.

    Args:
        make: (tasks, seed) -> a new sampler of these tasks, in this order. Rows of a task must differ in their inputs,
            so that a check can tell them apart, and an epoch should have at least ten steps.
        tasks: at least two names.
        exceptions: name of a check -> the reason why it does not hold here.

    Raises:
        AssertionError: a promise is broken; the message names the check.

    >>> from polytask.sampling import OneTask, TensorSource, Uniform
    >>> rows = torch.arange(40.0)
    >>> sources = {name: TensorSource(rows[:, None], {name: rows}) for name in ("a", "b")}
    >>> check_sampler(lambda tasks, seed: OneTask({n: sources[n] for n in tasks}, Uniform(), batch_size=4, seed=seed),
    ...               ["a", "b"])
    """
    excused = exceptions or {}
    for name in excused:
        assert name in SAMPLER_CHECKS, f"there is no check '{name}'"
        assert excused[name], f"an exception needs its reason: '{name}'"
    for name, check in SAMPLER_CHECKS.items():
        if name not in excused:
            try:
                check(make, tuple(tasks))
            except AssertionError as error:
                raise AssertionError(f"{name}: {error}") from error


class Pretended:
    """A training without a model: what a sampler hears is a function of the task and the step alone."""

    def __init__(self, tasks: Sequence[str]) -> None:
        self.worth = {name: sum(map(ord, name)) % 7 / 7 for name in tasks}
        self.steps = 0

    def go(self, sampler: TaskSampler, steps: int) -> list[list[Batch]]:
        """So many draws, each followed by what a training would tell; an evaluation every five steps."""
        draws = []
        for _ in range(steps):
            draws.append(sampler.draw())
            self.steps += 1
            if sampler.looks:
                sampler.after_step(self._step(draws[-1]), Look(again=lambda: self._losses(0.5), ahead=self._ahead))
            if self.steps % 5 == 0:
                sampler.observe(self._evaluation())
        return draws

    def _losses(self, later: float) -> dict[str, float]:
        past = self.steps + later
        return {name: 2.0 + math.sin(past * (1 + worth)) for name, worth in self.worth.items()}

    def _ahead(self, tasks: Sequence[str]) -> dict[str, float]:
        return {name: self._losses(0.25)[name] for name in tasks}

    def _step(self, draw: Sequence[Batch]) -> Step:
        losses = self._losses(0.0)
        present = tuple(dict.fromkeys(name for batch in draw for name in batch.targets))
        return Step(present, torch.tensor([losses[name] for name in present], dtype=torch.float64))

    def _evaluation(self) -> Evaluation:
        skill = {name: math.sin(0.1 * self.steps + 3 * worth) for name, worth in self.worth.items()}
        return Evaluation(epoch=0, step=self.steps, losses={}, scores=skill, skill=skill)


def rows_of(batch: Batch) -> list[bytes]:
    """What tells the rows of a batch apart."""
    columns: list[Tensor] = []
    map_tensors(lambda t: columns.append(t) or t, batch.inputs)  # type: ignore[func-returns-value]
    return [b"".join(column[row].cpu().numpy().tobytes() for column in columns) for row in range(len(columns[0]))]


def seen(draws: Sequence[Sequence[Batch]]) -> list[list[tuple[tuple[str, ...], list[bytes]]]]:
    """Everything that was drawn, in comparable form."""
    return [[(tuple(batch.targets), rows_of(batch)) for batch in draw] for draw in draws]


def labelled(target: Tensor) -> Tensor:
    """(B,) which rows have a label."""
    return ~target.isnan().reshape(len(target), -1).all(dim=1) if target.is_floating_point() else target.eq(target)


def every_row_has_a_label(make: Make, tasks: tuple[str, ...]) -> None:
    """A batch has rows, targets of the sampler's tasks only, and no row without any label."""
    sampler = make(tasks, 0)
    assert set(sampler.tasks) == set(tasks), f"asked for {tasks}, got {sampler.tasks}"
    for draw in Pretended(tasks).go(sampler, 2 * sampler.steps_per_epoch):
        assert draw, "an empty draw"
        for batch in draw:
            assert batch.targets, "a batch without targets"
            assert set(batch.targets) <= set(tasks), f"targets {tuple(batch.targets)}"
            found = torch.stack([labelled(target) for target in batch.targets.values()])
            assert found.shape[1] == len(rows_of(batch)) > 0, "inputs and targets have different numbers of rows"
            assert bool(found.any(dim=0).all()), "a row without any label"


def rows_of_a_task_come_equally_often(make: Make, tasks: tuple[str, ...]) -> None:
    """At any time a row of a task was seen at most once more than any other row of it."""
    sampler, training = make(tasks, 0), Pretended(tasks)
    counts: dict[str, Counter[bytes]] = {name: Counter() for name in tasks}
    for _ in range(4 * sampler.steps_per_epoch):
        for batch in training.go(sampler, 1)[0]:
            rows = rows_of(batch)
            for name, target in batch.targets.items():
                counts[name].update(row for row, there in zip(rows, labelled(target).tolist(), strict=True) if there)
    for name, counted in counts.items():
        if counted:
            all_seen = not isinstance(sampler, FromSources) or len(counted) == sampler.sizes()[name]
            low, high = min(counted.values()) if all_seen else 0, max(counted.values())
            assert high - low <= 1, f"of '{name}' one row was seen {high} times, another {low} times"


def draws_follow_the_probabilities(make: Make, tasks: tuple[str, ...]) -> None:
    """Exactly (to a rounding) where the schedule is steady or rows are divided, by chi-square where it is drawn."""
    sampler, training = make(tasks, 0), Pretended(tasks)
    if not isinstance(sampler, Scheduled):
        return
    expected, variance, drawn = Counter[str](), Counter[str](), Counter[str]()
    one_batch = True
    for _ in range(max(20 * sampler.steps_per_epoch, 600) // sampler.steps_per_epoch * sampler.steps_per_epoch):
        shares = sampler.probabilities()
        draw = training.go(sampler, 1)[0]
        one_batch &= len(draw) == 1
        sizes = Counter({_arm(batch, shares): len(rows_of(batch)) for batch in draw})
        unit = 1 if one_batch else sizes.total()
        drawn.update({name: 1 if one_batch else size for name, size in sizes.items()})
        for name, p in shares.items():
            assert p > 0 or not sizes[name], f"'{name}' has probability 0 and was drawn"
            expected[name] += unit * p  # type: ignore[assignment]
            variance[name] += p * (1 - p)  # type: ignore[assignment]
    exact = sampler.schedule.steady or not one_batch
    for name, mean in expected.items():
        allowed = 1.0 + 1e-6 if exact else 4.0 * math.sqrt(variance[name]) + 1e-6
        assert abs(drawn[name] - mean) <= allowed, f"'{name}': {drawn[name]} draws, expected {mean:.2f} ± {allowed:.2f}"
    if not exact:
        open_to = [name for name in expected if variance[name] > 5]
        chi = sum((drawn[name] - expected[name]) ** 2 / expected[name] for name in open_to)
        limit = len(open_to) + 3.1 * math.sqrt(2 * len(open_to)) + 6.5  # above the 0.999 quantile
        assert chi < limit, f"chi-square {chi:.1f} over {len(open_to)} tasks"


def _arm(batch: Batch, shares: Mapping[str, float]) -> str:
    """Whose batch it is."""
    joined = "+".join(batch.targets)
    assert joined in shares, f"a batch of {joined}, which has no probability"
    return joined


def probabilities_are_some(make: Make, tasks: tuple[str, ...]) -> None:
    """Float64, from 0 to 1, of sum 1, at any time of a training."""
    sampler, training = make(tasks, 0), Pretended(tasks)
    if not isinstance(sampler, Scheduled):
        return
    for _ in range(3 * sampler.steps_per_epoch):
        shares = sampler.schedule.probabilities(sampler.progress())
        assert shares.dtype == torch.float64, f"probabilities are {shares.dtype}"
        assert bool((shares >= 0).all()), f"probabilities {shares.tolist()}"
        assert abs(float(shares.sum()) - 1.0) < 1e-9, f"probabilities of sum {float(shares.sum())}"
        training.go(sampler, 1)


def the_order_of_the_tasks_does_not_matter(make: Make, tasks: tuple[str, ...]) -> None:
    """Permuted tasks have permuted probabilities, at the start and after what was learnt."""
    sampler, training = make(tasks, 0), Pretended(tasks)
    if not isinstance(sampler, Scheduled):
        return
    for step in range(3 * sampler.steps_per_epoch):
        now = sampler.progress()
        turned = replace(now, sizes=_reversed(now.sizes), batches=_reversed(now.batches))
        here, there = (sampler.schedule.probabilities(progress) for progress in (now, turned))
        assert torch.allclose(here, there.flip(0), atol=1e-12), f"step {step}: {here.tolist()}, {there.tolist()}"
        training.go(sampler, 1)


def _reversed(numbers: Mapping[str, int]) -> dict[str, int]:
    return dict(reversed(list(numbers.items())))


def a_resumed_sampler_draws_the_same(make: Make, tasks: tuple[str, ...]) -> None:
    """From any place of an epoch, with what was learnt; and the state is of JSON types and tensors."""
    length = make(tasks, 0).steps_per_epoch
    for steps in sorted({0, 1, length // 2, length, length + length // 3 + 1, 3 * length - 1}):
        sampler, training = make(tasks, 0), Pretended(tasks)
        training.go(sampler, steps)
        resumed, again = make(tasks, 0), copy.copy(training)
        resumed.load_state_dict(_stored(sampler.state_dict()))
        assert seen(training.go(sampler, 2 * length)) == seen(again.go(resumed, 2 * length)), f"after {steps} steps"
    state = make(tasks, 0).state_dict()
    _plain(state, "state")


def _stored(state: dict[str, Any]) -> dict[str, Any]:
    """What comes back from a file."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    restored: dict[str, Any] = torch.load(file, weights_only=True)
    _plain(restored, "state")
    return restored


def _plain(tree: Any, where: str) -> None:
    """JSON types and tensors only."""
    if isinstance(tree, dict):
        for key, value in tree.items():
            assert isinstance(key, str), f"{where} has the key {key!r}"
            _plain(value, f"{where}.{key}")
    elif isinstance(tree, list):
        for value in tree:
            _plain(value, where)
    elif not isinstance(tree, Tensor):
        assert tree is None or type(tree) in (str, int, float, bool), f"{where} holds a {type(tree).__name__}"
        json.dumps(tree)


def tasks_can_be_left_out(make: Make, tasks: tuple[str, ...]) -> None:
    """After `restrict` only these tasks are drawn, resumable too; then all again; unknown names are refused."""
    sampler, training = make(tasks, 0), Pretended(tasks)
    training.go(sampler, sampler.steps_per_epoch + 1)
    kept = tasks[:1]
    sampler.restrict(kept)
    assert {name for draw in training.go(sampler, 7) for batch in draw for name in batch.targets} == set(kept)
    resumed, again = make(tasks, 0), copy.copy(training)
    resumed.load_state_dict(_stored(sampler.state_dict()))
    assert seen(training.go(sampler, 7)) == seen(again.go(resumed, 7)), "a restricted sampler is not resumed"
    for restored in (sampler, resumed):
        restored.restrict(None)
    first, second = training.go(sampler, 40), again.go(resumed, 40)
    assert seen(first) == seen(second), "it goes on in another way"
    for wrong in (["no such task"], []):
        try:
            sampler.restrict(wrong)
        except UserError:
            continue
        raise AssertionError(f"restrict({wrong}) is not refused")


def the_seed_decides(make: Make, tasks: tuple[str, ...]) -> None:
    """The same seed, the same draws; another one, others; the global generator plays no part."""
    before = torch.get_rng_state()
    outcomes = [seen(Pretended(tasks).go(make(tasks, seed), 30)) for seed in (3, 3, 4)]
    assert torch.equal(before, torch.get_rng_state()), "the global generator was used"
    assert outcomes[0] == outcomes[1], "the same seed gave other draws"
    assert outcomes[0] != outcomes[2], "another seed gave the same draws"


def closing_twice_is_fine(make: Make, tasks: tuple[str, ...]) -> None:
    """`close` gives back what was taken, once."""
    sampler = make(tasks, 0)
    sampler.draw()
    sampler.close()
    sampler.close()


SAMPLER_CHECKS: dict[str, Callable[[Make, tuple[str, ...]], None]] = {
    check.__name__: check
    for check in (
        every_row_has_a_label,
        rows_of_a_task_come_equally_often,
        draws_follow_the_probabilities,
        probabilities_are_some,
        the_order_of_the_tasks_does_not_matter,
        a_resumed_sampler_draws_the_same,
        tasks_can_be_left_out,
        the_seed_decides,
        closing_twice_is_fine,
    )
}
