"""GradNorm: the published rule by its oracle, its fixed point, where it measures, and what it leaves alone."""

import pytest
import torch
from torch import nn

from polytask import Grouped, HardSharing, UserError
from polytask.balance import GradNorm
from polytask.balance.gradnorm import last_shared_layer

TASKS = ("a", "b")


def started(balancer, initial=(2.0, 4.0)):
    """As after first steps with these losses."""
    balancer.double()
    balancer.initial.copy_(torch.tensor(initial))
    balancer.count.fill_(float(balancer.first))
    return balancer


def linear_losses(norms=(3.0, 1.0), now=(1.0, 3.0)):
    """Losses with gradients of these norms at one shared vector."""
    x = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    return x, {name: norms[i] * x[i] + now[i] for i, name in enumerate(TASKS)}


def settle(balancer, norms, left, steps):
    """So many steps of the weights under norms and losses that stay."""
    for _ in range(steps):
        balancer._move(torch.tensor(norms), torch.tensor(left), torch.arange(2))


class TestRule:
    def test_one_step_of_the_paper(self):
        balancer = started(GradNorm(TASKS, form="plain", optimizer="sgd"))
        x, losses = linear_losses()
        step = balancer.backward(losses)
        assert step.weights.tolist() == [1.0, 1.0]  # the step is taken with the weights as they were
        assert x.grad.tolist() == [3.0, 1.0]
        assert balancer.weights.tolist() == pytest.approx([0.9487179487179488, 1.0512820512820513], rel=1e-9)

    def test_the_slope_is_that_of_the_stated_loss(self):
        """Against autograd on sum |w n - target| with constant targets, in both forms."""
        norms = torch.tensor([3.0, 1.0, 0.4], dtype=torch.float64)
        left = torch.tensor([0.5, 0.75, 1.5], dtype=torch.float64)
        for form in ("plain", "log"):
            balancer = GradNorm(("a", "b", "c"), form=form, optimizer="sgd", lr=1e-3).double()
            balancer.weights.copy_(torch.tensor([0.5, 0.8, 1.7]))
            free = balancer.weights.clone() if form == "plain" else balancer.weights.log()
            free.requires_grad_()
            lengths = (free if form == "plain" else free.exp()) * norms
            target = (lengths.mean() * (left / left.mean()) ** 1.5).detach()
            (lengths - target).abs().sum().backward()
            moved = (free - 1e-3 * free.grad).detach()
            moved = moved if form == "plain" else moved.exp()
            balancer._move(norms, left, torch.arange(3))
            torch.testing.assert_close(balancer.weights, 3 * moved / moved.sum())

    @pytest.mark.parametrize("form", ["plain", "log"])
    @pytest.mark.parametrize("optimizer", ["adam", "sgd"])
    def test_fixed_point(self, form, optimizer):
        """w ~ r^alpha / n: exact for alpha = 1. Otherwise the targets do not add up to the norms, and it is a band."""
        for alpha, golden, width in [(1.0, [0.3636363636363636, 1.6363636363636365], 0.02),
                                     (1.5, [0.307155875490189, 1.692844124509811], 0.04)]:  # fmt: skip
            balancer = GradNorm(TASKS, alpha=alpha, form=form, optimizer=optimizer, lr=2e-3)
            settle(balancer, (3.0, 1.0), (0.5, 0.75), 1000)
            assert balancer.weights.tolist() == pytest.approx(golden, rel=width)

    def test_the_slower_task_gains_weight(self):
        balancer = started(GradNorm(TASKS))
        for _ in range(10):
            balancer.backward(linear_losses(norms=(1.0, 1.0))[1])
        assert balancer.weights[1] > 1 > balancer.weights[0]

    def test_alpha_of_zero_makes_the_norms_equal(self):
        balancer = GradNorm(TASKS, alpha=0.0, lr=2e-3)
        settle(balancer, (3.0, 1.0), (0.5, 0.75), 1000)
        assert (balancer.weights * torch.tensor([3.0, 1.0])).tolist() == pytest.approx([1.5, 1.5], rel=0.01)

    def test_the_log_form_reaches_small_weights_and_the_plain_one_does_not(self):
        """At the paper's lr: within 15 % of 4e-4 for ever, or bouncing over several times that."""
        found = {}
        for form in ("log", "plain"):
            balancer = GradNorm(TASKS, alpha=0.0, form=form)
            settle(balancer, (5000.0, 1.0), (1.0, 1.0), 1000)
            found[form] = []
            for _ in range(50):
                settle(balancer, (5000.0, 1.0), (1.0, 1.0), 1)
                found[form].append(float(balancer.weights[0]) / 4e-4)
            assert (balancer.weights > 0).all()
            assert float(balancer.weights.sum()) == pytest.approx(2.0)
        assert max(abs(ratio - 1) for ratio in found["log"]) < 0.15
        assert max(abs(ratio - 1) for ratio in found["plain"]) > 0.9

    def test_first_losses(self):
        balancer = GradNorm(TASKS, first=2)
        for losses in ((2.0, 8.0), (4.0, 4.0), (100.0, 100.0)):
            balancer.backward(linear_losses(now=losses)[1])
        assert balancer.initial.tolist() == [3.0, 6.0]


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(5)
        self.first, self.last, self.norm = nn.Linear(4, 6), nn.Linear(6, 6), nn.LayerNorm(6)
        self.heads = nn.ModuleDict({n: nn.Linear(6, 1) for n in TASKS})

    def losses(self, x):
        before = self.first(x).tanh()
        self.features = before + self.norm(self.last(before).relu())  # a shortcut around the last layer
        return {n: (self.heads[n](self.features) - i - 1).square().mean() for i, n in enumerate(TASKS)}


def norms_at(net, x, places):
    losses = net.losses(x)
    found = [torch.autograd.grad(v, places(net), retain_graph=True) for v in losses.values()]
    return torch.stack([torch.cat([g.flatten() for g in gradients]).norm() for gradients in found])


class TestWhere:
    x = torch.randn(8, 4, generator=torch.Generator().manual_seed(0))

    @pytest.mark.parametrize(("layer", "places"), [
        (lambda net: None, lambda net: [net.last.weight]),
        (lambda net: net.first, lambda net: [net.first.weight, net.first.bias]),
        (lambda net: net.first.weight, lambda net: [net.first.weight]),
        (lambda net: net.norm.parameters(), lambda net: [net.norm.weight, net.norm.bias]),
    ])  # fmt: skip
    def test_layers(self, layer, places):
        net = Net()
        step = GradNorm(TASKS, layer=layer(net)).backward(net.losses(self.x))
        torch.testing.assert_close(step.gram.diagonal().sqrt().float(), norms_at(net, self.x, places))

    def test_at_the_representation(self):
        net = Net()
        losses = net.losses(self.x)
        step = GradNorm(TASKS, layer=net.first).backward(losses, at=net.features)
        torch.testing.assert_close(
            step.gram.diagonal().sqrt().float(), norms_at(net, self.x, lambda net: [net.features])
        )

    def test_the_layer_is_the_models(self):
        net = Net()
        balancer = GradNorm(TASKS, layer=net.last)
        assert not list(balancer.parameters())
        assert not any("layer" in name for name in balancer.state_dict())

    def test_the_models_gradients_are_those_of_the_weighted_losses(self):
        """Nothing of the weights' own loss leaks into them, and heads are weighted too."""
        net, other = Net(), Net()
        balancer = GradNorm(TASKS)
        balancer.weights.copy_(torch.tensor([0.3, 1.7]))
        balancer.backward(net.losses(self.x))
        losses = other.losses(self.x)
        (0.3 * losses["a"] + 1.7 * losses["b"]).backward()
        for found, expected in zip(net.parameters(), other.parameters(), strict=True):
            torch.testing.assert_close(found.grad, expected.grad)

    def test_groups_that_share_nothing_with_the_others(self):
        torch.manual_seed(0)
        names = ("a", "b", "c", "d", "e")
        trunk = Grouped([("a", "b", "c"), ("d", "e")], [HardSharing(nn.Linear(4, 3)) for _ in range(2)])
        balancer = GradNorm(names)
        balancer.weights.copy_(torch.tensor([1.0, 1.0, 1.0, 0.7, 1.3]))
        features = trunk(torch.randn(8, 4), names)
        balancer.backward({n: (i + 1) * features[n].square().mean() for i, n in enumerate(names)})
        assert balancer.weights[3:].tolist() == pytest.approx([0.7, 1.3])
        assert float(balancer.weights[:3].sum()) == pytest.approx(3.0)
        assert (balancer.weights[:3] != 1).all()

    def test_tasks_that_share_nothing(self):
        x, y = torch.ones(2, requires_grad=True), torch.ones(2, requires_grad=True)
        balancer = GradNorm(TASKS)
        step = balancer.backward({"a": 2 * x.sum(), "b": y.sum()})
        assert step.gram is None
        assert balancer.weights.tolist() == [1.0, 1.0]
        assert x.grad.tolist() == [2.0, 2.0]

    def test_a_matrix_is_preferred_and_a_vector_is_taken_where_there_is_none(self):
        x = torch.ones(3, requires_grad=True)
        matrix, vector = torch.ones(3, 3, requires_grad=True), torch.ones(3, requires_grad=True)
        out = (matrix @ x) * vector
        assert last_shared_layer([out.sum(), out.square().sum()])[0] is matrix
        out = (x * 2).exp() * vector
        assert last_shared_layer([out.sum(), out.square().sum()])[0] is vector


class TestAbsent:
    def test_an_absent_task_keeps_its_weight_and_the_others_their_sum(self):
        balancer = GradNorm(("a", "b", "c"))
        balancer.weights.copy_(torch.tensor([0.5, 1.9, 0.6]))
        x = torch.zeros(2, requires_grad=True)
        balancer.backward({"c": 3 * x[0] + 1, "a": x[1] + 1})
        assert float(balancer.weights[1]) == pytest.approx(1.9)
        assert float(balancer.weights[0] + balancer.weights[2]) == pytest.approx(1.1)
        assert balancer.weights[2] < 0.6

    def test_alone_in_a_step(self):
        balancer = GradNorm(TASKS)
        balancer.weights.copy_(torch.tensor([0.5, 1.5]))
        x = torch.zeros(2, requires_grad=True)
        step = balancer.backward({"b": 3 * x[0] + 2})
        assert step.weights.tolist() == [1.5]
        assert x.grad.tolist() == [4.5, 0.0]
        assert balancer.weights.tolist() == [0.5, 1.5]
        assert balancer.initial.tolist() == [0.0, 2.0]


class TestRefusals:
    def test_losses(self):
        x = torch.zeros(2, requires_grad=True)
        with pytest.raises(UserError, match=r"task 'b': GradNorm divides by the losses, and one is 0"):
            GradNorm(TASKS).backward({"a": x[0] + 1, "b": x[1]})
        balancer = GradNorm(TASKS)
        balancer.backward(linear_losses()[1])
        with pytest.raises(UserError, match=r"task 'a': GradNorm needs losses of at least 0, and one is -1"):
            balancer.backward(linear_losses(now=(-1.0, 1.0))[1])
        balancer.backward(linear_losses(now=(0.0, 0.0))[1])  # 0 later on is a rate like any other
        assert torch.isfinite(balancer.weights).all()

    def test_a_layer_that_no_loss_reaches(self):
        with pytest.raises(UserError, match="no loss of this step reaches the layer"):
            GradNorm(TASKS, layer=nn.Linear(2, 2)).backward(linear_losses()[1])

    def test_a_gradient_that_is_not_finite(self):
        x = torch.zeros(2, requires_grad=True)
        balancer = GradNorm(TASKS)
        with pytest.warns(RuntimeWarning, match="gradient of task 'b' is not finite"):
            step = balancer.backward({"a": x.sum() + 1, "b": x.sqrt().sum() + 1})
        assert step.skipped
        assert x.grad is None
        assert balancer.weights.tolist() == [1.0, 1.0]

    @pytest.mark.parametrize("options", [
        {"alpha": -1.0}, {"lr": 0.0}, {"form": "softmax"}, {"optimizer": "lion"}, {"first": 0}, {"layer": []},
    ])  # fmt: skip
    def test_options_that_make_no_sense(self, options):
        with pytest.raises(UserError, match=r"must be|has no parameter"):
            GradNorm(TASKS, **options)


@pytest.mark.parametrize("cut", [1, 4])
def test_the_memory_survives_a_round_trip(cut):
    def losses(number):
        return linear_losses(norms=(1.0 + number, 2.0), now=(1.0, 1.0 / (number + 1)))[1]

    whole, other, resumed = (GradNorm(TASKS, first=2) for _ in range(3))
    for number in range(8):
        whole.backward(losses(number))
    for number in range(cut):
        other.backward(losses(number))
    resumed.load_state_dict(other.state_dict())
    for number in range(cut, 8):
        resumed.backward(losses(number))
    assert all(
        torch.equal(a, b) for a, b in zip(whole.state_dict().values(), resumed.state_dict().values(), strict=True)
    )


def test_fp16_scale_does_not_matter():
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**12)
    plain, scaled = GradNorm(TASKS), GradNorm(TASKS)
    (x, first), (y, second) = linear_losses(), linear_losses()
    step = plain.backward(first)
    again = scaled.backward(second, scaler=scaler)
    torch.testing.assert_close(step.gram, again.gram)
    assert torch.equal(plain.weights, scaled.weights)
    torch.testing.assert_close(y.grad, 2.0**12 * x.grad)
