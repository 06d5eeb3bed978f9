"""FAMO: golden weights and logits, the second look, what it refuses."""

import copy

import pytest
import torch
from torch import nn

from polytask import FAMO, Clipped, LogGramian, NormalisedLosses, UserError
from polytask.balance.famo import logit_gradient

TASKS = ("a", "b", "c")


def step(balancer, losses, names=TASKS):
    """Weights of a step with these losses, float64."""
    x = torch.ones(len(losses), dtype=torch.float64, requires_grad=True)
    balancer.backward({name: value * x[i] for i, (name, value) in enumerate(zip(names, losses, strict=False))})
    return (x.grad / torch.tensor(losses, dtype=torch.float64)).tolist()


def look(balancer, losses, names=TASKS):
    balancer.after_step(lambda: {n: torch.tensor(v, dtype=torch.float64) for n, v in zip(names, losses, strict=False)})


class TestFormula:
    def test_golden_weights(self):
        assert step(FAMO(["a", "b"]), [2.0, 0.5]) == pytest.approx([0.2, 0.8], rel=1e-9)

    def test_golden_gradient_of_the_logits(self):
        before, after = (torch.tensor(v, dtype=torch.float64).log() for v in ([2.0, 0.5], [1.0, 0.45]))
        found = logit_gradient(torch.zeros(2, dtype=torch.float64), before, after)
        assert found.tolist() == pytest.approx([0.14694666622552974, -0.14694666622552974], rel=1e-9)

    def test_the_gradient_is_the_jacobian_of_the_softmax_times_the_fall(self):
        logits = torch.randn(4, dtype=torch.float64, requires_grad=True)
        before, after = torch.randn(2, 4, dtype=torch.float64)
        (expected,) = torch.autograd.grad(torch.softmax(logits, 0), logits, before - after)
        torch.testing.assert_close(logit_gradient(logits.detach(), before, after), expected)

    def test_effective_weights_sum_to_one_for_any_logits_and_bounds(self):
        for seed in range(20):
            torch.manual_seed(seed)
            balancer = FAMO(TASKS, min_losses={"a": -3.0, "c": 0.01}).double()
            balancer.logits.copy_(3 * torch.randn(3))
            losses = torch.rand(3).add(0.1).tolist()
            weights = step(balancer, losses)
            assert sum(weights) == pytest.approx(1.0, rel=1e-9)
            chances = torch.softmax(balancer.logits, 0)
            above = torch.tensor(losses, dtype=torch.float64) - torch.tensor([-3.0, 0.0, 0.01], dtype=torch.float64)
            expected = chances / above
            assert weights == pytest.approx((expected / expected.sum()).tolist(), rel=1e-7)

    def test_the_logits_move_by_adam_with_decay(self):
        """The same numbers as torch's own Adam, whose weight decay is added to the gradient."""
        balancer = FAMO(TASKS, lr=0.1, gamma=0.05).double()
        mirror = nn.Parameter(torch.zeros(3, dtype=torch.float64))
        adam = torch.optim.Adam([mirror], lr=0.1, weight_decay=0.05)
        draws = torch.rand(6, 2, 3, dtype=torch.float64) + 0.1
        for before, after in draws:
            step(balancer, before.tolist())
            look(balancer, after.tolist())
            mirror.grad = logit_gradient(mirror.detach(), before.log(), after.log())
            adam.step()
            torch.testing.assert_close(balancer.logits, mirror.detach(), rtol=1e-9, atol=1e-12)

    def test_the_task_that_improves_faster_loses_weight(self):
        balancer = FAMO(["a", "b"])
        for _ in range(20):
            first = step(balancer, [1.0, 1.0])
            look(balancer, [0.5, 0.9])
        assert balancer.logits[0] < 0 < balancer.logits[1]
        assert first[0] < 0.45

    def test_the_unit_of_a_loss_changes_nothing_but_its_weight(self):
        plain, scaled = FAMO(["a", "b"]).double(), FAMO(["a", "b"]).double()
        for _ in range(5):
            first, second = step(plain, [2.0, 1.0]), step(scaled, [2e6, 1.0])
            look(plain, [1.5, 0.9])
            look(scaled, [1.5e6, 0.9])
        torch.testing.assert_close(plain.logits, scaled.logits)
        assert first[0] / first[1] == pytest.approx(1e6 * second[0] / second[1], rel=1e-6)


class TestSecondLook:
    def test_without_it_the_next_backward_says_so(self):
        balancer = FAMO(TASKS)
        step(balancer, [1.0, 1.0, 1.0])
        with pytest.raises(UserError, match=r"after each optimizer.step\(\) call balancer.after_step"):
            step(balancer, [1.0, 1.0, 1.0])
        look(balancer, [0.5, 1.0, 1.0])
        step(balancer, [1.0, 1.0, 1.0])

    def test_also_in_wrappers(self):
        balancer = LogGramian(NormalisedLosses(Clipped(FAMO(TASKS))))
        assert balancer.looks_again
        step(balancer, [1.0, 1.0, 1.0])
        with pytest.raises(UserError, match="after_step"):
            step(balancer, [1.0, 1.0, 1.0])

    def test_several_backward_passes_in_one_step_of_the_optimizer(self):
        balancer, single = FAMO(TASKS, accumulated=2), FAMO(TASKS)
        step(balancer, [1.0, 7.0, 1.0])
        step(balancer, [1.0, 2.0, 1.0])
        step(single, [1.0, 2.0, 1.0])
        for one in (balancer, single):
            look(one, [0.5, 1.9, 0.9])
        assert torch.equal(balancer.logits, single.logits)
        step(balancer, [1.0, 1.0, 1.0])
        step(balancer, [1.0, 1.0, 1.0])
        with pytest.raises(UserError, match="after_step"):
            step(balancer, [1.0, 1.0, 1.0])

    def test_tasks_of_an_earlier_pass_are_not_waited_for(self):
        balancer = FAMO(TASKS, accumulated=2)
        step(balancer, [1.0, 7.0, 1.0])
        step(balancer, [1.0, 2.0], "ca")
        look(balancer, [0.5, 1.9], "ca")
        assert balancer.logits[1] == 0.0 != balancer.logits[2]

    def test_a_loss_that_is_not_finite_teaches_nothing(self):
        balancer = FAMO(TASKS)
        step(balancer, [1.0, 1.0, 1.0])
        look(balancer, [float("nan"), 1.0, 1.0])
        assert balancer.logits.tolist() == [0.0, 0.0, 0.0]
        step(balancer, [1.0, 1.0, 1.0])

    def test_a_skipped_step_needs_no_second_look(self):
        balancer = FAMO(TASKS)
        x = torch.ones(1, requires_grad=True)
        with pytest.warns(RuntimeWarning, match="not finite"):
            balancer.backward({"a": x.sum(), "b": float("nan") * x.sum()})
        balancer.after_step(lambda: pytest.fail("nothing to compare"))
        step(balancer, [1.0, 1.0, 1.0])

    def test_absent_tasks_keep_their_logits_and_moments(self):
        balancer = FAMO(TASKS, gamma=0.1)
        balancer.logits.copy_(torch.tensor([0.5, -1.0, 2.0]))
        step(balancer, [1.0, 1.0], "ca")
        look(balancer, [0.5, 0.9], "ca")
        assert balancer.logits[1] == -1.0
        assert balancer.adam.count.tolist() == [1.0, 0.0, 1.0]
        assert (balancer.adam.first != 0).tolist() == [True, False, True]

    def test_a_task_alone_learns_nothing_and_has_weight_one(self):
        balancer = FAMO(TASKS, gamma=0.5)
        balancer.logits.copy_(torch.tensor([1.0, 2.0, 3.0]))
        assert step(balancer, [4.0], "b") == [1.0]
        look(balancer, [2.0], "b")
        assert balancer.logits.tolist() == [1.0, 2.0, 3.0]

    @pytest.mark.parametrize("cut", ["before", "between"])
    def test_a_round_trip_with_a_look_outstanding(self, cut):
        """The logs that wait for the second look are part of the state."""

        def run(balancer, steps, saved_at=None):
            for number in range(steps):
                if cut == "before" and number == saved_at:
                    balancer = self.copy_of(balancer)
                step(balancer, [1.0 + number, 2.0, 0.5])
                if cut == "between" and number == saved_at:
                    balancer = self.copy_of(balancer)
                look(balancer, [0.9 + number, 1.0 + 0.2 * number, 0.5])
            return balancer

        whole, resumed = run(FAMO(TASKS), 6), run(FAMO(TASKS), 6, saved_at=3)
        for name, value in whole.state_dict().items():
            torch.testing.assert_close(resumed.state_dict()[name], value, rtol=0, atol=0, equal_nan=True)

    def copy_of(self, balancer):
        fresh = FAMO(TASKS)
        fresh.load_state_dict(copy.deepcopy(balancer.state_dict()))
        return fresh


class TestRefusals:
    @pytest.mark.parametrize(("loss", "bound"), [(0.0, 0.0), (-1.0, 0.0), (-3.0, -2.0)])
    def test_a_loss_not_above_its_bound(self, loss, bound):
        with pytest.raises(UserError, match=rf"task 'b': .* lower bound {bound:g}, .* is {loss:g}; .* min_losses="):
            step(FAMO(TASKS, min_losses={"b": bound}), [1.0, loss, 1.0])

    def test_a_loss_that_falls_to_its_bound(self):
        balancer = FAMO(TASKS)
        step(balancer, [1.0, 1.0, 1.0])
        with pytest.raises(UserError, match=r"task 'c': .* is 0;"):
            look(balancer, [1.0, 1.0, 0.0])

    def test_a_second_look_without_a_task(self):
        balancer = FAMO(TASKS)
        step(balancer, [1.0, 1.0, 1.0])
        with pytest.raises(UserError, match="after_step got no loss for it"):
            look(balancer, [1.0, 1.0], "ab")

    @pytest.mark.parametrize("options", [
        {"lr": 0.0}, {"gamma": -1.0}, {"accumulated": 0}, {"min_losses": {"d": 0.0}},
    ])  # fmt: skip
    def test_options_that_make_no_sense(self, options):
        with pytest.raises(UserError, match=r"must be|unknown task 'd'"):
            FAMO(TASKS, **options)
