"""`polytask relate`: the record has what its page draws, the planted groups, and the same code as the study."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from benchmarks.planted import planted

from polytask import MLP, AllTasks, HardSharing, MultiTaskModel, Stage, Task, TensorSource, make_head
from polytask.affinity import watch
from polytask.affinity.halves import HalfGramians
from polytask.config import RelateConfig
from polytask.relate.noise import noise_baseline
from polytask.study.relating import relate_table
from polytask.study.watched import gradient_draws, stage_cosines, told_by

TABLE = planted(300, 0.3, tasks=6, groups=2, latents=1, features=10, seed=1)


def related(tmp_path: Path, **words: Any) -> dict:
    return relate_table(TABLE.frame(), RelateConfig(targets=dict.fromkeys(TABLE.names), out=str(tmp_path), **words))


def test_planted_groups_before_any_training(tmp_path: Path) -> None:
    record = related(tmp_path)
    truth = {frozenset(TABLE.names[task] for task in group) for group in TABLE.truth}
    assert {frozenset(group) for group in record["groups"]} == truth
    assert record["main"] == "features"
    assert [signal["name"] for signal in record["signals"]] == ["rows", "labels", "features", "residuals"]
    assert "noise" not in record
    assert record["advice"]
    json.dumps(record, allow_nan=False)


def test_with_a_watched_training(tmp_path: Path) -> None:
    record = related(tmp_path, train=True, epochs=3, models=2)
    assert [signal["name"] for signal in record["signals"]][-2:] == ["look-ahead", "gradients"]
    assert [one["epoch"] for one in record["noise"]] == [0, 1, 2]
    assert len(record["groups"]) <= 2
    assert max(plan["models"] for plan in record["front"]) <= 2
    assert len(record["branches"]) == 2
    json.dumps(record, allow_nan=False)


def watched(hidden: list[int]) -> tuple[Any, MultiTaskModel]:
    tasks = {name: Task.regression(name) for name in "abc"}
    x = torch.randn(64, 3, generator=torch.Generator().manual_seed(0))
    source = TensorSource(x, {"a": x[:, 0].clone(), "b": x[:, 0] + 0.1 * x[:, 1], "c": -x[:, 0] + 0.1 * x[:, 2]})
    torch.manual_seed(0)
    model = MultiTaskModel(
        HardSharing(MLP(3, hidden)), {name: make_head(task, hidden[-1]) for name, task in tasks.items()}
    )
    draws = gradient_draws(source, 16, 6)
    sampler = AllTasks(source, batch_size=16)
    return watch(model, tasks, sampler, source.batches(64), draws, every=4, plan=Stage(epochs=3)), model


def test_gradients_are_pooled_over_the_watched_epochs() -> None:
    seen, model = watched([8, 8, 8])  # a stem and two hidden layers
    signals, during = told_by(seen, model)
    gradients = next(signal for signal in signals if signal.name == "gradients")
    pooled = noise_baseline(np.concatenate([found.whole() for found in seen.halves.values()]))
    np.testing.assert_allclose(gradients.matrix, np.clip(pooled.cosine, -1, 1))
    assert [one["epoch"] for one in during["noise"]] == list(seen.halves)
    assert len(during["branches"]) == 2


def test_a_layer_belongs_to_its_stage() -> None:
    """Stages are summed over their layers; what lies below the first hidden layer counts with it."""
    encoder = torch.nn.ModuleList([torch.nn.Linear(2, 2), torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)])
    trunk = HardSharing(torch.nn.Sequential(*encoder), 2)
    rng = np.random.default_rng(0)
    halves = np.repeat(rng.normal(size=(5, 3, 2, 7)), 2, axis=2) + 0.3 * rng.normal(size=(5, 3, 4, 7))
    grams = halves @ halves.transpose(0, 1, 3, 2)
    layers = tuple(f"trunk.encoder.{place}" for place in range(3))
    found = stage_cosines([HalfGramians(("a", "b"), layers, grams)], trunk, ("a", "b"))
    assert found.shape == (2, 2, 2)
    np.testing.assert_allclose(found[0], noise_baseline(grams[:, 0] + grams[:, 1]).cosine)
    assert np.isfinite(found).all()
    np.testing.assert_allclose(found[1], noise_baseline(grams[:, 2]).cosine)


def test_one_hidden_layer_is_one_stage() -> None:
    seen, model = watched([8])
    assert stage_cosines(list(seen.halves.values()), model.trunk, model.names).shape == (1, 3, 3)


def test_draws_without_two_labelled_tasks_are_left_out() -> None:
    nan = float("nan")
    once = torch.tensor([1.0, nan, nan, nan])  # one label has no two halves
    assert gradient_draws(TensorSource(torch.zeros(4, 1), {"a": torch.ones(4), "b": once}), 2, 3) == []
    both = TensorSource(torch.zeros(4, 1), {"a": torch.ones(4), "b": torch.ones(4)})
    draws = gradient_draws(both, 2, 3)
    assert len(draws) == 3
    assert len(draws[0][0].targets["a"]) == 4, "twice the batch of the training"


@pytest.mark.parametrize("names", [("task_00", "task_01")])
def test_two_tasks(tmp_path: Path, names: tuple[str, ...]) -> None:
    record = relate_table(TABLE.frame(), RelateConfig(targets=dict.fromkeys(names), out=str(tmp_path)))
    assert sorted(name for group in record["groups"] for name in group) == list(names)
