"""The methods that see losses only: golden weights, memories by name, what they refuse."""

import math

import pytest
import torch

from polytask import UserError
from polytask.balance import (
    DWA,
    FAMO,
    IMTLL,
    LBTW,
    RLW,
    STCH,
    GeometricMean,
    InitialLoss,
    LogSum,
    UncertaintyWeighting,
)

TASKS = ("a", "b", "c")


def step(balancer, losses, names=TASKS):
    """Weights of a step with these losses, float64."""
    x = torch.ones(len(losses), dtype=torch.float64, requires_grad=True)
    balancer.backward({name: value * x[i] for i, (name, value) in enumerate(zip(names, losses, strict=False))})
    return (x.grad / torch.tensor(losses, dtype=torch.float64)).tolist()


def near(expected, rel=1e-6):
    return pytest.approx(expected, rel=rel)


class TestLogarithms:
    def test_golden_values(self):
        assert step(GeometricMean(), [2.0, 8.0]) == near([1.0, 0.25], 1e-12)
        assert step(LogSum(), [2.0, 8.0]) == near([0.5, 0.125], 1e-12)
        value = GeometricMean().scalarise(torch.tensor([2.0, 8.0], dtype=torch.float64), torch.arange(2))
        assert value.item() == near(4.0, 1e-12)

    def test_forty_tasks_do_not_leave_the_range_of_the_numbers(self):
        for size in (1e-12, 1e12):
            losses = torch.full((40,), size, requires_grad=True)
            GeometricMean().scalarise(losses, torch.arange(40)).backward()
            torch.testing.assert_close(losses.grad, torch.full((40,), 1 / 40), rtol=1e-4, atol=0)

    def test_a_task_alone_in_a_step_keeps_its_weight(self):
        assert step(LogSum(TASKS), [4.0], "b") == near([0.25])
        assert step(LogSum(["b"]), [4.0], "b") == [1.0]
        assert step(GeometricMean(), [4.0], "b") == [1.0]


class TestInitialLoss:
    def test_every_term_starts_at_one_and_the_scale_of_a_loss_changes_nothing(self):
        for scale in (1e-6, 1.0, 1e6):
            balancer = InitialLoss(TASKS)
            assert step(balancer, [2.0, 8.0 * scale, 1.0]) == near([0.5, 0.125 / scale, 1.0])
            assert step(balancer, [1.0, 2.0 * scale, 9.0]) == near([0.5, 0.125 / scale, 1.0])

    def test_the_first_value_goes_by_name(self):
        balancer = InitialLoss(TASKS)
        step(balancer, [2.0, 4.0], "ca")
        assert step(balancer, [3.0, 5.0, 7.0], "abc") == near([1 / 4, 1 / 5, 1 / 2])


class TestLBTW:
    def test_a_task_that_has_learnt_counts_less(self):
        balancer = LBTW(TASKS)
        assert step(balancer, [4.0, 1.0, 2.0]) == near([1.0, 1.0, 1.0])
        assert step(balancer, [1.0, 1.0, 8.0]) == near([0.5, 1.0, 2.0])

    def test_the_weight_is_a_constant_of_the_backward(self):
        losses = torch.tensor([1.0, 1.0], requires_grad=True)
        balancer = LBTW(["a", "b"])
        step(balancer, [4.0, 1.0])
        balancer.scalarise(losses, torch.arange(2)).backward()
        assert losses.grad.tolist() == near([0.5, 1.0])  # with the ratio in the graph the first would be .75

    def test_an_epoch_starts_anew(self):
        balancer = LBTW(TASKS, every=2)
        step(balancer, [4.0, 4.0, 4.0])
        assert step(balancer, [1.0, 1.0], "ab") == near([0.5, 0.5])
        assert step(balancer, [1.0], "a") == near([1.0])
        assert step(balancer, [0.25, 0.25, 1.0]) == near([0.5, 1.0, 1.0])

    def test_alpha_of_zero_is_the_sum(self):
        balancer = LBTW(TASKS, alpha=0.0)
        step(balancer, [4.0, 4.0, 4.0])
        assert step(balancer, [1.0, 2.0, 3.0]) == [1.0, 1.0, 1.0]


class TestDWA:
    GOLDEN = (1.0302271839866795, 1.0830480612260602, 0.8867247547872605)

    def test_golden_values(self):
        balancer = DWA(TASKS, every=1)
        assert step(balancer, [1.0, 1.0, 1.0]) == near([1.0, 1.0, 1.0])
        assert step(balancer, [0.8, 0.9, 0.5]) == near([1.0, 1.0, 1.0])
        weights = step(balancer, [0.1, 0.2, 0.3])
        assert weights == near(list(self.GOLDEN))
        assert sum(weights) == near(3.0)

    def test_an_epoch_is_a_mean_over_steps_and_the_scale_of_a_loss_changes_nothing(self):
        balancer = DWA(TASKS, every=2)
        for losses in ([0.5, 50.0, 1.5], [1.5, 150.0, 0.5], [0.7, 80.0, 0.4], [0.9, 100.0, 0.6]):
            assert step(balancer, losses) == near([1.0, 1.0, 1.0])
        assert step(balancer, [7.0, 7.0, 7.0]) == near(list(self.GOLDEN))
        assert step(balancer, [7.0, 7.0, 7.0]) == near(list(self.GOLDEN))

    def test_one_task_in_a_step(self):
        """The means are over the steps in which a task was there, the weights among all tasks."""
        balancer = DWA(TASKS, every=3)
        for epoch in ([1.0, 1.0, 1.0], [0.8, 0.9, 0.5]):
            for name, loss in zip("bca", [epoch[1], epoch[2], epoch[0]], strict=True):
                step(balancer, [loss], name)
        assert step(balancer, [1.0], "c") == near([self.GOLDEN[2]])
        assert step(balancer, [1.0], "a") == near([self.GOLDEN[0]])

    def test_a_task_absent_for_an_epoch_keeps_its_ratio(self):
        balancer = DWA(TASKS, every=1)
        step(balancer, [1.0, 1.0, 1.0])
        step(balancer, [0.8, 0.9, 0.5])
        step(balancer, [0.8, 0.9], "ab")
        ratios = torch.tensor([1.0, 1.0, 0.5]) / 2
        assert step(balancer, [1.0, 1.0, 1.0]) == near((3 * torch.softmax(ratios, 0)).tolist())


class TestRLW:
    def test_on_the_simplex_and_equal_in_the_mean(self):
        balancer = RLW(TASKS, seed=3)
        drawn = torch.tensor([step(balancer, [1.0, 1.0, 1.0]) for _ in range(500)])
        torch.testing.assert_close(drawn.sum(1), torch.ones(500))
        error = drawn.std(0) / math.sqrt(500)
        assert (abs(drawn.mean(0) - 1 / 3) < 4 * error).all()
        assert (drawn.std(0) > 0.1).all()

    def test_seeds(self):
        assert step(RLW(TASKS, seed=1), [1.0] * 3) == step(RLW(TASKS, seed=1), [1.0] * 3)
        assert step(RLW(TASKS, seed=1), [1.0] * 3) != step(RLW(TASKS, seed=2), [1.0] * 3)


class TestSTCH:
    def at(self, nadir, mu, losses, names=TASKS):
        balancer = STCH(TASKS, mu=mu, warmup=1)
        step(balancer, nadir)
        return step(balancer, losses, names)

    def test_golden_values(self):
        assert self.at([1.0, 2.0, 1.0], 1.0, [2.0, 1.0, 0.5]) == near([1.0, 0.5, 1.0])
        expected = [1.4999971389825077, 2.8610174922609528e-06, 5.7220349845219056e-06]
        assert self.at([1.0, 2.0, 1.0], 0.1, [2.0, 1.0, 0.5]) == near(expected, 1e-5)

    def test_its_ends(self):
        assert self.at([1.0, 1.0, 1.0], 1e-3, [2.0, 1.0, 0.5]) == near([1.5, 0.0, 0.0])
        assert self.at([1.0, 1.0, 1.0], 1e6, [2.0, 1.0, 0.5]) == near([0.5, 1.0, 2.0], 1e-4)

    def test_the_warm_up_is_the_sum_of_logs_and_averages(self):
        balancer = STCH(TASKS, warmup=2)
        assert step(balancer, [0.5, 1.0, 0.5]) == near([2.0, 1.0, 2.0])
        assert step(balancer, [1.5, 3.0], "ab") == near([1 / 1.5, 1 / 3])
        assert (balancer.total / balancer.count).tolist() == near([1.0, 2.0, 0.5])
        before = balancer.total.clone()
        step(balancer, [9.0, 9.0, 9.0])
        assert torch.equal(balancer.total, before)

    def test_a_task_that_missed_the_warm_up_starts_at_its_nadir(self):
        balancer = STCH(TASKS, warmup=1)
        step(balancer, [1.0, 1.0], "ab")
        assert step(balancer, [1.0, 1.0, 5.0]) == near([1.0, 1.0, 0.2])
        assert balancer.total[2] == 5.0

    def test_alone_in_a_step(self):
        assert self.at([1.0, 2.0, 1.0], 1.0, [4.0], "b") == near([0.25])


class TestIMTLL:
    def test_every_scaled_loss_is_one_at_the_optimum(self):
        balancer = IMTLL(TASKS)
        with torch.no_grad():
            balancer.log_scale.copy_(torch.tensor([-0.6931471805599453, 0.0, -2.0794415416798357]))
        assert step(balancer, [8.0, 2.0], "ca") == near([0.125, 0.5])
        assert balancer.log_scale.grad.tolist() == pytest.approx([0.0, 0.0, 0.0], abs=1e-6)

    def test_one_step(self):
        balancer = IMTLL(TASKS)
        assert step(balancer, [2.0, 1.0, 0.5]) == [1.0, 1.0, 1.0]
        assert balancer.log_scale.grad.tolist() == [1.0, 0.0, -0.5]


DIVIDING = {
    "geometric": GeometricMean,
    "log": LogSum,
    "initial": lambda: InitialLoss(TASKS),
    "lbtw": lambda: LBTW(TASKS),
    "dwa": lambda: DWA(TASKS, every=1),
    "stch": lambda: STCH(TASKS),
}


@pytest.mark.parametrize("kind", DIVIDING)
def test_a_loss_of_zero_is_refused_where_it_would_be_divided_by(kind):
    losses = torch.tensor([1.0, 0.0, 2.0], requires_grad=True)
    with pytest.raises(UserError, match=r"one is 0: they must be above 0"):
        DIVIDING[kind]().scalarise(losses, torch.arange(3))


@pytest.mark.parametrize("kind", [*DIVIDING, "imtll"])
def test_a_negative_loss_is_refused(kind):
    losses = torch.tensor([1.0, -0.5, 2.0], requires_grad=True)
    with pytest.raises(UserError, match=r"one is -0.5: they must be above 0|needs losses of at least 0"):
        {**DIVIDING, "imtll": lambda: IMTLL(TASKS)}[kind]().scalarise(losses, torch.arange(3))


NAMED = {
    **DIVIDING,
    "imtll": lambda: IMTLL(TASKS),
    "uncertainty": lambda: UncertaintyWeighting(TASKS),
    "famo": lambda: FAMO(TASKS),
}


@pytest.mark.parametrize("kind", NAMED)
def test_backward_names_the_task_whose_loss_is_refused(kind):
    x = torch.ones(1, requires_grad=True)
    with pytest.raises(UserError, match=r"task 'a': .*(one|loss) is -0.5"):
        NAMED[kind]().backward({"c": x.sum(), "a": -0.5 * x.sum(), "b": x.sum()})


def test_a_refused_epoch_of_dwa_names_the_task_too():
    balancer = DWA(TASKS, every=2)
    step(balancer, [1.0, 1.0], "ab")
    with pytest.raises(UserError, match=r"task 'b': the epoch's mean: DWA .* one is 0"):
        step(balancer, [1.0, -1.0], "ab")


def test_a_loss_that_reaches_zero_later_does_not_stop_lbtw():
    balancer = LBTW(["a", "b"])
    step(balancer, [4.0, 1.0])
    losses = torch.tensor([0.0, 1.0], requires_grad=True)
    balancer.scalarise(losses, torch.arange(2)).backward()
    assert losses.grad.tolist() == near([0.0, 1.0])


@pytest.mark.parametrize("make", [
    lambda: DWA(TASKS, temperature=0.0), lambda: DWA(TASKS, every=0), lambda: LBTW(TASKS, alpha=-1.0),
    lambda: LBTW(TASKS, every=0), lambda: STCH(TASKS, mu=0.0), lambda: STCH(TASKS, warmup=0),
    lambda: InitialLoss([]), lambda: RLW([]), lambda: IMTLL([]),
])  # fmt: skip
def test_options_that_make_no_sense(make):
    with pytest.raises(UserError, match=r"must be|tasks="):
        make()


@pytest.mark.parametrize("make", [
    lambda: DWA(TASKS, every=3), lambda: LBTW(TASKS, every=3), lambda: STCH(TASKS, warmup=3),
    lambda: InitialLoss(TASKS), lambda: RLW(TASKS),
])  # fmt: skip
@pytest.mark.parametrize("cut", [1, 4, 7])
def test_the_memory_survives_a_round_trip(make, cut):
    draws = torch.rand(12, 3, generator=torch.Generator().manual_seed(0)).add(0.1).tolist()
    whole, other = make(), make()
    expected = [step(whole, losses) for losses in draws]
    for losses in draws[:cut]:
        step(other, losses)
    resumed = make()
    resumed.load_state_dict(other.state_dict())
    assert [step(resumed, losses) for losses in draws[cut:]] == expected[cut:]
