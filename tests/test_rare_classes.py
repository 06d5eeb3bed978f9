"""Class weights and focal loss: against torch and closed forms, and what `decode` and `decide` make of them."""

import json
import math

import numpy as np
import pytest
import torch
from sklearn.utils.class_weight import compute_class_weight
from torch.nn import functional as F

from polytask import Task, UserError
from polytask.losses import (
    WEIGHTINGS,
    BinaryCrossEntropy,
    ClassWeighted,
    CrossEntropy,
    Focal,
    OrdinalCrossEntropy,
    effective_weights,
    labelled_sum,
    power_weights,
    true_probabilities,
)
from polytask.table.columns import Target
from polytask.table.tasks import make_task

NAN = float("nan")
LOSSES = {
    "binary": (BinaryCrossEntropy(), 1, 2),
    "classes": (CrossEntropy(), 4, 4),
    "ordinal": (OrdinalCrossEntropy(), 3, 4),
}


def example(kind, rows=12, seed=0, dtype=torch.float64):
    loss, width, classes = LOSSES[kind]
    torch.manual_seed(seed)
    output = torch.randn(rows, width, dtype=dtype).mul(2).sort(dim=-1, descending=True).values
    return loss, output.requires_grad_(), (torch.arange(rows) % classes).to(dtype), classes


class TestFocal:
    @pytest.mark.parametrize("kind", LOSSES)
    def test_gamma_0_is_the_loss_and_its_gradient_bit_for_bit(self, kind):
        for dtype in (torch.float32, torch.float64):
            loss, output, target, _ = example(kind, dtype=dtype)
            plain, focal = loss(output, target), Focal(loss, 0.0)(output, target)
            assert torch.equal(plain, focal)
            assert torch.equal(*(torch.autograd.grad(rows.sum(), output)[0] for rows in (plain, focal)))

    @pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0, 5.0])
    def test_binary_formula(self, gamma):
        _, output, target, _ = example("binary")
        p = output.sigmoid()[:, 0]
        expected = torch.where(target > 0, -((1 - p) ** gamma) * p.log(), -(p**gamma) * (1 - p).log())
        torch.testing.assert_close(Focal(BinaryCrossEntropy(), gamma)(output, target), expected)

    @pytest.mark.parametrize("gamma", [0.5, 2.0])
    def test_formula_of_many_classes(self, gamma):
        _, output, target, _ = example("classes")
        p = output.softmax(-1).gather(1, target.long()[:, None])[:, 0]
        torch.testing.assert_close(Focal(CrossEntropy(), gamma)(output, target), -((1 - p) ** gamma) * p.log())

    @pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0])
    @pytest.mark.parametrize("kind", LOSSES)
    def test_gradient_by_finite_differences(self, kind, gamma):
        loss, output, target, classes = example(kind, rows=8)
        weighted = ClassWeighted(Focal(loss, gamma), tuple(1.0 + c for c in range(classes)))
        assert torch.autograd.gradcheck(lambda o: weighted(o, target), output, eps=1e-6, atol=1e-7)

    @pytest.mark.parametrize("gamma", [0.3, 1.0, 2.0])
    @pytest.mark.parametrize("logit", [-300.0, -30.0, 10.0, 300.0])
    def test_far_out(self, logit, gamma):
        """Surely right: next to nothing. Surely wrong: the plain loss and slope."""
        output = torch.full((1, 1), logit).requires_grad_()
        rows = Focal(BinaryCrossEntropy(), gamma)(output, torch.ones(1))
        value = float(rows.detach())
        (slope,) = torch.autograd.grad(rows.sum(), output)
        if logit < 0:
            assert (value, float(slope)) == (pytest.approx(-logit, rel=1e-6), pytest.approx(-1.0, rel=1e-5))
        else:
            p = 1 / (1 + math.exp(logit))  # 1 - p_t, where float32 has no 1 - p_t left
            assert value == pytest.approx(p ** (1 + gamma), rel=2e-3, abs=1e-37)
            assert float(slope) == pytest.approx(-(1 + gamma) * p ** (1 + gamma), rel=2e-3, abs=1e-37)

    def test_digits_where_one_minus_p_has_none_in_single_precision(self):
        rows = Focal(BinaryCrossEntropy(), 1.0)(torch.full((1, 1), 20.0), torch.ones(1))
        assert float(rows) == pytest.approx(math.exp(-40.0), rel=1e-5, abs=0)


class TestWeights:
    def test_balanced_is_that_of_scikit_learn(self):
        y = np.repeat([0, 1, 2], [70, 25, 5])
        expected = compute_class_weight("balanced", classes=np.arange(3), y=y)
        assert power_weights([70, 25, 5]) == pytest.approx(list(expected))

    @pytest.mark.parametrize("word", WEIGHTINGS)
    def test_their_mean_over_the_rows_is_1(self, word):
        counts = [9000, 950, 50]
        weights = WEIGHTINGS[word](counts)
        assert np.average(weights, weights=counts) == pytest.approx(1.0)
        assert weights[0] < weights[1] < weights[2]

    def test_square_root(self):
        weights = WEIGHTINGS["sqrt"]([900, 100])
        assert weights[1] / weights[0] == pytest.approx(3.0)

    def test_effective_number(self):
        counts, beta = [5000, 20], 0.99
        numbers = [sum(beta**k for k in range(n)) for n in counts]  # 1 + beta + beta^2 + ...
        weights = effective_weights(counts, beta)
        assert weights[1] / weights[0] == pytest.approx(numbers[0] / numbers[1])
        assert numbers[0] == pytest.approx(100.0)

    def test_limits_of_the_effective_number(self):
        counts = [900, 100]
        assert effective_weights(counts, 0.0) == (1.0, 1.0)
        assert effective_weights(counts, 1e-12) == pytest.approx((1.0, 1.0))
        assert effective_weights(counts, 1 - 1e-10) == pytest.approx(power_weights(counts), rel=1e-5)
        for beta in (1.0, -0.1, NAN):
            with pytest.raises(UserError, match="beta"):
                effective_weights(counts, beta)

    def test_a_class_without_rows_weighs_as_one_with_one(self):
        assert power_weights([9, 0])[1] == pytest.approx(9 * power_weights([9, 0])[0])
        assert all(math.isfinite(w) for word in WEIGHTINGS for w in WEIGHTINGS[word]([9, 0, 3]))

    def test_rows_are_those_of_torch(self):
        _, output, target, _ = example("classes")
        weights = (0.5, 1.0, 2.0, 4.0)
        expected = F.cross_entropy(output, target.long(), output.new_tensor(weights), reduction="none")
        torch.testing.assert_close(ClassWeighted(CrossEntropy(), weights)(output, target), expected)

    def test_entries_of_dense_targets(self):
        logits, target = torch.randn(2, 3, 4), torch.randint(3, (2, 4)).float()
        rows = ClassWeighted(CrossEntropy(), (1.0, 2.0, 3.0))(logits, target)
        torch.testing.assert_close(rows, F.cross_entropy(logits, target.long(), reduction="none") * (1 + target))


@pytest.mark.parametrize("kind", LOSSES)
def test_two_batches_are_one_big_batch(kind):
    loss, output, target, classes = example(kind, rows=13)
    target[[2, 5]] = NAN
    weighted = ClassWeighted(Focal(loss, 2.0), tuple(2.0**c for c in range(classes)))
    total, count = labelled_sum(weighted, output, target)
    parts = [labelled_sum(weighted, output[rows], target[rows]) for rows in (slice(0, 4), slice(4, 13))]
    torch.testing.assert_close(sum(p[0] for p in parts), total)
    assert float(sum(p[1] for p in parts)) == float(count) == 11  # rows, not their weights


def minimum(loss, p, width):
    """The output at which the expected loss over classes with probabilities p is least."""
    start = torch.zeros(1, width, dtype=torch.float64).requires_grad_()
    optimizer = torch.optim.LBFGS([start], lr=0.5, max_iter=500, tolerance_grad=1e-13, tolerance_change=0)

    def expected():
        optimizer.zero_grad()
        rows = loss(start.expand(len(p), width), torch.arange(len(p)))
        value = (rows * p).sum()
        value.backward()
        return value

    optimizer.step(expected)
    return start.detach()


class TestDecode:
    def test_closed_form_of_the_binary_logit(self):
        task = Task.binary("click", class_weights=(0.5, 8.0))
        output = torch.linspace(-9, 9, 19)[:, None]
        torch.testing.assert_close(task.decode(output), (output[:, 0] - math.log(16.0)).sigmoid())

    def test_closed_form_of_the_classes(self):
        weights = torch.tensor([1.0, 2.0, 5.0])
        output = torch.randn(9, 3) * 4
        task = Task.classes("digit", 3, class_weights=weights.tolist())
        torch.testing.assert_close(task.decode(output), (output - weights.log()).softmax(-1))

    @pytest.mark.parametrize(("weights", "gamma"), [((1.0, 6.0), 0.0), (None, 2.0), (None, 0.5), ((1.0, 6.0), 2.0)])
    @pytest.mark.parametrize("share", [0.03, 0.4, 0.9])
    def test_the_minimum_of_the_loss_is_decoded_as_the_truth_binary(self, share, weights, gamma):
        task = Task.binary("click", class_weights=weights, focal=gamma)
        best = minimum(task.loss, torch.tensor([1 - share, share], dtype=torch.float64), 1)
        assert float(task.decode(best)) == pytest.approx(share, rel=1e-5)
        assert abs(float(best.sigmoid()) - share) > 0.01  # the network itself says something else

    @pytest.mark.parametrize(("weights", "gamma"), [((1.0, 4.0, 0.3), 0.0), (None, 2.0), ((1.0, 4.0, 0.3), 1.5)])
    def test_the_minimum_of_the_loss_is_decoded_as_the_truth_classes(self, weights, gamma):
        truth = torch.tensor([0.7, 0.05, 0.25], dtype=torch.float64)
        task = Task.classes("digit", 3, class_weights=weights, focal=gamma)
        decoded = task.decode(minimum(task.loss, truth, 3))[0]
        torch.testing.assert_close(decoded.double(), truth, rtol=1e-5, atol=1e-6)

    def test_the_minimum_of_the_loss_is_decoded_as_the_truth_ordinal(self):
        truth = torch.tensor([0.6, 0.3, 0.1], dtype=torch.float64)
        task = Task.ordinal("grade", 3, class_weights=(1.0, 2.0, 5.0), focal=1.0)
        # free, decreasing logits
        loss = lambda o, t: task.loss(torch.cat([o[:, :1], o[:, :1] - o[:, 1:].exp()], 1), t)  # noqa: E731
        best = minimum(loss, truth, 2)
        decoded = task.decode(torch.cat([best[:, :1], best[:, :1] - best[:, 1:].exp()], 1))[0]
        torch.testing.assert_close(decoded.double(), truth, rtol=1e-5, atol=1e-6)

    def test_order_is_kept_and_nothing_breaks_far_out(self):
        output = torch.linspace(-60, 60, 241)[:, None]
        for gamma in (0.5, 2.0, 5.0):
            p = Task.binary("click", class_weights=(1.0, 50.0), focal=gamma).decode(output)
            assert torch.isfinite(p).all()
            assert (p.diff() >= 0).all()
            assert (float(p[0]), float(p[-1])) == (pytest.approx(0.0, abs=1e-4), pytest.approx(1.0))
            far = Task.classes("digit", 3, focal=gamma).decode(torch.tensor([[0.0, 900.0, -900.0]]))
            torch.testing.assert_close(far, torch.tensor([[0.0, 1.0, 0.0]]))

    def test_equal_weights_change_nothing(self):
        q = torch.rand(5, 3).softmax(-1)
        torch.testing.assert_close(true_probabilities(q, (2.0, 2.0, 2.0)), q)


class TestDecide:
    def test_binary_at_the_ratio_of_the_weights(self):
        task = Task.binary("click", class_weights=(1.0, 4.0))
        assert task.decide(torch.tensor([0.19, 0.2, 0.9])).tolist() == [0, 1, 1]
        assert Task.binary("click").decide(torch.tensor([0.49, 0.5])).tolist() == [0, 1]

    @pytest.mark.parametrize("make", [Task.classes, Task.ordinal])
    def test_it_is_what_the_uncorrected_network_says(self, make):
        """Weights without a focal loss: the class of the largest logit, the median of what the loss was fed."""
        weighted, plain = make("t", 4, class_weights=(1.0, 3.0, 9.0, 2.0)), make("t", 4)
        output = torch.randn(200, weighted.outputs).mul(2)
        output = output.sort(dim=-1, descending=True).values if make == Task.ordinal else output
        assert torch.equal(weighted.decide(weighted.decode(output)), plain.decide(plain.decode(output)))
        assert len(plain.decide(plain.decode(output)).unique()) > 1

    def test_without_classes(self):
        with pytest.raises(UserError, match="task 'price' \\(regression\\) has no classes"):
            Task.regression("price").decide(torch.zeros(2))


@pytest.mark.parametrize("kind", ["binary", "classes", "ordinal"])
def test_json(kind):
    make = {"binary": lambda **o: Task.binary("t", labels=["n", "y"], **o)}.get(
        kind, lambda **o: getattr(Task, kind)("t", ["n", "y"], **o)
    )
    task = make(class_weights={"y": 9.0, "n": 0.5}, focal=2, needs=["click"])
    again = Task.from_json(json.loads(json.dumps(task.to_json(), allow_nan=False)))
    assert (again.class_weights, again.focal, again.needs) == ((0.5, 9.0), 2.0, ("click",))
    assert again.loss == task.loss != make().loss
    output = torch.randn(6, task.outputs)
    assert torch.equal(again.decode(output), task.decode(output))
    assert not torch.equal(make().decode(output), task.decode(output))
    old = make().to_json()
    del old["class_weights"], old["focal"]  # as it was saved before there were any
    assert Task.from_json(old).loss == make().loss


@pytest.mark.parametrize(("options", "why"), [
    ({"class_weights": (1.0, 2.0, 3.0)}, "must be 2 numbers"),
    ({"class_weights": {0: 1.0, "yes": 2.0}}, "must name every label"),
    ({"class_weights": {0: 1.0}}, "must name every label"),
    ({"class_weights": (1.0, 0.0)}, "above 0"),
    ({"class_weights": (1.0, NAN)}, "above 0"),
    ({"focal": -1.0}, "gamma"),
    ({"focal": NAN}, "gamma"),
])  # fmt: skip
def test_refusals_name_the_task(options, why):
    with pytest.raises(UserError, match=f"task 'y'.*{why}"):
        Task.binary("y", **options)


class TestTables:
    labels = np.array([0, 0, 0, NAN, 0, 1], dtype=np.float32)

    def test_by_name_from_the_training_rows(self):
        target = Target("t", "binary", 5, ("no", "yes"))
        assert make_task(target, self.labels, class_weights="balanced").class_weights == pytest.approx((0.625, 2.5))
        task = make_task(target, self.labels, class_weights="effective", focal=2.0, needs=["click"])
        assert (task.class_weights, task.focal, task.needs) == (effective_weights([4, 1]), 2.0, ("click",))
        assert make_task(target, self.labels, class_weights={"yes": 3, "no": 1}).class_weights == (1.0, 3.0)

    @pytest.mark.parametrize("kind", ["classes", "ordinal"])
    def test_a_class_that_only_other_rows_have(self, kind):
        task = make_task(Target("t", kind, 5, ("a", "b", "c")), self.labels, class_weights="sqrt")
        assert len(task.class_weights) == 3

    def test_refusals(self):
        with pytest.raises(UserError, match="unknown class weights 'balancd'; did you mean 'balanced'"):
            make_task(Target("t", "binary", 5, ("no", "yes")), self.labels, class_weights="balancd")
        for kind in ("regression", "count"):
            with pytest.raises(UserError, match=f"task 't' is a {kind}"):
                make_task(Target("t", kind, 5), self.labels, focal=2.0)
