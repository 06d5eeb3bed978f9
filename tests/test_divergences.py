"""Divergences from teachers: closed forms, what they are least at, and the losses whose label they replace."""

import math

import pytest
import torch

from polytask import Task
from polytask.divergences import Absolute, Bernoulli, Categorical, Levels, Rates, Squared, divergence_of

KINDS = {
    "binary": (Task.binary("a"), 1),
    "weighted binary": (Task.binary("a", class_weights=(1.0, 9.0)), 1),
    "classes": (Task.classes("a", 4), 4),
    "weighted classes": (Task.classes("a", 4, class_weights=(1.0, 2.0, 3.0, 0.5)), 4),
    "ordinal": (Task.ordinal("a", 4), 3),
    "weighted ordinal": (Task.ordinal("a", 4, class_weights=(1.0, 2.0, 3.0, 0.5)), 3),
    "count": (Task.count("a", mean=3.0, scale=0.7), 1),
    "regression": (Task.regression("a", center=5.0, scale=2.0), 1),
}


def outputs(width, seed=0):
    """Random outputs; those of ordered levels fall, as the head's do."""
    torch.manual_seed(seed)
    return torch.randn(6, width, dtype=torch.float64).sort(dim=1, descending=True).values


@pytest.mark.parametrize("temperature", [1.0, 3.0])
@pytest.mark.parametrize("kind", KINDS)
def test_it_is_zero_where_both_agree_and_positive_elsewhere(kind, temperature):
    task, width = KINDS[kind]
    divergence = divergence_of(task)
    own, teacher = outputs(width).requires_grad_(), outputs(width, 1)
    same = divergence(own, divergence.belief(own.detach(), temperature), temperature)
    torch.testing.assert_close(same, torch.zeros_like(same), atol=1e-12, rtol=0)
    (gradient,) = torch.autograd.grad(same.sum(), own)
    torch.testing.assert_close(gradient, torch.zeros_like(own), atol=1e-12, rtol=0)
    assert (divergence(own, divergence.belief(teacher, temperature), temperature) > 0).all()


@pytest.mark.parametrize("kind", KINDS)
def test_its_gradient_is_that_of_the_loss_with_the_belief_in_the_place_of_the_label(kind):
    """sum over labels y of P(y | teacher) * loss(output, y), where P is what the task decodes from the teacher."""
    task, width = KINDS[kind]
    own, teacher = outputs(width).requires_grad_(), outputs(width, 1)
    divergence = divergence_of(task)
    (found,) = torch.autograd.grad(divergence(own, divergence.belief(teacher)).sum(), own)
    said = task.decode(teacher).double()
    if task.labels is None:  # numbers: the label is what the teacher says
        expected = task.loss(own, said)
    else:
        p = torch.stack([1 - said, said], dim=1) if task.kind == "binary" else said
        expected = sum(p[:, y] * task.loss(own, torch.full((6,), y)) for y in range(len(task.labels)))
    torch.testing.assert_close(found, torch.autograd.grad(expected.sum(), own)[0], rtol=1e-5, atol=1e-6)


class TestClosedForms:
    @pytest.mark.parametrize("temperature", [1.0, 2.5])
    def test_classes(self, temperature):
        own, teacher = outputs(4), outputs(4, 1)
        p, q = (teacher / temperature).softmax(1), (own / temperature).softmax(1)
        expected = temperature**2 * (p * (p / q).log()).sum(1)
        divergence = Categorical()
        torch.testing.assert_close(divergence(own, divergence.belief(teacher, temperature), temperature), expected)

    @pytest.mark.parametrize("temperature", [1.0, 2.5])
    def test_one_logit_is_two_classes(self, temperature):
        own, teacher, two = outputs(1), outputs(1, 1), Categorical(weights=(1.0, 9.0))
        divergence = Bernoulli(weights=(1.0, 9.0))
        expected = two(
            torch.cat([0 * own, own], 1), two.belief(torch.cat([0 * own, teacher], 1), temperature), temperature
        )
        torch.testing.assert_close(divergence(own, divergence.belief(teacher, temperature), temperature), expected)

    @pytest.mark.parametrize("temperature", [1.0, 2.5])
    def test_two_levels_are_one_logit(self, temperature):
        own, teacher = outputs(1), outputs(1, 1)
        levels, binary = Levels(), Bernoulli()
        found = levels(own, levels.belief(teacher, temperature), temperature)
        torch.testing.assert_close(found, binary(own, binary.belief(teacher, temperature), temperature))

    def test_levels(self):
        own, teacher = outputs(3) / 2, outputs(3, 1) / 2
        p, q = (Task.ordinal("a", 4)._decode(output) for output in (teacher, own))
        divergence = Levels()
        found = divergence(2 * own, divergence.belief(2 * teacher, 2.0), 2.0)
        torch.testing.assert_close(found, 4 * (p * (p / q).log()).sum(1))

    def test_counts(self):
        rate, own = torch.tensor([2.0]), torch.tensor([[0.3]])
        divergence = Rates(offset=math.log(4.0), scale=0.5)
        expected = 2 * (2.0 * math.log(2.0 / (4 * math.exp(0.3))) - 2.0 + 4 * math.exp(0.3)) / 0.5
        torch.testing.assert_close(divergence(own, rate), torch.tensor([expected]))
        torch.testing.assert_close(divergence.belief(torch.tensor([[0.0]])), torch.tensor([4.0]))

    def test_numbers_know_no_temperature(self):
        own, teacher = outputs(1), outputs(1, 1)
        assert torch.equal(Squared()(own, Squared().belief(teacher, 7.0), 7.0), (own - teacher) ** 2)
        assert torch.equal(Absolute()(own, Absolute().belief(teacher, 7.0), 7.0), (own - teacher).abs())

    @pytest.mark.parametrize("axis", [1, -1])
    def test_classes_in_either_axis(self, axis):
        torch.manual_seed(0)
        own, teacher = torch.randn(2, 5, 3), torch.randn(2, 5, 3)
        last = Categorical(weights=(1.0, 2.0, 3.0))
        expected = last(own, last.belief(teacher))
        divergence = Categorical(axis, (1.0, 2.0, 3.0))
        moved = own.movedim(-1, axis), teacher.movedim(-1, axis)
        torch.testing.assert_close(divergence(moved[0], divergence.belief(moved[1])), expected)


def test_classes_that_both_rule_out_count_nothing():
    own = torch.tensor([[0.3, -math.inf, 1.0]], requires_grad=True)
    divergence = Categorical()
    rows = divergence(own, divergence.belief(torch.tensor([[2.0, -math.inf, 0.0]])))
    pair = divergence(own[:, [0, 2]], divergence.belief(torch.tensor([[2.0, 0.0]])))
    torch.testing.assert_close(rows, pair)
    rows.sum().backward()
    assert torch.isfinite(own.grad).all()
