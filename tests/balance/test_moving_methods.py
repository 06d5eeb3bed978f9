"""DB-MTL, MoCo, MoDo, stochastic SDMGrad, ExcessMTL, M-ConFIG: hand computations, limits, state, absent tasks."""

import copy
import math

import numpy as np
import pytest
import torch
from matrices import MATRICES
from torch import nn

from polytask import MGDA, UserError
from polytask.balance import DBMTL, ConFIG, ExcessMTL, MoCo, MoDo, MomentumConFIG, SDMGrad, StochasticSDMGrad
from polytask.balance.moco import follow
from polytask.balance.solvers import project_on_simplex

A = torch.tensor(MATRICES["A"], dtype=torch.float64)
ALL = [DBMTL, MoCo, MoDo, StochasticSDMGrad, ExcessMTL, MomentumConFIG]
KEEPING = [DBMTL, MoCo, ExcessMTL, MomentumConFIG]


def parameter(size, dtype=torch.float64):
    return nn.Parameter(torch.zeros(size, dtype=dtype))


def step(balancer, x, jac, names="ab", losses=None, fresh=None):
    """The direction at the rows of `jac`, with losses of 1."""
    offsets = losses or [1.0] * len(jac)
    x.grad = None

    def closure(rows=jac):
        return {n: row @ x + c for n, row, c in zip(names, rows, offsets, strict=True)}

    found = balancer.backward(closure(), fresh=fresh or closure)
    return x.grad, found


def attached(balancer, *parameters):
    balancer.attach(parameters)
    return balancer


class TestDBMTL:
    def test_golden_value(self):
        """[db_mtl] of the oracles: log-gradients of norms 2.12 and 1.54, both made 2.12 long."""
        x = parameter(3)
        d, found = step(attached(DBMTL(["a", "b"], beta=0.0), x), x, A, losses=[2.0, 4.0])
        expected = torch.tensor([0.06474160483505598, 0.8441236008058426, 0.8441236008058426], dtype=torch.float64)
        torch.testing.assert_close(d, expected, rtol=1e-12, atol=0)
        torch.testing.assert_close(found.gram, A @ A.T)  # of the losses, not of their logarithms
        assert found.losses.tolist() == [2.0, 4.0]

    def test_without_memory_it_is_the_sum_of_unit_gradients_times_the_longest(self):
        jac, losses = torch.randn(4, 9, dtype=torch.float64), [0.1, 1.0, 3.0, 40.0]
        x = parameter(9)
        d, _ = step(attached(DBMTL(list("abcd"), beta=0.0), x), x, jac, "abcd", losses)
        logs = jac / torch.tensor(losses, dtype=torch.float64)[:, None]
        norms = logs.norm(dim=1, keepdim=True)
        torch.testing.assert_close(d, norms.max() * (logs / norms).sum(0), rtol=1e-12, atol=0)

    @pytest.mark.parametrize("decay", [0.0, 0.5])
    def test_the_average(self, decay):
        x, balancer = parameter(3), DBMTL(["a", "b"], beta=0.9, decay=decay)
        balancer.attach([x])
        h = torch.zeros(2, 3, dtype=torch.float64)
        for number in range(1, 5):
            jac = torch.randn(2, 3, dtype=torch.float64)
            d, _ = step(balancer, x, jac, losses=[2.0, 4.0])
            share = 0.9 / number**decay
            h = share * h + (1 - share) * jac / torch.tensor([[2.0], [4.0]])
            norms = h.norm(dim=1, keepdim=True)
            torch.testing.assert_close(d, norms.max() * (h / norms).sum(0), rtol=1e-12, atol=0)

    def test_heads_get_the_gradient_of_the_logarithm(self):
        x, head = parameter(2), nn.Parameter(torch.ones((), dtype=torch.float64))
        balancer = attached(DBMTL(["a", "b"]), x, head)
        balancer.backward({"a": (x[0] + 4) * head, "b": x.sum() + 1})
        assert head.grad.item() == pytest.approx(1.0)  # d log(4 h) / d h

    def test_needs_positive_losses(self):
        x = parameter(3)
        with pytest.raises(UserError, match="task 'b': DB-MTL divides by the losses"):
            step(attached(DBMTL(["a", "b"]), x), x, A, losses=[1.0, -1.0])


class TestMoCo:
    def test_two_steps_by_hand(self):
        x, balancer = parameter(3), MoCo(["a", "b"], beta=0.5, gamma=0.01, rho=0.1, decay=0.5)
        balancer.attach([x])
        y, w = np.zeros((2, 3)), np.full(2, 0.5)
        for number in (1, 2):
            jac = A.numpy() * number
            d, found = step(balancer, x, torch.from_numpy(jac))
            y = y - 0.5 / number**0.5 * (y - jac)
            w = project_on_simplex(w - 0.01 / number**0.5 * (y @ y.T + 0.1 * np.eye(2)) @ w)
            np.testing.assert_allclose(d, w @ y, rtol=1e-12)
            np.testing.assert_allclose(found.weights, w, rtol=1e-12)

    def test_the_shared_code_softmax_and_lengths(self):
        x, balancer = parameter(3), MoCo(["a", "b"], gamma=0.1, update="softmax", lengths="losses")
        balancer.attach([x])
        d, found = step(balancer, x, A, losses=[2.0, 4.0])
        y = 0.5 * A / A.norm(dim=1, keepdim=True) * torch.tensor([[2.0], [4.0]])
        w = torch.softmax(torch.full((2,), 0.5) - 0.1 * (y @ y.T) @ torch.full((2,), 0.5, dtype=torch.float64), 0)
        torch.testing.assert_close(found.weights, w, rtol=1e-12, atol=0)
        torch.testing.assert_close(d, w @ y, rtol=1e-12, atol=0)

    def test_it_comes_to_mgda_where_the_gradients_stay(self):
        x, balancer = parameter(6), MoCo(list("abcd"), beta=0.5, gamma=0.02, decay=0.0)
        jac = torch.tensor(MATRICES["J"], dtype=torch.float64)
        balancer.attach([x])
        for _ in range(400):
            d, found = step(balancer, x, jac, "abcd")
        weights = MGDA().weigh(jac @ jac.T, torch.ones(4), torch.arange(4))
        torch.testing.assert_close(found.weights, weights, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(d, weights @ jac, rtol=1e-5, atol=1e-5)

    def test_refuses(self):
        for options, text in [({"beta": 0}, "beta"), ({"gamma": -1}, "gamma"), ({"update": "x"}, "update is")]:
            with pytest.raises(UserError, match=text):
                MoCo(["a"], **options)


class TestSimplex:
    def test_weights_stay_on_the_simplex_and_absent_tasks_keep_theirs(self):
        weights = torch.tensor([0.5, 0.2, 0.3], dtype=torch.float64)
        shares = follow(weights, torch.tensor([2, 0]), np.array([[4.0, 1.0], [1.0, 2.0]]), 0.05)
        assert weights[1] == 0.2
        assert weights.sum().item() == pytest.approx(1.0)
        torch.testing.assert_close(shares, weights[[2, 0]] / 0.8)
        before = np.array([0.3, 0.5])
        moved = before - 0.05 * np.array([[4.0, 1.0], [1.0, 2.0]]) @ before
        np.testing.assert_allclose(weights[[2, 0]], moved + (0.8 - moved.sum()) / 2, rtol=1e-12)

    def test_tasks_without_weight_share_equally(self):
        weights = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)
        assert follow(weights, torch.tensor([0, 1]), np.eye(2), 0.1).tolist() == [0.5, 0.5]
        assert weights.tolist() == [0.0, 0.0, 1.0]

    def test_the_projection_is_the_nearest_point(self):
        """KKT: p_i = max(v_i - level, 0) with one level for all, and the sum."""
        rng = np.random.default_rng(0)
        for total in (1.0, 0.3, 5.0):
            for _ in range(50):
                point = rng.normal(size=rng.integers(1, 9)) * 10.0 ** rng.integers(-3, 3)
                found = project_on_simplex(point, total)
                level = (point - found)[found > 0]
                assert found.sum() == pytest.approx(total)
                assert (found >= 0).all()
                np.testing.assert_allclose(level, level[0], rtol=1e-9, atol=1e-9 * (1 + np.abs(point).max()))
                assert (point[found == 0] <= level[0] + 1e-9).all()


class TestIndependentBatches:
    def test_modo_by_hand(self):
        """w follows J1 J2' of the fresh batches, d is on the given one."""
        x, balancer = parameter(3), MoDo(["a", "b"], gamma=0.01, rho=0.1)
        first, second = torch.randn(2, 3, dtype=torch.float64), torch.randn(2, 3, dtype=torch.float64)
        drawn = iter([first, second])

        def fresh():
            return {n: row @ x for n, row in zip("ba", next(drawn).flip(0), strict=True)}  # in another order

        d, found = step(balancer, x, A, fresh=fresh)
        w = np.full(2, 0.5)
        w = project_on_simplex(w - 0.01 * ((first @ second.T).numpy() @ w + 0.1 * w))
        np.testing.assert_allclose(found.weights, w, rtol=1e-12)
        np.testing.assert_allclose(d, w @ A.numpy(), rtol=1e-12)
        torch.testing.assert_close(found.gram, A @ A.T)

    @pytest.mark.parametrize("name", ["A", "D", "J"])
    def test_stochastic_sdmgrad_comes_to_the_deterministic_one_without_noise(self, name):
        jac = torch.tensor(MATRICES[name], dtype=torch.float64)
        x, names = parameter(jac.shape[1]), "abcd"[: len(jac)]
        balancer = StochasticSDMGrad(list(names))
        for _ in range(60):
            d, _ = step(balancer, x, jac, names)
        expected, _ = step(SDMGrad(), x, jac, names)
        torch.testing.assert_close(d, expected, rtol=1e-6, atol=1e-6)

    def test_one_projected_step_by_hand(self):
        balancer = StochasticSDMGrad(["a", "b"], regularisation=0.3, preference={"b": 0.75, "a": 0.25}, iterations=1)
        across = torch.tensor([[2.0, -1.0], [0.5, 1.0]], dtype=torch.float64)
        balancer.follow(across, torch.arange(2))
        size = np.linalg.svd(across.numpy(), compute_uv=False)[0]
        slope = across.numpy() @ (np.array([0.5, 0.5]) + 0.3 * np.array([0.25, 0.75]))
        w = project_on_simplex(np.array([0.5, 0.5]) - slope / size)
        np.testing.assert_allclose(balancer.weights, w, rtol=1e-12)
        chosen = balancer.weigh(across, torch.ones(2), torch.arange(2))
        np.testing.assert_allclose(chosen, (w + 0.3 * np.array([0.25, 0.75])) / 1.3, rtol=1e-12)

    @pytest.mark.parametrize("method", [MoDo, StochasticSDMGrad])
    def test_an_absent_task_keeps_its_weight(self, method):
        x, balancer = parameter(3), method(["a", "b", "c"])
        balancer.weights.copy_(torch.tensor([0.5, 0.2, 0.3]))
        _, found = step(balancer, x, A, "ca")
        assert balancer.weights[1].item() == pytest.approx(0.2, rel=1e-7)
        assert balancer.weights.sum().item() == pytest.approx(1.0)
        assert not torch.allclose(balancer.weights, torch.tensor([0.5, 0.2, 0.3], dtype=torch.float64), rtol=1e-9)
        assert found.weights.sum().item() == pytest.approx(1.0)

    @pytest.mark.parametrize("method", [MoDo, StochasticSDMGrad])
    def test_heads_see_one_batch_only(self, method):
        """LibMTL leaves SDMGrad's heads with the sum of three."""
        x, head = parameter(2), nn.Parameter(torch.ones((), dtype=torch.float64))

        def losses(scale=1.0):
            return {"a": (x[0] + 2 * scale) * head, "b": x.sum()}

        method(["a", "b"]).backward(losses(), fresh=lambda: losses(100.0))
        assert head.grad.item() == 2.0

    @pytest.mark.parametrize("method", [MoDo, StochasticSDMGrad])
    def test_needs_fresh_batches(self, method):
        x = parameter(3)
        losses = {"a": A[0] @ x, "b": A[1] @ x}
        with pytest.raises(UserError, match="fresh="):
            method(["a", "b"]).backward(losses)
        with pytest.raises(UserError, match="no label for task 'b'"):
            method(["a", "b"]).backward(losses, fresh=lambda: {"a": A[0] @ x})

    @pytest.mark.parametrize("method", [MoDo, StochasticSDMGrad])
    def test_a_batch_without_a_label_is_drawn_again(self, method):
        x, draws = parameter(3), []

        def fresh():
            draws.append(1)
            return {n: A[i] @ x for i, n in enumerate("ab") if len(draws) % 2 == 0 or n == "a"}

        step(method(["a", "b"]), x, A, fresh=fresh)
        assert len(draws) == 4

    @pytest.mark.parametrize("method", [MoDo, StochasticSDMGrad])
    def test_an_overflow_on_a_fresh_batch_skips_the_step(self, method):
        x, balancer = parameter(3), method(["a", "b"])
        with pytest.warns(RuntimeWarning, match="task 'b' is not finite on a fresh batch"):
            d, found = step(balancer, x, A, fresh=lambda: {"a": A[0] @ x, "b": A[1] @ x * float("inf")})
        assert found.skipped
        assert d is None
        assert balancer.weights.tolist() == [0.5, 0.5]

    @pytest.mark.parametrize("method", [MoDo, StochasticSDMGrad])
    def test_a_parameter_used_in_one_batch_only(self, method):
        """An expert that the other batch is not sent to."""
        x, expert = parameter(3), parameter(2)
        routed = iter([True, False])

        def fresh():
            there = expert.sum() if next(routed) else 0.0
            return {"a": A[0] @ x + there, "b": A[1] @ x + there}

        method(["a", "b"]).backward({"a": A[0] @ x, "b": A[1] @ x}, fresh=fresh)
        assert x.grad is not None


class TestExcessMTL:
    def test_golden_value(self):
        """[excess_mtl] of the oracles: ratios (2, 1), eta .01."""
        balancer = ExcessMTL(["a", "b"], eta=0.01)
        balancer.follow(torch.tensor([3.0, 5.0]), torch.arange(2))
        assert balancer.weights.tolist() == [1.0, 1.0]
        balancer.follow(torch.tensor([6.0, 5.0]), torch.arange(2))
        expected = torch.tensor([1.00499995833375, 0.99500004166625], dtype=torch.float64)
        torch.testing.assert_close(balancer.weights, expected, rtol=1e-13, atol=0)

    def test_the_excess_of_two_steps(self):
        """At first r is the sum of |g|; then g'(diag sum g²)^(-1/2) g, relative to it."""
        x, balancer = parameter(3), ExcessMTL(["a", "b"], eta=0.1)
        balancer.attach([x])
        d, _ = step(balancer, x, A)
        torch.testing.assert_close(d, A.sum(0))
        torch.testing.assert_close(balancer.first, A.abs().sum(1))
        d, found = step(balancer, x, 2 * A)
        second = ((2 * A) ** 2 / (A**2 + (2 * A) ** 2).sqrt()).sum(1)
        raw = torch.exp(0.1 * second / A.abs().sum(1))
        weights = 2 * raw / raw.sum()
        torch.testing.assert_close(found.weights, weights, rtol=1e-12, atol=0)
        torch.testing.assert_close(d, weights @ (2 * A), rtol=1e-12, atol=0)

    def test_heads_are_weighted_too(self):
        x, head = parameter(3), nn.Parameter(torch.ones((), dtype=torch.float64))
        balancer = attached(ExcessMTL(["a", "b"], eta=1.0), x, head)
        head.grad = torch.full_like(head, 7.0)
        for scale in (1.0, 3.0):
            losses = {"a": scale * (A[0] @ x) + 5 * head, "b": A[1] @ x}
            found = balancer.backward(losses)
        assert found.weights[0] > 1.01
        assert head.grad.item() == pytest.approx(7.0 + 5.0 + 5.0 * found.weights[0].item())

    def test_the_weights_sum_to_the_number_of_tasks(self):
        x, balancer = parameter(4), ExcessMTL(["a", "b", "c"], eta=0.5)
        balancer.attach([x])
        for number in range(5):
            names = "abc" if number % 2 else "cb"
            step(balancer, x, torch.randn(len(names), 4, dtype=torch.float64), names)
            assert balancer.weights.sum().item() == pytest.approx(3.0)


class TestMomentumConFIG:
    @pytest.mark.parametrize("beta2", [None, 0.99])
    def test_the_published_recurrence(self, beta2):
        x, balancer = parameter(6), MomentumConFIG(["a", "b", "c"], beta1=0.8, beta2=beta2)
        balancer.attach([x])
        m, count = torch.zeros(3, 6, dtype=torch.float64), torch.zeros(3)
        last, square = torch.zeros(6, dtype=torch.float64), torch.zeros(6, dtype=torch.float64)
        for number in range(1, 6):
            names = "abc" if number in (1, 4) else "c" if number == 2 else "ba"
            jac = torch.randn(len(names), 6, dtype=torch.float64)
            found, _ = step(balancer, x, jac, names)
            for name, row in zip(names, jac, strict=True):
                place = "abc".index(name)
                m[place], count[place] = 0.8 * m[place] + 0.2 * row, count[place] + 1
            corrected = m / (1 - 0.8 ** count.double())[:, None]
            units = corrected / corrected.norm(dim=1, keepdim=True)
            u = torch.linalg.pinv(units) @ torch.ones(3, dtype=torch.float64)
            d = (corrected @ u).sum() * u / (u @ u)
            if beta2 is not None:
                now = d * (1 - 0.8**number)
                pseudo = (now - 0.8 * last) / 0.2
                last, square = now, beta2 * square + (1 - beta2) * pseudo**2
                d = d / ((square / (1 - beta2**number)).sqrt() + 1e-8)
            torch.testing.assert_close(found, d, rtol=1e-9, atol=1e-12)

    def test_without_memory_it_is_config(self):
        jac = torch.tensor(MATRICES["D"], dtype=torch.float64)
        x = parameter(3)
        balancer = attached(MomentumConFIG(list("abc"), beta1=0.0, beta2=None), x)
        expected, _ = step(ConFIG(), x, jac, "abc")
        for _ in range(3):
            d, _ = step(balancer, x, jac, "abc")
            torch.testing.assert_close(d, expected, rtol=1e-9, atol=1e-12)

    def test_one_task_is_adam(self):
        x, y = parameter(5), parameter(5)
        balancer = attached(MomentumConFIG(["a"]), x)
        ours, theirs = torch.optim.SGD([x], lr=0.1), torch.optim.Adam([y], lr=0.1)
        for number in range(6):
            for p, optimizer in ((x, ours), (y, theirs)):
                optimizer.zero_grad()
                loss = ((p - torch.arange(5.0)) ** 2).sum() * (1 + number)
                balancer.backward({"a": loss}) if p is x else loss.backward()
                optimizer.step()
            torch.testing.assert_close(x, y, rtol=1e-6, atol=1e-8)

    def test_heads_are_adam_whatever_the_others_do(self):
        x, head = parameter(3), nn.Parameter(torch.zeros(2, dtype=torch.float64))
        balancer = attached(MomentumConFIG(["a", "b"]), x, head)
        balancer.backward({"a": A[0] @ x + head @ torch.tensor([3.0, -0.5], dtype=torch.float64), "b": A[1] @ x})
        torch.testing.assert_close(head.grad, torch.tensor([1.0, -1.0], dtype=torch.float64), rtol=1e-6, atol=0)

    def test_opposite_gradients_are_said_aloud(self):
        x = parameter(3)
        balancer = attached(MomentumConFIG(["a", "b"]), x)
        jac = torch.stack([A[0], -A[0]])
        with pytest.warns(RuntimeWarning, match="MomentumConFIG: Pareto-stationary"):
            d, found = step(balancer, x, jac)
        assert (d == 0).all()
        assert "Pareto-stationary" in found.note
        assert step(balancer, x, jac)[1].note  # recorded again, without a second warning

    def test_a_gradient_that_is_not_finite_moves_nothing(self):
        x = nn.Parameter(torch.zeros(2, dtype=torch.float64))
        balancer = attached(MomentumConFIG(["a", "b"]), x)
        with pytest.warns(RuntimeWarning, match="gradient of task 'b' is not finite"):
            balancer.backward({"a": x.sum(), "b": x.square().sum().sqrt()})
        assert x.grad is None
        assert not balancer.moments.state_dict()


class Net(nn.Module):
    """`deep` is reached by a and b only."""

    def __init__(self):
        super().__init__()
        self.encoder, self.deep = nn.Linear(4, 6), nn.Linear(6, 6)
        self.heads = nn.ModuleDict({n: nn.Linear(6, 1) for n in "abc"})

    def losses(self, x, names):
        features = self.encoder(x).tanh()
        deep = self.deep(features).tanh()
        return {n: (self.heads[n](features if n == "c" else deep) - 1).square().mean() + 0.1 for n in names}


def train(balancer, net, steps, data):
    optimizer = torch.optim.SGD(net.parameters(), lr=0.02)
    for number in steps:
        optimizer.zero_grad()
        names = ["abc", "cb", "ba", "c"][number % 4]
        draw = lambda names=names: net.losses(torch.randn(8, 4, generator=data), names)  # noqa: E731
        balancer.backward(draw(), fresh=draw)
        optimizer.step()


@pytest.mark.parametrize("method", ALL)
def test_a_saved_state_continues_bit_for_bit_also_where_some_tasks_share(method):
    def fresh_start():
        torch.manual_seed(3)
        net, balancer = Net(), method(["a", "b", "c"])
        balancer.attach(net.parameters())
        return net, balancer, torch.Generator().manual_seed(1)

    net, balancer, data = fresh_start()
    train(balancer, net, range(7), data)
    saved = copy.deepcopy((net.state_dict(), balancer.state_dict(), data.get_state()))
    train(balancer, net, range(7, 14), data)
    other, resumed, again = fresh_start()
    other.load_state_dict(saved[0])
    resumed.load_state_dict(saved[1])
    again.set_state(saved[2])
    train(resumed, other, range(7, 14), again)
    assert all(torch.equal(p, q) for p, q in zip(net.parameters(), other.parameters(), strict=True))
    assert all(torch.equal(v, resumed.state_dict()[k]) for k, v in balancer.state_dict().items())


@pytest.mark.parametrize("method", KEEPING)
class TestKeptNumbers:
    def test_an_absent_task_keeps_its_own(self, method):
        x, balancer = parameter(3), method(["a", "b", "c"])
        balancer.attach([x])
        step(balancer, x, torch.randn(3, 3, dtype=torch.float64), "abc")
        before = {k: v.clone() for k, v in balancer.state_dict().items() if v.shape == (3, 3)}
        assert before
        step(balancer, x, torch.randn(2, 3, dtype=torch.float64), "ca")
        for key, value in before.items():
            now = balancer.state_dict()[key]
            assert torch.equal(now[1], value[1])
            assert not torch.equal(now[0], value[0])
            assert not torch.equal(now[2], value[2])

    def test_unattached_parameters_are_an_error(self, method):
        x = parameter(3)
        with pytest.raises(UserError, match=r"knows no parameters: call balancer.attach\(model.parameters\(\)\)"):
            step(method(["a", "b"]), x, A)
        with pytest.raises(UserError, match=r"does not know a parameter of shape \(3,\)"):
            step(attached(method(["a", "b"]), parameter(2)), x, A)

    def test_not_at_a_representation(self, method):
        x = parameter(3)
        features = x * 2
        losses = {n: row @ features + 1 for n, row in zip("ab", A, strict=True)}
        with pytest.raises(UserError, match="cannot be measured with at="):
            attached(method(["a", "b"]), x).backward(losses, at=features)

    def test_an_earlier_state_takes_back_what_came_after(self, method):
        x, balancer = parameter(3), method(["a", "b"])
        balancer.attach([x])
        early = copy.deepcopy(balancer.state_dict())
        first, _ = step(balancer, x, A)
        step(balancer, x, torch.randn(2, 3, dtype=torch.float64))
        balancer.load_state_dict(early)
        assert list(balancer.state_dict()) == list(early)
        assert torch.equal(step(balancer, x, A)[0], first)

    def test_the_state_of_another_model_is_refused(self, method):
        x, y = parameter(3), parameter(5)
        old, new = attached(method(["a", "b"]), x), attached(method(["a", "b"]), y)
        step(old, x, A)
        new.load_state_dict(old.state_dict())
        with pytest.raises(UserError, match="of another model"):
            step(new, y, torch.randn(2, 5, dtype=torch.float64))

    def test_a_loss_scale_changes_nothing(self, method):
        x = parameter(3)
        plain, scaled = (attached(method(["a", "b"]), x) for _ in range(2))
        scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
        for _ in range(2):
            expected, _ = step(plain, x, A)
            x.grad = None
            scaled.backward({n: row @ x + 1.0 for n, row in zip("ab", A, strict=True)}, scaler=scaler)
            torch.testing.assert_close(x.grad / 1024.0, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("make", "text"), [
    (lambda: DBMTL(["a"], beta=1.0), "beta"), (lambda: DBMTL(["a"], decay=-1), "decay"),
    (lambda: MoDo(["a"], gamma=0), "gamma"), (lambda: ExcessMTL(["a"], eta=math.nan), "eta"),
    (lambda: MomentumConFIG(["a"], beta1=1.0), "beta1"), (lambda: StochasticSDMGrad(["a"], iterations=0), "iterations"),
    (lambda: StochasticSDMGrad(["a", "b"], preference={"a": 1.0}), "must name every task"),
    (lambda: MomentumConFIG(["a", "b"], preference={"a": 1.0}), "must name every task"),
])  # fmt: skip
def test_refusals(make, text):
    with pytest.raises(UserError, match=text):
        make()
