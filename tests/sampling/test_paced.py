"""Rows from easy to hard: what is shown when, the end, resuming; and the measures of difficulty."""

import copy

import pytest
import torch
from torch import nn

from polytask import AllTasks, Batch, TensorSource, UserError
from polytask.losses import CrossEntropy, SquaredError
from polytask.pace import Linear, Stairs
from polytask.sampling import MixedTasks, OneTask, Paced, difficulty
from polytask.testing import check_sampler

NAN = float("nan")
ROWS = torch.arange(100.0)
HARD = (ROWS * 37) % 100  # a permutation


def source():
    return TensorSource(ROWS[:, None], {"a": ROWS})


def shown(stream, batches):
    return [stream.next().targets["a"].long().tolist() for _ in range(batches)]


@pytest.mark.parametrize("anti", [False, True])
def test_only_the_easiest_share_is_shown(anti):
    stream = Paced(source(), HARD, epochs=2, pace=Stairs((0.1, 0.5, 1.0)), anti=anti).stream(["a"], batch_size=10)
    assert len(stream) == 10
    rank = 99 - HARD if anti else HARD
    seen = shown(stream, 40)
    for step, batch in enumerate(seen):
        share = 0.1 if step < 20 / 3 else 0.5 if step < 40 / 3 else 1.0
        assert max(rank[batch]) < 100 * max(share, 0.1) + 1e-9
    assert sorted(seen[0]) == sorted(torch.arange(100)[rank < 10].tolist())


def test_new_rows_come_in_and_the_end_shows_each_row_once_an_epoch():
    stream = Paced(source(), HARD, epochs=3, pace=Linear(0.1, 1.0)).stream(["a"], batch_size=10)
    pools = []
    while stream.pool < 100:
        shown(stream, 1)
        pools.append(stream.pool)
    assert pools == sorted(pools)
    assert len(set(pools)) > 4
    assert len(pools) < 45  # thirty steps of the pace, then the pass that had begun ends
    shown(stream, 9)  # the first of this pass was shown above
    for _ in range(2):
        assert sorted(row for batch in shown(stream, 10) for row in batch) == list(range(100))


def test_a_resumed_stream_shows_the_same():
    paced = Paced(source(), HARD, epochs=3)
    for steps in (0, 1, 7, 29, 60):
        stream, resumed = (paced.stream(["a"], 8, seed=3) for _ in range(2))
        shown(stream, steps)
        resumed.load_state_dict(copy.deepcopy(stream.state_dict()))
        assert shown(stream, 40) == shown(resumed, 40)
    assert shown(paced.stream(["a"], 8, seed=3), 9) != shown(paced.stream(["a"], 8, seed=4), 9)


def test_several_tasks_are_ordered_by_the_mean_rank_of_those_that_label_a_row():
    a = torch.tensor([5.0, 6.0, NAN, 7.0])
    b = torch.tensor([1.0, NAN, NAN, 1.0])
    rows = TensorSource(torch.zeros(4, 1), {"a": a, "b": b})
    hard = {"a": torch.tensor([10.0, 2.0, NAN, 5.0]), "b": torch.tensor([0.0, NAN, NAN, 1.0])}
    assert Paced(rows, hard)._ordered(("a", "b")).tolist() == [1, 0, 3]  # ranks 0, (1 + 0) / 2, (1/2 + 1) / 2
    assert Paced(rows, hard, anti=True)._ordered(("a", "b")).tolist() == [3, 0, 1]
    assert Paced(rows, hard)._ordered(("a",)).tolist() == [1, 3, 0]


@pytest.mark.parametrize("form", [AllTasks, OneTask, MixedTasks])
def test_paced_rows_in_every_form(form):
    def make(tasks, seed):
        number = torch.arange(60.0)
        rows = TensorSource(number[:, None], dict.fromkeys(tasks, number))
        paced = Paced(rows, (number * 7) % 60, epochs=2)
        if form is AllTasks:
            return AllTasks(paced, batch_size=4, seed=seed)
        return form(dict.fromkeys(tasks, paced), batch_size=4, seed=seed)

    uneven = {"rows_of_a_task_come_equally_often": "that is what a curriculum is for"}
    check_sampler(make, ["a", "b"], exceptions=uneven)


def test_what_paced_refuses():
    with pytest.raises(UserError, match="'b', which the source does not have"):
        Paced(source(), {"b": HARD})
    with pytest.raises(UserError, match="each of 100 rows"):
        Paced(source(), HARD[:5])
    with pytest.raises(UserError, match="missing for 1 labelled"):
        Paced(source(), torch.where(HARD == 3, NAN, HARD)).stream(["a"], 4)
    with pytest.raises(UserError, match="no task 'c'"):
        Paced(source(), HARD).stream(["c"], 4)


def test_row_losses_are_the_losses_of_the_rows():
    torch.manual_seed(0)
    model, inputs = nn.Linear(3, 4), torch.randn(10, 3)
    target = torch.randint(4, (10,)).float()
    target[3] = NAN
    batches = [Batch(inputs[:6], {"a": target[:6]}), Batch(inputs[6:], {"a": target[6:]})]
    got = difficulty.row_losses(model, CrossEntropy(), batches, "a")
    expected = -model(inputs).log_softmax(-1)[torch.arange(10), target.nan_to_num().long()]
    assert got[3].isnan()
    torch.testing.assert_close(got[target == target], expected[target == target].detach())
    assert not got.requires_grad
    wide = Batch(torch.zeros(2, 2), {"a": torch.tensor([[1.0, 3.0], [2.0, NAN]])})
    each = lambda output, target: (output - target) ** 2  # noqa: E731
    assert difficulty.row_losses(lambda x: x, each, [wide], "a").tolist() == [5.0, 4.0]
    assert (
        difficulty.row_losses(lambda x: x, SquaredError(), [Batch(torch.ones(1, 1), {"a": torch.zeros(1)})], "a") == 1
    )


def test_flipped_labels_disagree_with_predictions_out_of_fold():
    torch.manual_seed(0)
    x = torch.randn(400)
    clean = (x > 0).float()
    flipped = torch.rand(400) < 0.1
    target = torch.where(flipped, 1 - clean, clean)
    seen = []

    def fitted(train):
        seen.append(train)
        high = target[train][x[train] > 0].mean()
        low = target[train][x[train] <= 0].mean()
        return lambda rows: torch.where(x[rows] > 0, high, low)

    noise = difficulty.disagreement(difficulty.out_of_fold(fitted, 400), target)
    assert noise[flipped].min() > noise[~flipped].max()
    assert all(len(train) == 320 for train in seen)
    assert len(seen) == 5
    assert difficulty.disagreement(torch.tensor([[0.2, 0.8]]), torch.tensor([NAN])).isnan().all()
    with pytest.raises(UserError, match="between 2 and 3 folds, got 4"):
        difficulty.out_of_fold(fitted, 3, folds=4)


def test_out_of_fold_never_predicts_a_row_that_it_was_trained_on():
    got = difficulty.out_of_fold(lambda train: lambda rows: torch.isin(rows, train).float() + rows * 0, 23, folds=4)
    assert got.tolist() == [0.0] * 23
    assert difficulty.out_of_fold(lambda train: lambda rows: rows, 23, folds=4).tolist() == list(range(23))
