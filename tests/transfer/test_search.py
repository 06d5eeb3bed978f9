"""K-fold search: paired folds, honest numbers, ties that are said, and the choice of a start among several."""

import math
from dataclasses import replace
from statistics import fmean, stdev

import numpy as np
import pytest
import torch
from torch import nn

from polytask import MLP, HardSharing, MultiTaskModel, Task, TensorSource, make_head
from polytask.errors import UserError
from polytask.transfer.fine_tuning import FineTuning, make_recipe
from polytask.transfer.ranking import rank_starts, transferability
from polytask.transfer.search import Folds, Search, Trial, fold_numbers, paired_difference, refit, search, subset
from polytask.transfer.starts import Start

GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(120, 6, generator=GENERATOR)
SIGNAL = torch.stack([X[:, 0] * X[:, 1], X[:, 2].abs()], 1)
TASKS = {"new": Task.binary("new")}
LABELS = (SIGNAL.sum(1) > SIGNAL.sum(1).median()).float()
ROWS = TensorSource(X, {"new": LABELS})
SHORT = FineTuning(lr=1e-3, epochs=3, unfreeze=0, soup=2)


class Knows(nn.Module):
    """An encoder whose features hold the signal (or noise), beside one learnt layer that starts as the identity."""

    def __init__(self, good=True):
        super().__init__()
        self.good, self.out_features = good, 2
        self.layer = nn.Linear(2, 2)
        with torch.no_grad():
            self.layer.weight.copy_(torch.eye(2))
            self.layer.bias.zero_()

    def forward(self, x):
        known = torch.stack([x[:, 0] * x[:, 1], x[:, 2].abs()], 1)
        return self.layer(known if self.good else x[:, 4:6])


def folds(count=3, **words):
    return Folds(TASKS, ROWS, fold_numbers(120, count, seed=1), batch_size=16, **words)


def begin():
    return Start.of_encoder("good", Knows()).begin(TASKS, seed=0)


def test_folds_are_a_division():
    number = fold_numbers(11, 3, seed=5)
    assert sorted(number.bincount().tolist()) == [3, 4, 4]
    assert torch.equal(number, fold_numbers(11, 3, seed=5))
    assert not torch.equal(number, fold_numbers(11, 3, seed=6))
    train, held = Folds(TASKS, subset(ROWS, torch.arange(120) < 11), number).side(1)
    assert (len(train), len(held)) == (11 - int((number == 1).sum()), int((number == 1).sum()))
    assert torch.equal(held.inputs, X[:11][number == 1])
    assert torch.equal(train.targets["new"], LABELS[:11][number != 1])


def test_every_choice_is_tried_on_every_fold():
    heard = []
    found = search(begin, folds(), recipe=SHORT, grid={"lr": (1e-4, 3e-2), "reinit": (0, 1)},
                   on_fold=lambda done, total: heard.append((done, total)))  # fmt: skip
    assert heard == [(n, 12) for n in range(1, 13)]
    assert {(t.words["lr"], t.words["reinit"]) for t in found.trials} == {
        (1e-4, 0), (1e-4, 1), (3e-2, 0), (3e-2, 1)
    }  # fmt: skip
    assert [t.mean for t in found.trials] == sorted((t.mean for t in found.trials), reverse=True)
    assert found.best.words["lr"] == 3e-2  # three epochs at 1e-4 teach nothing
    assert found.best.mean == pytest.approx(fmean(found.best.skills))
    assert found.best.deviation == pytest.approx(stdev(found.best.skills))
    assert found.best.recipe == replace(SHORT, **found.best.words)


def test_the_search_is_a_function_of_its_seed():
    grid = {"lr": (1e-3, 1e-2)}
    before = torch.get_rng_state()
    one, two = (search(begin, folds(seed=4), recipe=SHORT, grid=grid) for _ in range(2))
    assert one == two
    assert torch.equal(before, torch.get_rng_state())
    assert search(begin, folds(seed=5), recipe=SHORT, grid=grid) != one


def test_dropout_is_drawn_by_the_seed_too():
    def dropping():
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return MultiTaskModel(HardSharing(MLP(6, [8], dropout=0.5)), {"new": nn.Linear(8, 1)})

    found = []
    for state in (1, 2):
        torch.manual_seed(state)
        found.append(search(dropping, folds(2), recipe=SHORT, grid={}))
    assert found[0] == found[1]


def test_a_fold_is_not_trained_on():
    """A model that can only remember rows is worth nothing on others."""

    class Remembers(nn.Module):
        def __init__(self):
            super().__init__()
            self.table, self.out_features = nn.Embedding(120, 8), 8

        def forward(self, x):
            return self.table(x[:, 0].long())

    rows = TensorSource(torch.arange(120.0)[:, None], {"new": LABELS})
    made = Folds(TASKS, rows, fold_numbers(120, 3), batch_size=8)
    start = Start.of_encoder("memory", Remembers())
    trial = search(lambda: start.begin(TASKS), made, recipe=replace(SHORT, lr=0.1, epochs=8), grid={}).best
    assert trial.mean < 0.25
    _, run = refit(lambda: start.begin(TASKS), TASKS, rows, trial, batch_size=8)
    assert run.steps > 0


def test_an_interrupted_search_goes_on(tmp_path):
    file, grid, calls = tmp_path / "search.json", {"lr": (1e-3, 1e-2)}, []

    def counted():
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return begin()

    with pytest.raises(KeyboardInterrupt):
        search(counted, folds(), recipe=SHORT, grid=grid, remember=file)
    again = search(counted, folds(), recipe=SHORT, grid=grid, remember=file)
    assert len(calls) == 7  # three were known
    assert again == search(begin, folds(), recipe=SHORT, grid=grid)
    with pytest.raises(UserError, match="another search"):
        search(begin, folds(4), recipe=SHORT, grid=grid, remember=file)


@pytest.mark.filterwarnings("ignore:Equal skipped a step")
def test_a_training_that_fails_is_the_worst_choice():
    found = search(begin, folds(), recipe=replace(SHORT, epochs=8), grid={"lr": (1e-3, 1e30)})
    assert found.trials[-1].words["lr"] == 1e30
    assert found.trials[-1].mean == -math.inf
    assert found.trials[-1].to_json()["mean"] is None
    assert found.verdict().endswith("clearly better than all others")


def test_paired_differences_by_hand():
    one, other = [0.5, 0.7, 0.9, 0.7], [0.4, 0.5, 0.9, 0.6]
    d = np.array(one) - np.array(other)
    half = 3.182446305 * d.std(ddof=1) * math.sqrt(1 / 4 + 1 / 3)  # t of 0.975 with 3 degrees of freedom
    found = paired_difference(one, other)
    assert (found.mean, found.low, found.high) == pytest.approx((0.1, 0.1 - half, 0.1 + half), rel=1e-8)
    assert not found.clear
    assert paired_difference([1.0, 1.1, 1.2], [0.5, 0.6, 0.7]).clear
    assert paired_difference([1.0, 1.0], [-math.inf, 0.0]).clear


def trial(skills, **words):
    return Trial(words, FineTuning(), tuple(skills), (1,) * len(skills))


def test_the_verdict_says_what_cannot_be_told_apart():
    best, near, far = trial([0.5, 0.6, 0.7], lr=1.0), trial([0.6, 0.5, 0.69], lr=2.0), trial([0.1, 0.2, 0.3], lr=3.0)
    assert Search((best, near, far)).tied() == (near,)
    assert "lr 1, skill 0.600 ± 0.100" in Search((best, near, far)).verdict()
    assert Search((best, near, far)).verdict().endswith("cannot be told apart from one other")
    assert Search((best, near)).verdict().endswith("from any other choice")
    assert Search((best, far)).verdict().endswith("clearly better than all others")


def test_the_winner_is_refitted_on_all_rows():
    won = replace(search(begin, folds(), recipe=replace(SHORT, lr=1e-2), grid={}).best, epochs=(1, 2, 2))
    model, run = refit(begin, TASKS, ROWS, won, batch_size=16)
    again, _ = refit(begin, TASKS, ROWS, won, batch_size=16)
    assert run.steps == 2 * math.ceil(120 / 16)  # the mean of the folds' epochs, on all rows
    assert run.finishing[0] == {**run.finishing[0], "what": "average of the last 2", "kept": True}
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))


def test_starts_are_ranked_by_scores_and_by_measurement():
    good, bad = Start.of_encoder("good", Knows()), Start.of_encoder("bad", Knows(good=False))
    pairs = [(bad, folds()), (good, folds())]
    measured = rank_starts(pairs, recipe=replace(SHORT, lr=1e-2, epochs=8))
    assert [one.start.name for one in measured] == ["good", "bad"]
    assert measured[0].scores["new"]["LogME"] > measured[1].scores["new"]["LogME"]
    assert measured[0].scores["new"]["H-score"] > measured[1].scores["new"]["H-score"]
    quick = rank_starts(pairs, measure=False)
    assert [(one.start.name, one.trial) for one in quick] == [("good", None), ("bad", None)]


def test_leep_reads_the_classes_that_a_start_knows():
    names = {"old": Task.binary("old"), "three": Task.classes("three", 3), "number": Task.regression("number")}
    model = MultiTaskModel(HardSharing(Knows()), {name: make_head(task, 2) for name, task in names.items()})
    tasks = {"new": Task.binary("new"), "amount": Task.regression("amount")}
    rows = TensorSource(X, {"new": torch.where(X[:, 5] > 1, torch.nan, LABELS), "amount": 1000 + 5 * X[:, 0]})
    scores = transferability(Start("old", model, names), tasks, rows)
    assert set(scores["new"]) == {"LogME", "H-score", "LEEP"}
    assert set(scores["amount"]) == {"LogME"}
    assert scores["new"]["LEEP"] <= 0
    assert -3 < scores["amount"]["LogME"] < 0  # in standard deviations


@pytest.mark.parametrize(("call", "sentence"), [
    (lambda: fold_numbers(3, 4), "from 2 to the number of rows, 3"),
    (lambda: Folds(TASKS, ROWS, torch.zeros(120, dtype=torch.long)), "at least two folds"),
    (lambda: Folds(TASKS, ROWS, torch.arange(3)), "3 fold numbers for 120 rows"),
    (lambda: search(begin, folds(), grid={"rate": (1,)}), "'rate', which is no word of FineTuning"),
])  # fmt: skip
def test_what_cannot_be_searched(call, sentence):
    with pytest.raises(UserError, match=sentence):
        call()


def test_folds_that_cannot_be_scored():
    rows = TensorSource(X, {"new": (torch.arange(120) < 2).float()})
    with pytest.raises(UserError, match="ask for fewer folds"):
        search(begin, Folds(TASKS, rows, torch.arange(120) // 40, batch_size=16), recipe=SHORT, grid={})


def test_a_recipe_of_a_name_can_be_searched():
    model = lambda: MultiTaskModel(HardSharing(MLP(6, [8, 8])), {"new": nn.Linear(8, 1)})  # noqa: E731
    found = search(model, folds(2), recipe=make_recipe("ulmfit", {"epochs": 2}), grid={"unfreeze": (0, 1)})
    assert len(found.trials) == 2
