"""The wrappers: what each changes, exactly, and that they pass everything else on."""

import pytest
import torch
from torch import nn

from polytask import (
    FAMO,
    MGDA,
    AveragedGramian,
    Clipped,
    Equal,
    GradDrop,
    LogGramian,
    Manual,
    NormalisedLosses,
    PCGrad,
    RefreshEvery,
    UncertaintyWeighting,
    UserError,
)
from polytask.balance import DTP, CAGrad, GradVac, InitialLoss, NashMTL, UPGrad
from polytask.balance.averaged import nearest_gramian
from polytask.balance.wrapper import Wrapper

TASKS = ("a", "b", "c")


class Net(nn.Module):
    """A layer that all share, one that "a" and "b" share, and heads."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(7)
        self.encoder, self.branch = nn.Linear(4, 6), nn.Linear(6, 6)
        self.heads = nn.ModuleDict({n: nn.Linear(6, 1) for n in TASKS})
        self.double()

    def losses(self, x, names=TASKS, scales=(1.0, 1.0, 1.0)):
        self.features = self.encoder(x).tanh()
        both = self.branch(self.features).tanh()
        found = {}
        for name in names:
            out = self.heads[name](self.features if name == "c" else both)
            found[name] = scales[TASKS.index(name)] * (out - ord(name) / 98).square().mean()
        return found


def batches(count, rows=8):
    torch.manual_seed(11)
    return [torch.randn(rows, 4, dtype=torch.float64) for _ in range(count)]


def grads(net):
    return [p.grad.clone() for p in net.parameters()]


def train(balancer, data, names=None, scales=(1.0, 1.0, 1.0), lr=0.1, at=False):
    """Parameters after SGD, and the steps."""
    net, steps = Net(), []
    optimizer = torch.optim.SGD([*net.parameters(), *balancer.parameters()], lr=lr)
    for number, x in enumerate(data):
        optimizer.zero_grad()
        losses = net.losses(x, names[number] if names else TASKS, scales)
        steps.append(balancer.backward(losses, at=net.features if at else None))
        optimizer.step()
    return net, steps


def close(left, right, **options):
    for a, b in zip(left.parameters(), right.parameters(), strict=True):
        torch.testing.assert_close(a, b, **options)


class TestNormalised:
    def test_around_equal_it_is_initial_loss(self):
        data = batches(4)
        close(train(NormalisedLosses(Equal(), TASKS), data)[0], train(InitialLoss(TASKS), data)[0])

    def test_methods_that_look_at_the_losses_see_the_divided_ones(self):
        class Sees(MGDA):
            def weigh(self, gram, losses, rows):
                self.seen = losses
                return super().weigh(gram, losses, rows)

        inner = Sees()
        x = torch.ones(2, requires_grad=True)
        NormalisedLosses(inner, TASKS).backward({"a": 4 * x.sum(), "b": x[0]})
        assert inner.seen.tolist() == [1.0, 1.0]

    @pytest.mark.parametrize("inner", [PCGrad, MGDA, UPGrad, lambda: GradVac(TASKS), GradDrop, lambda: DTP(TASKS)])
    def test_the_unit_of_a_loss_changes_nothing(self, inner):
        data = batches(5)
        plain, _ = train(NormalisedLosses(inner(), TASKS), data)
        scaled, _ = train(NormalisedLosses(inner(), TASKS), data, scales=(1e-5, 1.0, 1e4))
        close(plain, scaled, rtol=1e-5, atol=1e-8)

    def test_the_step_speaks_of_the_losses_as_they_came(self):
        x = batches(2)
        balancer, net = NormalisedLosses(MGDA(), TASKS), Net()
        for batch in x:
            net.zero_grad()
            losses = net.losses(batch, scales=(3.0, 1.0, 0.1))
            step = balancer.backward(losses)
        torch.testing.assert_close(step.losses, torch.stack(list(losses.values())).detach().float())
        leaves = [net.encoder.weight, net.encoder.bias, net.branch.weight, net.branch.bias]
        jacobian = []
        for value in net.losses(x[1], scales=(3.0, 1.0, 0.1)).values():
            row = torch.autograd.grad(value, leaves, retain_graph=True, allow_unused=True)
            filled = [torch.zeros_like(p) if g is None else g for g, p in zip(row, leaves, strict=True)]
            jacobian.append(torch.cat([g.flatten() for g in filled]))
        jacobian = torch.stack(jacobian)
        torch.testing.assert_close(step.gram, jacobian @ jacobian.T)
        torch.testing.assert_close((step.weights @ jacobian)[:24], net.encoder.weight.grad.flatten())

    def test_a_task_alone_in_a_step_is_divided_too(self):
        balancer = NormalisedLosses(PCGrad(), TASKS)
        x = torch.ones(1, requires_grad=True)
        step = balancer.backward({"b": 4 * x.sum()})
        assert (step.weights.tolist(), x.grad.tolist()) == ([0.25], [1.0])

    def test_fresh_batches_and_the_second_look_are_divided_too(self):
        class Hears(Equal):
            def _pull(self, asked):
                self.fresh = asked.fresh()
                return super()._pull(asked)

            def after_step(self, losses):
                self.later = losses()

        inner = Hears()
        balancer = NormalisedLosses(inner, TASKS)
        x = torch.ones(1, requires_grad=True)
        balancer.backward({"a": 4 * x.sum(), "b": x.sum()}, fresh=lambda: {"b": 3 * x.sum(), "a": 2 * x.sum()})
        balancer.after_step(lambda: {"a": x.sum(), "b": x.sum()})
        assert {name: float(value.detach()) for name, value in inner.fresh.items()} == {"b": 3.0, "a": 0.5}
        assert {name: float(value.detach()) for name, value in inner.later.items()} == {"a": 0.25, "b": 1.0}

    def test_refusals(self):
        x = torch.ones(1, requires_grad=True)
        with pytest.raises(UserError, match="NormalisedLosses keeps a state per task"):
            NormalisedLosses(PCGrad())
        with pytest.raises(UserError, match="other tasks than the UncertaintyWeighting inside"):
            NormalisedLosses(UncertaintyWeighting(["a"]), TASKS)
        with pytest.raises(UserError, match=r"task 'b': initial-loss normalisation divides .* one is 0"):
            NormalisedLosses(PCGrad(), TASKS).backward({"a": x.sum(), "b": 0 * x.sum()})


class TestClipped:
    def shared(self, net):
        return torch.cat([p.grad.flatten() for m in (net.encoder, net.branch) for p in m.parameters()])

    @pytest.mark.parametrize("inner", [Equal, PCGrad, GradDrop, NashMTL])
    def test_the_direction_stays_and_the_heads_stay(self, inner):
        x = batches(1)[0]
        plain, clipped = Net(), Net()
        inner().backward(plain.losses(x))
        Clipped(inner(), 0.01).backward(clipped.losses(x))
        norm = self.shared(plain).norm()
        assert norm > 0.01
        torch.testing.assert_close(self.shared(clipped), self.shared(plain) * 0.01 / norm)
        for name in TASKS:
            assert torch.equal(clipped.heads[name].weight.grad, plain.heads[name].weight.grad)

    def test_a_short_gradient_is_left_alone(self):
        x = batches(1)[0]
        plain, clipped = Net(), Net()
        MGDA().backward(plain.losses(x))
        Clipped(MGDA(), 100.0).backward(clipped.losses(x))
        assert all(torch.equal(a, b) for a, b in zip(grads(plain), grads(clipped), strict=True))

    def test_nash_with_norm_one_is_always_a_unit_vector(self):
        """||d||² = T, so that the reference code's clip always cuts."""
        x = torch.randn(3, 5, dtype=torch.float64)
        leaf = torch.zeros(5, dtype=torch.float64, requires_grad=True)
        Clipped(NashMTL()).backward({n: row @ leaf + 1 for n, row in zip(TASKS, x, strict=True)})
        assert leaf.grad.norm().item() == pytest.approx(1.0)

    def test_what_was_accumulated_before_is_not_clipped(self):
        x = torch.zeros(2, requires_grad=True)
        x.grad = torch.tensor([10.0, 0.0])
        Clipped(Equal(), 1.0).backward({"a": 3 * x[0], "b": 4 * x[1]})
        assert x.grad.tolist() == pytest.approx([10.6, 0.8])

    def test_a_skipped_or_refused_step_gives_back_what_was_there(self):
        x = torch.zeros(2, requires_grad=True)
        x.grad = torch.tensor([10.0, 0.0])
        with pytest.warns(RuntimeWarning, match="skipped"):
            assert Clipped(MGDA()).backward({"a": x.sum(), "b": x.sqrt().sum()}).skipped
        assert x.grad.tolist() == [10.0, 0.0]
        with pytest.raises(UserError, match="task 'b'"):
            Clipped(UncertaintyWeighting(TASKS)).backward({"a": x.sum(), "b": x.sum() - 1})
        assert x.grad.tolist() == [10.0, 0.0]

    def test_under_a_scaler_and_with_sparse_gradients(self):
        table = nn.Embedding(5, 2, sparse=True)
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
        rows = table(torch.tensor([1, 1, 3]))
        Clipped(Equal(), 1.0).backward({"a": rows[:2].sum(), "b": 2 * rows.sum()}, scaler=scaler)
        assert table.weight.grad.is_sparse
        assert table.weight.grad.to_dense().norm().item() == pytest.approx(2.0**10)

    def test_an_infinite_gradient_is_left_to_whoever_steps(self):
        x = torch.zeros(2, requires_grad=True)
        Clipped(Equal()).backward({"a": x.sum(), "b": x[:1].sqrt().sum()})
        assert x.grad.tolist() == [float("inf"), 1.0]

    def test_a_gradient_of_zero(self):
        x = torch.zeros(2, requires_grad=True)
        Clipped(Equal()).backward({"a": x.sum(), "b": -x.sum()})
        assert x.grad.tolist() == [0.0, 0.0]

    @pytest.mark.parametrize("norm", [0.0, -1.0, float("inf"), float("nan")])
    def test_norms_that_make_no_sense(self, norm):
        with pytest.raises(UserError, match="max_norm"):
            Clipped(Equal(), norm)


class TestRefresh:
    def test_every_step_is_the_balancer_itself(self):
        data = batches(4)
        close(train(RefreshEvery(UPGrad(), 1, TASKS), data)[0], train(UPGrad(), data)[0], rtol=0, atol=0)

    @pytest.mark.parametrize("at", [False, True])
    def test_between_measurements_the_kept_weights_combine_what_each_set_shares(self, at):
        """On the same batch and parameters the second step is the first one again, in every parameter."""
        x, net = batches(1)[0], Net()
        balancer = RefreshEvery(MGDA(), 2, TASKS)
        found, steps = [], []
        for _ in range(2):
            net.zero_grad()
            losses = net.losses(x)
            steps.append(balancer.backward(losses, at=net.features if at else None))
            found.append(grads(net))
        assert [step.gram is not None for step in steps] == [True, False]
        torch.testing.assert_close(steps[0].weights, steps[1].weights)
        for a, b in zip(*found, strict=True):
            torch.testing.assert_close(a, b)

    @pytest.mark.parametrize("scaled", [False, True])
    def test_one_backward_where_all_share_the_same(self, scaled):
        """Weighted where the tasks enter the shared part, plain before; at two places and at a leaf itself."""
        torch.manual_seed(0)
        trunk, shift = nn.Linear(4, 5), nn.Parameter(torch.randn(5))
        heads = nn.ModuleDict({n: nn.Linear(5, 1) for n in TASKS})
        leaves = [*trunk.parameters(), shift, *heads.parameters()]
        balancer, x, found = RefreshEvery(MGDA(), 2, TASKS), torch.randn(8, 4), []
        for _ in range(2):
            for leaf in leaves:
                leaf.grad = None
            features = trunk(x).tanh()
            losses = {n: (heads[n](features * shift) + features.sum(1, keepdim=True) * i).square().mean() + shift.sum()
                      for i, n in enumerate(TASKS)}  # fmt: skip
            step = balancer.backward(losses, scaler=torch.amp.GradScaler("cpu", init_scale=64.0) if scaled else None)
            found.append([leaf.grad.clone() for leaf in leaves])
        assert step.gram is None
        for a, b in zip(*found, strict=True):
            torch.testing.assert_close(a, b)

    def test_the_weights_between_are_those_of_the_last_measurement(self):
        data = batches(7)
        _, steps = train(RefreshEvery(MGDA(), 3, TASKS), data)
        assert [step.gram is not None for step in steps] == [True, False, False, True, False, False, True]
        assert torch.equal(steps[1].weights, steps[0].weights)
        assert torch.equal(steps[5].weights, steps[3].weights)
        assert not torch.equal(steps[3].weights, steps[0].weights)

    def test_a_set_of_tasks_that_is_met_for_the_first_time_is_measured(self):
        names = ["abc", "ca", "abc", "ca", "bc", "abc", "ac"]
        _, steps = train(RefreshEvery(MGDA(), 4, TASKS), batches(7), names)
        # "abc" at 0 and, four steps later, at 5; "ca" at 1 and 6; "bc" at 4
        assert [step.gram is not None for step in steps] == [True, True, False, False, True, True, True]
        order = [0, 1] if steps[1].tasks == steps[3].tasks else [1, 0]
        assert torch.equal(steps[1].weights, steps[3].weights[order])

    def test_old_weights_are_not_used(self):
        names = ["abc", "ac", "ac", "ac", "abc"]
        _, steps = train(RefreshEvery(MGDA(), 3, TASKS), batches(5), names)
        assert [step.gram is not None for step in steps] == [True, True, False, False, True]

    def test_it_costs_no_pass_per_task(self):
        """Between measurements the shared part is walked once for each set of tasks."""
        calls = []
        net, x = Net(), batches(1)[0]
        balancer = RefreshEvery(MGDA(), 2, TASKS)
        for _ in range(2):
            losses = net.losses(x)
            net.features.register_hook(lambda gradient: calls.append(len(calls)))
            calls.clear()
            balancer.backward(losses)
        assert len(calls) == 1

    @pytest.mark.parametrize("cut", [1, 2, 4])
    def test_the_memory_survives_a_round_trip(self, cut):
        data, names = batches(6), ["abc", "ac", "abc", "cba", "ac", "abc"]
        whole, first = RefreshEvery(GradVac(TASKS), 3), RefreshEvery(GradVac(TASKS), 3)
        expected = train(whole, data, names, lr=0.0)[1]
        train(first, data[:cut], names[:cut], lr=0.0)
        resumed = RefreshEvery(GradVac(TASKS), 3)
        resumed.load_state_dict(first.state_dict())
        found = train(resumed, data[cut:], names[cut:], lr=0.0)[1]
        for a, b in zip(expected[cut:], found, strict=True):
            assert torch.equal(a.weights, b.weights)
            assert (a.gram is None) == (b.gram is None)

    def test_tasks_that_share_nothing(self):
        x, y = torch.ones(1, requires_grad=True), torch.ones(1, requires_grad=True)
        balancer = RefreshEvery(MGDA(), 2, TASKS)
        for _ in range(2):
            step = balancer.backward({"a": 2 * x.sum(), "b": y.sum()})
        assert step.weights.isnan().all()
        assert (x.grad.item(), y.grad.item()) == (4.0, 2.0)

    @pytest.mark.parametrize("kind", [RefreshEvery, AveragedGramian])
    def test_refusals(self, kind):
        for inner in (Equal(), GradDrop(), NormalisedLosses(MGDA(), TASKS)):
            with pytest.raises(UserError, match=f"{type(inner).__name__} does not"):
                kind(inner, tasks=TASKS)
        with pytest.raises(UserError, match="RefreshEvery does more"):
            kind(RefreshEvery(MGDA(), 2, TASKS))
        with pytest.raises(UserError, match="keeps a state per task"):
            kind(MGDA())
        with pytest.raises(UserError, match=r"every must|decay must"):
            kind(MGDA(), -1, TASKS)


class TestAveraged:
    def test_no_decay_is_the_balancer_itself(self):
        data = batches(4)
        close(train(AveragedGramian(UPGrad(), 0.0, TASKS), data)[0], train(UPGrad(), data)[0], rtol=1e-12, atol=0)

    def test_it_weighs_by_the_average(self):
        seen = []

        class Sees(MGDA):
            def weigh(self, gram, losses, rows):
                seen.append(gram.clone())
                return super().weigh(gram, losses, rows)

        balancer = AveragedGramian(Sees(), 0.8, TASKS)
        grams = [torch.randn(3, 5, dtype=torch.float64) for _ in range(3)]
        grams = [j @ j.T for j in grams]
        for gram in grams:
            balancer.weigh(gram, torch.ones(3), torch.arange(3))
        torch.testing.assert_close(seen[0], grams[0])
        torch.testing.assert_close(seen[2], 0.64 * grams[0] + 0.16 * grams[1] + 0.2 * grams[2])

    def test_names_and_absent_pairs(self):
        balancer = AveragedGramian(CAGrad(), 0.5, TASKS)
        first = torch.diag(torch.tensor([4.0, 2.0, 1.0], dtype=torch.float64))
        balancer.weigh(first, torch.ones(3), torch.arange(3))
        later = torch.tensor([[3.0, 0.5], [0.5, 8.0]], dtype=torch.float64)  # "c" and "a"
        balancer.weigh(later, torch.ones(2), torch.tensor([2, 0]))
        expected = [[6.0, 0.0, 0.25], [0.0, 2.0, 0.0], [0.25, 0.0, 2.0]]
        assert balancer.averages[()].tolist() == expected

    def test_what_some_tasks_share_has_an_average_of_its_own(self):
        data = batches(3)
        balancer = AveragedGramian(MGDA(), 0.5, TASKS)
        train(balancer, data, lr=0.0)
        assert set(balancer.averages) == {(), (0, 1)}
        net = Net()
        for key, leaves in (((), list(net.encoder.parameters())), ((0, 1), list(net.branch.parameters()))):
            grams = []
            for x in data:
                rows = [torch.autograd.grad(v, leaves, retain_graph=True, allow_unused=True)
                        for v in net.losses(x).values()][: 3 if key == () else 2]  # fmt: skip
                jacobian = torch.stack([torch.cat([g.flatten() for g in row]) for row in rows])
                grams.append(jacobian @ jacobian.T)
            expected = 0.25 * grams[0] + 0.25 * grams[1] + 0.5 * grams[2]
            torch.testing.assert_close(balancer.averages[key][: len(expected), : len(expected)], expected)

    def test_pairs_of_different_ages_still_make_a_gramian(self):
        balancer = AveragedGramian(UPGrad(), 0.5, TASKS)
        balancer.weigh(torch.ones(3, 3, dtype=torch.float64), torch.ones(3), torch.arange(3))
        for _ in range(40):  # "a" and "b" shrink; their products with "c" do not
            balancer.weigh(1e-6 * torch.ones(2, 2, dtype=torch.float64), torch.ones(2), torch.arange(2))
        assert torch.linalg.eigvalsh(balancer.averages[()])[0] < -0.1
        seen = []
        balancer.balancer.weigh = lambda gram, losses, rows: seen.append(gram) or torch.ones(3)
        balancer.weigh(torch.ones(3, 3, dtype=torch.float64), torch.ones(3), torch.arange(3))
        assert torch.linalg.eigvalsh(seen[0])[0] > -1e-9

    def test_the_nearest_gramian(self):
        fine = torch.tensor([[2.0, 1.0], [1.0, 0.5]], dtype=torch.float64)
        assert nearest_gramian(fine) is fine
        cut = nearest_gramian(torch.tensor([[0.0, 1.0], [1.0, 0.0]], dtype=torch.float64))
        torch.testing.assert_close(cut, torch.full((2, 2), 0.5, dtype=torch.float64))

    def test_the_memory_survives_a_round_trip(self):
        data, names = batches(6), ["abc", "ac", "abc", "cba", "ac", "abc"]
        whole, first = (AveragedGramian(MGDA(), 0.9, TASKS) for _ in range(2))
        expected = train(whole, data, names, lr=0.0)[1]
        train(first, data[:3], names[:3], lr=0.0)
        resumed = AveragedGramian(MGDA(), 0.9, TASKS)
        resumed.load_state_dict(first.state_dict())
        found = train(resumed, data[3:], names[3:], lr=0.0)[1]
        assert all(torch.equal(a.weights, b.weights) for a, b in zip(expected[3:], found, strict=True))
        assert set(resumed.averages) == set(whole.averages) == {(), (0, 1)}
        for key, average in whole.averages.items():
            torch.testing.assert_close(resumed.averages[key], average, rtol=0, atol=0, equal_nan=True)

    def test_inside_another_wrapper_it_hears_how_many_tasks_there_are(self):
        inner = AveragedGramian(MGDA(), 0.5, TASKS)
        train(RefreshEvery(inner, 1), batches(1))
        assert set(inner.averages) == {(), (0, 1)}


class Listener(Equal):
    """Writes down what reaches it."""

    looks_again = True

    def __init__(self):
        super().__init__()
        self.heard = []

    def attach(self, parameters):
        self.heard.append(("attach", list(parameters)))

    def after_step(self, losses):
        self.heard.append(("after_step", sorted(losses())))

    def observe(self, scores):
        self.heard.append(("observe", dict(scores)))


AROUND = {
    "normalised": lambda inner: NormalisedLosses(inner, TASKS),
    "clipped": Clipped,
    "logged": LogGramian,
    "all": lambda inner: LogGramian(Clipped(NormalisedLosses(inner, TASKS))),
}


@pytest.mark.parametrize("name", AROUND)
def test_everything_is_passed_on(name):
    inner = Listener()
    balancer = AROUND[name](inner)
    x = torch.ones(1, requires_grad=True)
    balancer.attach([x])
    balancer.backward({"a": x.sum(), "b": 2 * x.sum()})
    balancer.after_step(lambda: {"a": x.detach().sum(), "b": x.detach().sum()})
    balancer.observe({"a": 0.5})
    assert inner.heard == [("attach", [x]), ("after_step", ["a", "b"]), ("observe", {"a": 0.5})]
    assert balancer.looks_again


def test_gram_wrappers_pass_everything_on_too():
    class Hears(MGDA):
        heard = ()

        def attach(self, parameters):
            self.heard += ("attach",)

        def observe(self, scores):
            self.heard += ("observe",)

        def after_step(self, losses):
            self.heard += ("after_step",)

    inner = Hears()
    balancer = RefreshEvery(AveragedGramian(inner, tasks=TASKS), 2)
    balancer.attach([])
    balancer.observe({})
    balancer.after_step(dict)
    assert inner.heard == ("attach", "observe", "after_step")
    assert isinstance(balancer, Wrapper)


def test_parameters_of_the_inside_are_found():
    assert len(list(Clipped(LogGramian(UncertaintyWeighting(TASKS))).parameters())) == 1
    assert not FAMO(TASKS).looks_again or LogGramian(FAMO(TASKS)).looks_again
    assert not LogGramian(Manual({"a": 1.0})).looks_again
