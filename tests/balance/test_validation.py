"""DTP and the inverse of the validation score."""

import math

import pytest
import torch

from polytask import UserError
from polytask.balance import DTP, InverseValidation

TASKS = ("a", "b", "c")
SCORES = {"a": 0.9, "b": 0.6, "c": 0.3}
GOLDEN = [0.010536051565782625, 0.2043302495063963, 0.8427809630281552]


def weights(balancer, names=TASKS):
    x = torch.ones(len(names), dtype=torch.float64, requires_grad=True)
    balancer.backward({name: x[i] for i, name in enumerate(names)})
    return x.grad.tolist()


class TestDTP:
    def test_golden_values(self):
        balancer = DTP(TASKS).double()
        balancer.observe(SCORES)
        assert weights(balancer) == pytest.approx(GOLDEN, rel=1e-9)
        scaled = DTP(TASKS, total=1.0).double()
        scaled.observe(SCORES)
        expected = [0.009961782083126647, 0.19319319062410248, 0.796845027292771]
        assert weights(scaled) == pytest.approx(expected, rel=1e-9)

    def test_gamma(self):
        balancer = DTP(TASKS, gamma=2.0).double()
        balancer.observe(SCORES)
        assert weights(balancer)[1] == pytest.approx(-0.16 * math.log(0.6), rel=1e-9)

    def test_a_perfect_task_counts_nothing_and_a_better_one_less(self):
        balancer = DTP(TASKS)
        balancer.observe({"a": 1.0, "b": 0.2, "c": 0.1})
        found = weights(balancer)
        assert found[0] == 0.0
        assert found[1] < found[2]

    def test_all_perfect(self):
        balancer = DTP(TASKS, total=3.0)
        balancer.observe(dict.fromkeys(TASKS, 1.0))
        assert weights(balancer) == [0.0, 0.0, 0.0]

    @pytest.mark.parametrize("score", [0.0, -5.0, float("-inf"), 0.01])
    def test_no_better_than_a_constant_counts_as_the_floor(self, score):
        balancer = DTP(TASKS, decay=0.0).double()
        balancer.observe({"a": score})
        assert weights(balancer)[0] == pytest.approx(-0.99 * math.log(0.01), rel=1e-6)

    def test_the_average(self):
        balancer = DTP(TASKS, decay=0.75)
        for score in (0.4, 0.8, float("-inf")):
            balancer.observe({"a": score})
        assert float(balancer.kept[0]) == pytest.approx(0.75 * (0.75 * 0.4 + 0.25 * 0.8) + 0.25 * 0.01)


class TestInverse:
    def test_values(self):
        balancer = InverseValidation(TASKS).double()
        balancer.observe(SCORES)
        found = weights(balancer)
        assert sum(found) == pytest.approx(3.0)
        assert [w * SCORES[n] for w, n in zip(found, TASKS, strict=True)] == pytest.approx([found[0] * 0.9] * 3)

    def test_the_last_score_counts(self):
        balancer = InverseValidation(TASKS)
        balancer.observe(dict.fromkeys(TASKS, 0.1))
        balancer.observe(SCORES)
        assert balancer.kept.tolist() == pytest.approx([0.9, 0.6, 0.3])

    def test_the_floor_bounds_the_ratio(self):
        balancer = InverseValidation(["a", "b"], floor=0.25)
        balancer.observe({"a": -1.0, "b": 1.0})
        assert weights(balancer, ("a", "b")) == pytest.approx([1.6, 0.4])


@pytest.mark.parametrize("kind", [DTP, InverseValidation])
class TestBoth:
    def test_ones_before_the_first_score(self, kind):
        balancer = kind(TASKS)
        assert weights(balancer) == [1.0, 1.0, 1.0]
        balancer.observe({"b": 0.5})
        first, second, third = weights(balancer)
        assert (first, third) == (1.0, 1.0)
        assert second == pytest.approx(-0.5 * math.log(0.5) if kind is DTP else 1.0)

    def test_names_not_positions(self, kind):
        first, second = kind(TASKS), kind(TASKS)
        first.observe(SCORES)
        second.observe(dict(reversed(SCORES.items())))
        assert weights(first, ("c", "a")) == [weights(second)[2], weights(second)[0]]

    def test_an_undefined_score_changes_nothing(self, kind):
        balancer = kind(TASKS)
        balancer.observe(SCORES)
        before = balancer.kept.clone()
        balancer.observe({"a": float("nan")})
        assert torch.equal(balancer.kept, before)

    def test_refusals(self, kind):
        balancer = kind(TASKS)
        with pytest.raises(UserError, match="task 'd' is unknown"):
            balancer.observe({"a": 0.1, "d": 0.5})
        with pytest.raises(UserError, match=r"task 'b': a score must be at most 1, .* got 1.5"):
            balancer.observe({"a": 0.1, "b": 1.5})
        assert balancer.kept.isnan().all()

    @pytest.mark.parametrize("options", [{"decay": 1.0}, {"decay": -0.1}, {"floor": 0.0}, {"floor": 1.0}])
    def test_options_that_make_no_sense(self, kind, options):
        with pytest.raises(UserError, match=r"decay must|floor must"):
            kind(TASKS, **options)

    def test_the_memory_survives_a_round_trip(self, kind):
        first, second = kind(TASKS), kind(TASKS)
        first.observe({"a": 0.2, "b": 0.9})
        second.load_state_dict(first.state_dict())
        for balancer in (first, second):
            balancer.observe({"a": 0.3, "c": 0.1})
        assert weights(first) == weights(second)


def test_options_of_dtp_that_make_no_sense():
    for options in ({"gamma": -1.0}, {"total": 0.0}):
        with pytest.raises(UserError, match="must be"):
            DTP(TASKS, **options)
