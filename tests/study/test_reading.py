"""Gains against hand computation: pairing by seed, deterministic arms, missing labels, blocks, undefined scores."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from polytask.relate import paired_interval
from polytask.sampling import TensorSource
from polytask.study.reading import Reading, compare, read_arm
from polytask.task import Task

NAN = float("nan")
REGRESSION = {"r": Task.regression("r")}
BINARY = {"b": Task.binary("b")}


def source(**targets: list[float]) -> TensorSource:
    rows = len(next(iter(targets.values())))
    return TensorSource(torch.zeros(rows, 1), {name: torch.tensor(values) for name, values in targets.items()})


def reading(*scores: float, blocks: int = 4, name: str = "r") -> Reading:
    """Every block like the whole."""
    full = np.array(scores)
    return Reading({name: full}, {name: np.repeat(full[:, None], blocks, axis=1)}, {})


def test_scores_on_all_rows_and_without_each_block() -> None:
    test = source(r=[0.0, 0.0, 0.0, 0.0])
    found = read_arm(REGRESSION, [{"r": torch.tensor([1.0, 1.0, 2.0, 4.0])}], test, np.array([0, 0, 1, 1]))
    assert found.full["r"] == pytest.approx([np.sqrt(22 / 4)])
    assert found.deleted["r"][0] == pytest.approx([np.sqrt(10), 1.0]), "RMSE of the rows that remain"
    assert found.means["r"]["mae"] == pytest.approx(2.0)


def test_rows_without_a_label_are_left_out_of_that_task_only() -> None:
    tasks = {"r": Task.regression("r"), "q": Task.regression("q")}
    test = source(r=[0.0, NAN, 0.0, 0.0], q=[0.0, 0.0, 0.0, 0.0])
    prediction = torch.tensor([1.0, 100.0, 3.0, 5.0])
    found = read_arm(tasks, [{"r": prediction, "q": prediction}], test, np.array([0, 0, 1, 1]))
    assert found.full["r"] == pytest.approx([np.sqrt(35 / 3)])
    assert found.deleted["r"][0] == pytest.approx([np.sqrt(17), 1.0])
    assert found.full["q"] == pytest.approx([np.sqrt(10035 / 4)])


def test_a_task_without_labels_in_a_block_keeps_the_blocks_of_all_tasks() -> None:
    """One column per block for every task, or the mean over tasks would mix blocks."""
    tasks = {"r": Task.regression("r"), "q": Task.regression("q")}
    test = source(r=[0.0, 0.0, NAN, NAN, 0.0, 0.0], q=[0.0] * 6)
    prediction = torch.arange(1.0, 7.0)
    blocks = np.array([0, 0, 1, 1, 2, 2])
    arm = read_arm(tasks, [{"r": prediction, "q": prediction}] * 2, test, blocks)
    assert arm.deleted["r"].shape == arm.deleted["q"].shape == (2, 3)
    assert arm.deleted["r"][0, 1] == arm.full["r"][0], "nothing was left out"
    compare(tasks, arm, arm, 0.95)


def test_gain_by_hand() -> None:
    """RMSE 9 against 10 is a gain of 10 %; the denominator is the baseline's mean over seeds."""
    found = compare(REGRESSION, reading(9.0, 8.0), reading(10.0, 10.0), 0.95)
    gain = found.tasks["r"]
    assert gain["percent"] == pytest.approx(15.0)
    assert gain["difference"] == pytest.approx(1.5), "in score units, up is good"
    by_hand = paired_interval([10.0, 20.0], [[10.0] * 4, [20.0] * 4])
    assert (gain["low"], gain["high"]) == pytest.approx((by_hand.low, by_hand.high))
    assert found.delta_m["percent"] == gain["percent"]


def test_higher_is_better_keeps_its_sign() -> None:
    found = compare(BINARY, reading(0.88, 0.88, name="b"), reading(0.8, 0.8, name="b"), 0.95)
    assert found.tasks["b"]["percent"] == pytest.approx(10.0)
    assert found.tasks["b"]["difference"] == pytest.approx(0.08)
    assert found.tasks["b"]["verdict"] == "gains"


def test_seeds_are_paired() -> None:
    """Seeds differ a lot, the arm is one better at every seed: no doubt remains. Unpaired, all would be doubt."""
    base = np.array([10.0, 20.0, 30.0, 40.0])
    assert compare(REGRESSION, reading(*(base - 1)), reading(*base), 0.95).tasks["r"]["low"] == pytest.approx(4.0)
    shuffled = compare(REGRESSION, reading(*(base - 1)[::-1]), reading(*base), 0.95).tasks["r"]
    assert shuffled["percent"] == pytest.approx(4.0)
    assert shuffled["verdict"] == "not enough evidence"


def test_a_deterministic_arm_meets_every_seed_of_the_baseline() -> None:
    found = compare(REGRESSION, reading(9.0), reading(9.0, 10.0, 11.0), 0.95).tasks["r"]
    assert found["percent"] == pytest.approx(10.0)
    by_hand = paired_interval([0.0, 10.0, 20.0], np.repeat([[0.0], [10.0], [20.0]], 4, axis=1))
    assert (found["low"], found["high"]) == pytest.approx((by_hand.low, by_hand.high))


def test_mean_over_tasks() -> None:
    tasks = {"r": Task.regression("r"), "b": Task.binary("b")}

    def both(r: list[float], b: list[float]) -> Reading:
        one, two = reading(*r), reading(*b, name="b")
        return Reading(one.full | two.full, one.deleted | two.deleted, {})

    found = compare(tasks, both([9.0, 8.0], [0.88, 0.80]), both([10.0, 10.0], [0.8, 0.8]), 0.95)
    assert found.delta_m["percent"] == pytest.approx((15.0 + 5.0) / 2)
    by_hand = paired_interval([10.0, 10.0], [[10.0] * 4] * 2)  # seed by seed, the two tasks make up for each other
    assert (found.delta_m["low"], found.delta_m["high"]) == pytest.approx((by_hand.low, by_hand.high))


def test_the_mean_is_over_tasks_that_are_learnt() -> None:
    tasks = {"r": Task.regression("r"), "b": Task.binary("b")}
    one, two = reading(9.0, 8.0), reading(0.88, 0.88, name="b")
    base = reading(10.0, 10.0), reading(0.8, 0.8, name="b")
    arm = Reading(one.full | two.full, one.deleted | two.deleted, {})
    alone = Reading(base[0].full | base[1].full, base[0].deleted | base[1].deleted, {})
    found = compare(tasks, arm, alone, 0.95, ["r"])
    assert found.delta_m == compare(REGRESSION, one, base[0], 0.95).delta_m
    assert found.tasks["b"]["percent"] == pytest.approx(10.0), "what was measured stays"
    assert found.tasks["b"]["verdict"] == found.tasks["b"]["adjusted"] == "not learnt"
    assert found.tasks["r"]["adjusted"] == compare(REGRESSION, one, base[0], 0.95).tasks["r"]["adjusted"], "one test"
    assert compare(tasks, arm, alone, 0.95, []) == compare(tasks, arm, alone, 0.95), "nothing learnt: all count"


def test_the_arm_itself_gains_nothing_for_certain() -> None:
    found = compare(REGRESSION, reading(1.0, 2.0, 3.0), reading(1.0, 2.0, 3.0), 0.95).tasks["r"]
    assert (found["percent"], found["low"], found["high"]) == (0.0, 0.0, 0.0)
    assert found["verdict"] == "not enough evidence"


def test_a_baseline_of_zero_has_no_percentage() -> None:
    found = compare(REGRESSION, reading(1.0, 1.0), reading(0.0, 0.0), 0.95)
    for gain in (found.tasks["r"], found.delta_m):
        assert gain["percent"] is gain["low"] is gain["high"] is None
        assert gain["verdict"] == "not enough evidence"


def test_rows_that_disagree_widen_the_interval() -> None:
    """The arm is better on half of the blocks and worse on the others: seeds agree, rows do not."""
    test = source(r=[0.0] * 8)
    blocks = np.arange(8)
    base = read_arm(REGRESSION, [{"r": torch.full((8,), 2.0)}] * 3, test, blocks)
    mixed = torch.tensor([0.0, 3.0] * 4)
    arm = read_arm(REGRESSION, [{"r": mixed}] * 3, test, blocks)
    even = read_arm(REGRESSION, [{"r": torch.full((8,), 1.9)}] * 3, test, blocks)
    assert compare(REGRESSION, even, base, 0.95).tasks["r"]["verdict"] == "gains"
    assert compare(REGRESSION, arm, base, 0.95).tasks["r"]["verdict"] == "not enough evidence"


def test_auc_without_positives_in_what_remains_is_unknown_not_zero() -> None:
    """Both positives lie in one block: without it there is no AUC, so there is no interval."""
    test = source(b=[1.0, 1.0, 0.0, 0.0, 0.0, 0.0])
    arm = {"b": torch.tensor([0.9, 0.8, 0.3, 0.2, 0.1, 0.05])}
    found = read_arm(BINARY, [arm, arm], test, np.array([0, 0, 1, 1, 2, 2]))
    assert found.full["b"].tolist() == [1.0, 1.0]
    assert np.isnan(found.deleted["b"][:, 0]).all()
    gain = compare(BINARY, found, found, 0.95).tasks["b"]
    assert (gain["percent"], gain["low"], gain["verdict"]) == (0.0, None, "not enough evidence")


def test_a_task_labelled_in_one_block_only_has_no_interval() -> None:
    test = source(r=[0.0, 0.0, NAN, NAN])
    arm = {"r": torch.tensor([1.0, 2.0, 3.0, 4.0])}
    found = read_arm(REGRESSION, [arm, arm], test, np.array([0, 0, 1, 1]))
    assert np.isnan(found.deleted["r"][:, 0]).all()
    assert compare(REGRESSION, found, found, 0.95).tasks["r"]["low"] is None


def test_the_verdict_corrected_for_many_tasks() -> None:
    """One task with p = 0.03 among five: clear alone, not after the correction."""
    names = [f"t{i}" for i in range(5)]
    tasks = {name: Task.regression(name) for name in names}
    base = np.full(4, 10.0)
    arms = {name: base + np.array([1.0, -1.0, 0.5, -0.5]) for name in names}
    arms["t0"] = base - np.array([0.6, 1.6, 0.5, 1.5])

    def all_blocks(scores: dict[str, np.ndarray]) -> Reading:
        return Reading(scores, {n: np.repeat(s[:, None], 4, axis=1) for n, s in scores.items()}, {})

    found = compare(tasks, all_blocks(arms), all_blocks(dict.fromkeys(names, base)), 0.95)
    gain = found.tasks["t0"]
    assert (gain["verdict"], gain["adjusted"]) == ("gains", "not enough evidence")
    assert 0.01 < gain["p_value"] < 0.05
    alone = compare({"t0": tasks["t0"]}, all_blocks(arms), all_blocks({"t0": base}), 0.95).tasks["t0"]
    assert (alone["verdict"], alone["adjusted"]) == ("gains", "gains")
    own = dict.fromkeys(names, base) | {"t0": arms["t0"]}  # the other four are their own baselines: no tests
    assert compare(tasks, all_blocks(own), all_blocks(dict.fromkeys(names, base)), 0.95).tasks["t0"]["adjusted"] == (
        "gains"
    )


def test_power_of_the_mean_and_of_each_task() -> None:
    found = compare(REGRESSION, reading(9.0, 8.0, 9.5), reading(10.0, 10.0, 10.0), 0.95).to_json()
    error = np.std([10.0, 20.0, 5.0], ddof=1) / np.sqrt(3)
    assert found["power"]["percent"] == pytest.approx((4.302653 + 1.060660) * error, rel=1e-5)
    assert found["power"]["tasks"]["r"] == {key: found["power"][key] for key in ("percent", "seeds", "rows")}
    assert found["power"]["seeds"] > 100
    assert found["power"]["rows"] is None, "rows do not matter here"
    same = compare(REGRESSION, reading(1.0, 2.0), reading(1.0, 2.0), 0.95)
    assert same.power["percent"] is None
    assert same.tasks["r"]["p_value"] is None
