"""Sample spaces: which rows a task counts, by enumeration, and that its loss is that of these rows alone."""

import itertools

import pytest
import torch

from polytask import Batch, HardSharing, MultiTaskModel, Task, UserError
from polytask.encoders import MLP
from polytask.heads import make_head
from polytask.sampling import TensorSource
from polytask.sampling.space import in_space, restrict_batch, restrict_targets
from polytask.training import task_losses

NAN = float("nan")
CLICK, BUY = Task.binary("click"), Task.binary("buy", needs=["click"])
RETURN, DWELL = Task.binary("return", needs=["buy"]), Task.regression("dwell", needs=["click"])
FUNNEL = {task.name: task for task in (RETURN, DWELL, BUY, CLICK)}  # what needs comes before what is needed


def same(left, right):
    assert torch.equal(left.isnan(), right.isnan())
    assert torch.equal(left.nan_to_num(), right.nan_to_num())


def every_row():
    """All combinations of 0, 1 and no label."""
    columns = torch.tensor(list(itertools.product([0.0, 1.0, NAN], repeat=4))).T
    return dict(zip(("return", "dwell", "buy", "click"), columns, strict=True))


def test_a_chain_row_by_row():
    targets = every_row()
    found = restrict_batch(Batch(None, targets), FUNNEL).targets
    assert list(found) == list(targets)
    for row in range(81):
        clicked = float(targets["click"][row]) == 1
        bought = clicked and float(targets["buy"][row]) == 1
        inside = {"click": True, "buy": clicked, "dwell": clicked, "return": bought}
        for name, target in targets.items():
            expected = target[row] if inside[name] else torch.tensor(NAN)
            same(found[name][row], expected)


def test_the_source_is_left_as_it_was():
    targets = every_row()
    before = {name: target.clone() for name, target in targets.items()}
    in_space(TensorSource(torch.zeros(81, 2), targets), FUNNEL)
    for name, target in targets.items():
        same(target, before[name])


def test_a_source_is_restricted_as_its_batches_are():
    source = TensorSource(torch.arange(81.0)[:, None], every_row())
    whole = in_space(source, FUNNEL)
    for first in range(0, 81, 20):
        rows = slice(first, first + 20)
        part = restrict_batch(source.take(rows), FUNNEL)
        for name in FUNNEL:
            same(whole.take(rows).targets[name], part.targets[name])
    assert whole.sizes() == {"return": 6, "dwell": 18, "buy": 18, "click": 54}
    assert restrict_batch(whole.take(slice(None)), FUNNEL).targets.keys() == source.targets.keys()


def test_needing_a_task_that_is_not_binary_means_a_label():
    targets = {"a": torch.tensor([0.0, NAN, 7.0]), "b": torch.tensor([1.0, 2.0, 3.0])}
    tasks = {"a": Task.regression("a"), "b": Task.regression("b", needs=["a"])}
    same(restrict_batch(Batch(None, targets), tasks).targets["b"], torch.tensor([1.0, NAN, 3.0]))


def test_a_chain_through_a_number():
    targets = {"long": torch.ones(3), "dwell": torch.tensor([3.0, 4.0, NAN]), "click": torch.tensor([1.0, 0.0, 1.0])}
    found = restrict_targets(targets, {"long": ["dwell"], "dwell": ["click"]}, ["click"])
    same(found["long"], torch.tensor([1.0, NAN, NAN]))


def test_two_needs_are_both_needed():
    targets = {"a": torch.tensor([1.0, 1.0, 0.0]), "b": torch.tensor([1.0, 0.0, 1.0]), "c": torch.ones(3)}
    same(restrict_targets(targets, {"c": ["a", "b"]}, ["a", "b"])["c"], torch.tensor([1.0, NAN, NAN]))


def test_class_indices_become_numbers_only_where_rows_are_left_out():
    targets = {"a": torch.tensor([1, 0, 1]), "b": torch.tensor([2, 1, 0]), "c": torch.tensor([[1, 2], [3, 4], [5, 6]])}
    found = restrict_targets(targets, {"b": ["a"], "c": ["a"]}, ["a"])
    assert found["a"].dtype == torch.long
    same(found["b"], torch.tensor([2.0, NAN, 0.0]))
    same(found["c"], torch.tensor([[1.0, 2.0], [NAN, NAN], [5.0, 6.0]]))


def test_a_modality_is_an_input_that_is_not_all_nan():
    inputs = {
        "audio": torch.tensor([[NAN, NAN], [NAN, 1.0], [0.0, 0.0]]),
        "image": {"left": torch.full((3, 2, 2), NAN), "right": torch.tensor([1.0, NAN, 1.0])[:, None]},
        "codes": torch.zeros(3, 4, dtype=torch.long),
    }
    targets = {name: torch.ones(3) for name in ("speaker", "digit", "word", "agree")}
    needs = {"speaker": ["audio"], "digit": ["image"], "word": ["codes"], "agree": ["audio", "image"]}
    found = restrict_targets(targets, needs, [], inputs)
    same(found["speaker"], torch.tensor([NAN, 1.0, 1.0]))
    same(found["digit"], torch.tensor([1.0, NAN, 1.0]))
    same(found["word"], torch.ones(3))
    same(found["agree"], torch.tensor([NAN, NAN, 1.0]))


def test_the_loss_is_the_mean_over_the_space():
    """PLE's masked loss: sum of delta l / sum of delta, and no gradient from other rows."""
    torch.manual_seed(0)
    x, click, buy = torch.randn(40, 3), (torch.arange(40) % 3 == 0).float(), (torch.arange(40) % 6 == 0).float()
    model = MultiTaskModel(HardSharing(MLP(3, [8])), {"click": make_head(CLICK, 8), "buy": make_head(BUY, 8)})
    tasks = {"click": CLICK, "buy": BUY}
    source = in_space(TensorSource(x, {"click": click, "buy": buy}), tasks)
    found = task_losses(model, tasks, source.batches(40))
    delta = click == 1
    expected = task_losses(model, {"buy": BUY}, [Batch(x[delta], {"buy": buy[delta]})])["buy"]
    torch.testing.assert_close(found["buy"], expected)
    assert not torch.allclose(expected, task_losses(model, {"buy": BUY}, [Batch(x, {"buy": buy})])["buy"])


def test_refusals():
    ones = torch.ones(2)
    with pytest.raises(UserError, match="circle: a -> b -> c -> a"):
        restrict_targets(dict.fromkeys("abc", ones), {"a": "b", "b": "c", "c": "a"}, [])
    with pytest.raises(UserError, match="circle: a -> a"):
        restrict_targets({"a": ones}, {"a": ["a"]}, [])
    with pytest.raises(UserError, match="task 'buy' needs 'clic', which is neither a task nor an input; did you mean"):
        restrict_targets({"buy": ones, "click": ones}, {"buy": ["clic"]}, [])
    with pytest.raises(UserError, match="task 'buy' has no labelled row in its sample space: it needs 'click'"):
        in_space(TensorSource(torch.zeros(2, 1), {"click": 0 * ones, "buy": ones}), {"click": CLICK, "buy": BUY})


def test_nothing_is_needed_nothing_changes():
    source = TensorSource(torch.zeros(2, 1), {"click": torch.ones(2)})
    assert in_space(source, {"click": CLICK}).targets["click"] is source.targets["click"]
