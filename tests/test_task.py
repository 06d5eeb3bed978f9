"""Tasks: what they decode, what they refuse, and their JSON."""

import json

import pytest
import torch

from polytask import Task, UserError
from polytask.task import KINDS

TASKS = {
    "regression": Task.regression("price €", center=3.5, scale=0.25, needs=["click"]),
    "binary": Task.binary("click", labels=["no", "yes"]),
    "classes": Task.classes("digit", ["one", "two", "three"]),
    "ordinal": Task.ordinal("grade", [1, 2, 3, 4], needs=("click",)),
    "count": Task.count("visits", mean=2.5, scale=1.5),
}


def test_every_kind_has_an_example():
    assert set(TASKS) == set(KINDS)


@pytest.mark.parametrize("kind", KINDS)
def test_round_trip_through_json(kind):
    task = TASKS[kind]
    again = Task.from_json(json.loads(json.dumps(task.to_json(), allow_nan=False)))
    for field in ("name", "kind", "outputs", "loss", "options", "labels", "needs"):
        assert getattr(again, field) == getattr(task, field), field
    assert [s.name for s in again.scores] == [s.name for s in task.scores]
    output = torch.randn(5, task.outputs)
    assert torch.equal(again.decode(output), task.decode(output))


def test_decode_gives_the_users_units():
    output = torch.tensor([[0.0], [2.0]])
    assert TASKS["regression"].decode(output).tolist() == [3.5, 4.0]
    torch.testing.assert_close(TASKS["binary"].decode(output), torch.tensor([0.5, 0.8807971]))
    torch.testing.assert_close(TASKS["count"].decode(output), 2.5 * torch.tensor([1.0, 7.3890561]))
    logits = torch.randn(4, 3)
    torch.testing.assert_close(TASKS["classes"].decode(logits), logits.softmax(-1))
    assert torch.isfinite(TASKS["count"].decode(torch.tensor([[1e5]]))).all()


@pytest.mark.parametrize("kind", ["classes", "ordinal"])
def test_probabilities_sum_to_one(kind):
    task = TASKS[kind]
    output = torch.randn(50, task.outputs).mul(3).sort(dim=-1, descending=True).values
    probabilities = task.decode(output)
    assert probabilities.shape == (50, len(task.labels))
    assert (probabilities >= 0).all()
    torch.testing.assert_close(probabilities.sum(-1), torch.ones(50))


def test_ordinal_probabilities_are_differences_of_the_exceeding_ones():
    output = torch.tensor([[2.0, 0.5, -1.0]])
    above = output.sigmoid()[0]
    expected = torch.stack([1 - above[0], above[0] - above[1], above[1] - above[2], above[2]])
    torch.testing.assert_close(TASKS["ordinal"].decode(output)[0], expected)
    loss = TASKS["ordinal"].loss(output.expand(4, 3), torch.arange(4))
    torch.testing.assert_close(loss, -expected.log())


def test_half_precision_outputs_are_decoded_in_single():
    assert TASKS["regression"].decode(torch.ones(2, 1, dtype=torch.bfloat16)).dtype == torch.float32


def test_the_first_score_is_the_score():
    assert {kind: task.score.name for kind, task in TASKS.items()} == {
        "regression": "rmse",
        "binary": "auc",
        "classes": "accuracy",
        "ordinal": "mae_levels",
        "count": "poisson_deviance",
    }


@pytest.mark.parametrize(
    "make",
    [
        lambda: Task.regression("y", scale=0.0),
        lambda: Task.regression("y", scale=float("nan")),
        lambda: Task.count("y", mean=0.0),
        lambda: Task.count("y", scale=-1.0),
    ],
)
def test_refusals_name_the_task(make):
    with pytest.raises(UserError, match="task 'y'"):
        make()


def test_a_task_built_by_hand_decodes_as_it_is_and_is_not_saved():
    task = Task("own", "custom", 2, lambda output, target: (output - target) ** 2, Task.regression("y").scores)
    assert task.decode(torch.ones(1, 2)).tolist() == [[1.0, 1.0]]
    with pytest.raises(UserError, match="'own' was built by hand"):
        task.to_json()
    with pytest.raises(UserError, match="unknown kind 'custom'"):
        Task.from_json({"name": "own", "kind": "custom", "options": {}, "labels": None, "needs": []})
