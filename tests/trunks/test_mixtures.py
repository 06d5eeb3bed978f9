"""Mixtures of experts: closed forms, limiting cases, and a re-computation in NumPy."""

import numpy as np
import pytest
import torch
from torch import nn

from polytask import MLP, HardSharing, MMoE, UserError
from polytask.trunks import CGC, PLE, DescribedMoE, DSelectK, OMoE, SoftModules, SparseMoE
from polytask.trunks.descriptors import OneHot
from polytask.trunks.dselect import DSelectGate, binary_codes, smooth_step
from polytask.trunks.experts import Experts

TASKS = ("a", "b")
MIXTURES = [OMoE, MMoE, DSelectK, SparseMoE]


def numpy_of(parameter):
    return parameter.detach().numpy()


def softmax(logits):
    e = np.exp(logits - logits.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def numpy_experts(experts, rows):
    """(E, B, W), an expert at a time."""
    found = []
    for e in range(experts.count):
        hidden = rows
        for layer in experts.layers:
            hidden = np.maximum(hidden @ numpy_of(layer.weight)[e] + numpy_of(layer.bias)[e], 0)
        found.append(hidden)
    return np.stack(found)


def numpy_gate(linear, rows):
    return softmax(rows @ numpy_of(linear.weight).T + numpy_of(linear.bias))


def test_mmoe_against_numpy():
    trunk = MMoE(nn.Identity(), TASKS, experts=3, widths=(6, 4), features=5).double()
    x = torch.randn(7, 5, dtype=torch.float64)
    outputs = numpy_experts(trunk.experts, x.numpy())
    for t, name in enumerate(TASKS):
        gate = numpy_gate(trunk.gates[t], x.numpy())
        expected = (gate.T[:, :, None] * outputs).sum(0)
        np.testing.assert_allclose(numpy_of(trunk(x, TASKS)[name]), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("levels", [1, 2, 3])
def test_ple_against_numpy(levels):
    trunk = PLE(nn.Identity(), TASKS, levels=levels, shared_experts=2, task_experts=3, widths=(4,), features=5).double()
    x = torch.randn(7, 5, dtype=torch.float64)
    paths = {"a": x.numpy(), "b": x.numpy(), "shared": x.numpy()}
    for number, level in enumerate(trunk.levels):
        experts = {"a": numpy_experts(level.own[0], paths["a"]), "b": numpy_experts(level.own[1], paths["b"]),
                   "shared": numpy_experts(level.shared, paths["shared"])}  # fmt: skip
        after = {}
        for t, name in enumerate(TASKS):
            seen = np.concatenate([experts[name], experts["shared"]])
            after[name] = (numpy_gate(level.gates[t], paths[name]).T[:, :, None] * seen).sum(0)
        if number < levels - 1:
            seen = np.concatenate([experts["a"], experts["b"], experts["shared"]])
            after["shared"] = (numpy_gate(level.shared_gate, paths["shared"]).T[:, :, None] * seen).sum(0)
        paths = after
    for name in TASKS:
        np.testing.assert_allclose(numpy_of(trunk(x, TASKS)[name]), paths[name], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("method", [OMoE, MMoE, SparseMoE])  # a DSelect gate knows experts by their codes
def test_permuting_experts_with_their_gates_changes_nothing(method):
    first, second = (method(MLP(3, [5]), TASKS, experts=3, widths=(4, 4)) for _ in range(2))
    second.load_state_dict(first.state_dict())
    order = [2, 0, 1]
    with torch.no_grad():
        for layer in second.experts.layers:
            layer.weight.copy_(layer.weight[order])
            layer.bias.copy_(layer.bias[order])
        for gate in [m for n, m in second.named_modules() if n.startswith(("gates.", "router"))]:
            gate.weight.copy_(gate.weight[order])
            gate.bias.copy_(gate.bias[order])
    x = torch.randn(6, 3)
    torch.testing.assert_close(first(x, TASKS)["b"], second(x, TASKS)["b"])


@pytest.mark.parametrize("method", MIXTURES)
def test_equal_experts_make_the_gate_idle(method):
    trunk = method(MLP(3, [5]), TASKS, experts=4, widths=(4,))
    with torch.no_grad():
        for p in trunk.experts.parameters():
            p.copy_(p[:1].expand_as(p))
    x = torch.randn(6, 3)
    torch.testing.assert_close(trunk(x, TASKS)["a"], trunk.experts(trunk.stem(x))[0])


def test_tied_gates_are_one_gate():
    one, many = OMoE(MLP(3, [5]), TASKS, experts=3, widths=(4,)), MMoE(MLP(3, [5]), TASKS, experts=3, widths=(4,))
    many.load_state_dict(one.state_dict() | {k: v for k, v in many.state_dict().items() if "gates" in k}, strict=False)
    for gate in many.gates:
        gate.load_state_dict(one.router.state_dict())
    x = torch.randn(6, 3)
    for name in TASKS:
        assert torch.equal(one(x, TASKS)[name], many(x, TASKS)[name])
    assert torch.equal(one(x, TASKS)["a"], one(x, TASKS)["b"])


def test_a_gate_that_is_told_a_unit_vector_is_a_gate_with_a_bias_each():
    told = DescribedMoE(MLP(3, [5]), TASKS, OneHot(TASKS), experts=3, widths=(4,))
    many = MMoE(MLP(3, [5]), TASKS, experts=3, widths=(4,))
    many.stem.load_state_dict(told.stem.state_dict())
    many.experts.load_state_dict(told.experts.state_dict())
    with torch.no_grad():
        for t, gate in enumerate(many.gates):
            gate.weight.copy_(told.router.weight[:, :5])
            gate.bias.copy_(told.router.bias + told.router.weight[:, 5 + t])
    x = torch.randn(6, 3)
    for name in TASKS:
        torch.testing.assert_close(told(x, TASKS)[name], many(x, TASKS)[name])
    assert not torch.equal(told(x, TASKS)["a"], told(x, TASKS)["b"])


def test_one_expert_of_any_kind_is_hard_sharing():
    torch.manual_seed(0)
    expert = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 6))
    trunk = MMoE(nn.Identity(), TASKS, experts=1, expert=expert, features=2)
    x = torch.randn(5, 2, 8, 8)
    shared = HardSharing(trunk.experts.listed[0])(x, TASKS)
    for name in TASKS:
        torch.testing.assert_close(trunk(x, TASKS)[name], shared[name])


def test_listed_and_batched_experts_of_the_same_weights_agree():
    batched, listed = Experts(3, 5, (6, 4)), Experts(3, 5, expert=MLP(5, [6, 4]))
    with torch.no_grad():
        for e, expert in enumerate(listed.listed):
            for linear, layer in zip((expert[0], expert[2]), batched.layers, strict=True):
                linear.weight.copy_(layer.weight[e].T)
                linear.bias.copy_(layer.bias[e, 0])
    x = torch.randn(7, 5)
    torch.testing.assert_close(batched(x), listed(x))
    torch.testing.assert_close(batched.one(2, x), listed.one(2, x))
    tokens = torch.randn(2, 7, 5)
    torch.testing.assert_close(batched(tokens), listed(tokens))
    pattern = MLP(5, [6])
    assert all(p is not q for one in Experts(2, 5, expert=pattern).listed
               for p, q in zip(one.parameters(), pattern.parameters(), strict=True))  # fmt: skip


@pytest.mark.parametrize("widths", [(16,), (16, 8), (64, 130), (65, 4), (128, 130)])
def test_every_form_of_a_product_gives_the_same_experts_and_gradients(widths):
    experts = Experts(3, 5, widths).double()
    rows = torch.randn(2, 7, 5, dtype=torch.float64, requires_grad=True)
    outputs = experts(rows)
    expected = torch.stack([experts.one(e, rows) for e in range(3)])
    torch.testing.assert_close(outputs, expected)
    towards, sources = torch.randn_like(outputs), [rows, *experts.parameters()]
    found, wanted = (torch.autograd.grad(y, sources, towards) for y in (outputs, expected))
    torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("method", [OMoE, MMoE, DSelectK])
def test_every_task_gets_the_mixture_of_its_own_gate(method):
    names = ("a", "b", "c")
    trunk, x = method(MLP(3, [5]), names, experts=4, widths=(4,)), torch.randn(6, 3)
    rows, features = trunk.stem(x), trunk(x, ("c", "a"))
    assert tuple(features) == ("c", "a")
    for name in ("c", "a"):
        expected = torch.einsum("be,ebw->bw", trunk.gate(rows, name), trunk.experts(rows))
        torch.testing.assert_close(features[name], expected)


class TestPLE:
    def make(self, method=PLE, **options):
        return method(MLP(3, [5]), TASKS, widths=(4,), **options)

    def test_one_level_is_cgc(self):
        ple, cgc, x = self.make(levels=1), self.make(CGC), torch.randn(6, 3)
        cgc.load_state_dict(ple.state_dict())
        assert all(torch.equal(ple(x, TASKS)[n], cgc(x, TASKS)[n]) for n in TASKS)

    def test_no_task_experts_is_mmoe(self):
        cgc, mmoe = self.make(CGC, task_experts=0, shared_experts=3), MMoE(MLP(3, [5]), TASKS, experts=3, widths=(4,))
        mmoe.stem.load_state_dict(cgc.stem.state_dict())
        mmoe.experts.load_state_dict(cgc.levels[0].shared.state_dict())
        mmoe.gates.load_state_dict(cgc.levels[0].gates.state_dict())
        x = torch.randn(6, 3)
        for name in TASKS:
            torch.testing.assert_close(cgc(x, TASKS)[name], mmoe(x, TASKS)[name])

    @pytest.mark.parametrize("levels", [1, 2])
    def test_no_shared_experts_and_no_stem_is_single_task(self, levels):
        trunk = PLE(nn.Identity(), TASKS, levels=levels, shared_experts=0, task_experts=2, widths=(4,), features=3)
        served = trunk.serves(TASKS)
        assert set(served.values()) == {("a",), ("b",)}
        trunk(torch.randn(6, 3), ("a", "b"))["a"].sum().backward()
        assert all(p.grad is None or not p.grad.any() for n, p in trunk.named_parameters() if served[n] == ("b",))

    def reached(self, trunk, task):
        trunk.zero_grad(set_to_none=True)
        trunk(torch.randn(16, 3), TASKS)[task].sum().backward()  # all tasks run, one is learnt
        return {n for n, p in trunk.named_parameters() if p.grad is not None and p.grad.any()}

    def test_whom_a_loss_reaches(self):
        one = self.reached(self.make(levels=1), "a")
        assert not any(".own.1." in name for name in one)
        assert any(".own.0." in name for name in one)
        two = self.reached(self.make(levels=2), "a")
        assert any(name.startswith("levels.0.own.1.") for name in two)  # through the shared path's gate
        assert any(name.startswith("levels.0.shared_gate") for name in two)
        assert not any(name.startswith(("levels.1.own.1.", "levels.0.gates.1", "levels.1.gates.1")) for name in two)

    @pytest.mark.parametrize(
        "options", [{"levels": 3}, {"levels": 3, "task_experts": 0}, {"levels": 3, "shared_experts": 0}]
    )
    def test_serves_is_what_gradients_do(self, options):
        trunk = self.make(**options)
        served = trunk.serves(TASKS)
        for task in TASKS:
            assert self.reached(trunk, task) == {name for name, tasks in served.items() if task in tasks}

    def test_gates_as_a_matrix(self):
        mixing = self.make(levels=2).coefficients(torch.randn(6, 3))
        first, last = mixing["gates of level 1"], mixing["gates of level 2"]
        assert first.rows == ("a", "b", "shared")
        assert last.rows == TASKS
        assert first.columns == ("a 1", "a 2", "b 1", "b 2", "shared 1", "shared 2")
        torch.testing.assert_close(first.values.sum(1), torch.ones(3))
        assert first.values[0, 2:4].tolist() == [0, 0]
        assert first.values[2].all()

    def test_refusals(self):
        for options in ({"levels": 0}, {"shared_experts": 0, "task_experts": 0}):
            with pytest.raises(UserError, match="at least 1"):
                self.make(**options)


class TestDSelectK:
    def test_golden(self):  # oracle dselect_k
        steps = {-0.5: 0.0, -0.25: 0.15625, 0: 0.5, 0.1: 0.648, 0.25: 0.84375, 0.5: 1.0, 3.0: 1.0, -3.0: 0.0}
        for t, expected in steps.items():
            assert smooth_step(torch.tensor(t, dtype=torch.float64)).item() == pytest.approx(expected, abs=1e-15)
        gate = DSelectGate(4, selectors=1).double()
        gate.code.data = torch.tensor([[0.25, -0.1]], dtype=torch.float64)
        expected = torch.tensor([[0.10125, 0.055, 0.54675, 0.297]], dtype=torch.float64)
        torch.testing.assert_close(gate(torch.zeros(1, 3, dtype=torch.float64)), expected)

    @pytest.mark.parametrize("experts", [1, 2, 3, 4, 5, 8, 13])
    def test_every_expert_has_a_code_of_its_own(self, experts):
        assert len(binary_codes(experts).unique(dim=0)) == experts

    def test_gamma_widens_the_step(self):
        gates = [DSelectGate(4, gamma=gamma) for gamma in (1.0, 2.0)]
        for gate in gates:
            gate.code.data = torch.full((2, 2), 0.3)
        assert not torch.allclose(*(gate(torch.zeros(1, 3)) for gate in gates))
        assert smooth_step(torch.tensor(0.9), 2.0) < 1

    @pytest.mark.parametrize("per_row", [None, "features"])
    def test_sums(self, per_row):
        full = DSelectK(MLP(3, [5]), TASKS, experts=8, per_row=per_row, widths=(4,))
        torch.testing.assert_close(full.gate(torch.randn(6, 5), "a").sum(1), torch.ones(6))
        part = DSelectK(MLP(3, [5]), TASKS, experts=5, per_row=per_row, widths=(4,))
        assert (part.gate(torch.randn(6, 5), "a").sum(1) < 1).all()

    def test_a_settled_gate_picks_k(self):
        trunk = DSelectK(MLP(3, [5]), TASKS, experts=8, selectors=3, widths=(4,))
        trunk.gates[0].code.data = torch.tensor([[1.0, 1, -1], [-1, 1, 1], [1, 1, -1]])
        weights = trunk.gate(torch.randn(2, 5), "a")
        assert (weights > 0).sum(1).tolist() == [2, 2]  # two selectors agree on expert 6
        assert weights[0].nonzero().squeeze(1).tolist() == [3, 6]

    def test_the_penalty_settles_the_gates_and_is_of_the_asked_tasks(self):
        trunk = DSelectK(MLP(3, [5]), TASKS, experts=4, entropy=1.0, widths=(4,))
        assert trunk.penalty() is None
        trunk(torch.randn(6, 3), ("a",))
        trunk.penalty().backward()
        assert trunk.gates[0].code.grad.any()
        assert trunk.gates[1].code.grad is None
        assert trunk.penalty() is None
        chosen, _ = trunk.gates[0].selectors(torch.zeros(1, 5))
        expected = -(chosen * chosen.log()).sum()
        trunk(torch.randn(6, 3), ("a",))
        torch.testing.assert_close(trunk.penalty(), expected)
        optimizer = torch.optim.SGD(trunk.gates.parameters(), lr=0.1)
        for _ in range(400):
            optimizer.zero_grad()
            trunk(torch.randn(6, 3), TASKS)
            trunk.penalty().backward()
            optimizer.step()
        assert ((trunk.gate(torch.zeros(1, 5), "a") > 0).sum(1) <= 2).all()

    def test_weight_on_codes_of_no_expert_is_pulled_back(self):
        trunk = DSelectK(MLP(3, [5]), TASKS, experts=3, entropy=0.0, selectors=1, widths=(4,))
        trunk.gates[0].code.data = torch.tensor([[0.2, 0.2]])  # leans towards the code of expert 3, who is not there
        optimizer = torch.optim.SGD(trunk.gates[0].parameters(), lr=0.02)
        before = trunk.gate(torch.zeros(1, 5), "a").sum().item()
        trunk(torch.randn(6, 3), ("a",))
        assert trunk.penalty().item() == pytest.approx(1 / before - 1, rel=1e-5)
        for _ in range(50):
            optimizer.zero_grad()
            trunk(torch.randn(6, 3), ("a",))
            trunk.penalty().backward()
            optimizer.step()
        assert trunk.gate(torch.zeros(1, 5), "a").sum().item() > before + 0.1

    def test_refusals(self):
        with pytest.raises(UserError, match="selectors=5 of 4"):
            DSelectK(MLP(3, [5]), TASKS, selectors=5)
        with pytest.raises(UserError, match="per_row"):
            DSelectK(MLP(3, [5]), TASKS, per_row="rows")


class TestSparseMoE:
    def make(self, **options):
        return SparseMoE(MLP(3, [5]), TASKS, experts=4, widths=(4, 6), **options)

    @pytest.mark.parametrize("chosen", [1, 2, 4])
    def test_it_is_the_dense_mixture_of_its_gates(self, chosen):
        trunk, x = self.make(chosen=chosen), torch.randn(9, 3)
        rows = trunk.stem(x)
        outputs = trunk.experts(rows)
        for name in TASKS:
            gate = trunk.gate(rows, name)
            assert (gate > 0).sum(1).tolist() == [chosen] * 9
            torch.testing.assert_close(gate.sum(1), torch.ones(9))
            torch.testing.assert_close(trunk(x, TASKS)[name], torch.einsum("be,ebw->bw", gate, outputs))

    def test_all_chosen_is_mmoe(self):
        sparse, mmoe = self.make(chosen=4), MMoE(MLP(3, [5]), TASKS, experts=4, widths=(4, 6))
        mmoe.load_state_dict(sparse.state_dict())
        x = torch.randn(6, 3)
        for name in TASKS:
            torch.testing.assert_close(sparse(x, TASKS)[name], mmoe(x, TASKS)[name])

    def test_an_expert_runs_on_its_rows_only(self):
        trunk, x, seen = self.make(chosen=1), torch.randn(9, 3), []
        one = trunk.experts.one
        trunk.experts.one = lambda number, rows: (seen.append(len(rows)), one(number, rows))[1]
        trunk(x, ("a",))
        assert sum(seen) == 9

    def test_the_load(self):
        trunk = self.make(chosen=2, balance=3.0)
        for gate in trunk.gates:
            nn.init.zeros_(gate.weight)
            gate.bias.data = torch.tensor([0.0, 0.0, -50.0, -50.0])
        trunk(torch.randn(6, 3), TASKS)
        assert trunk.penalty().item() == pytest.approx(3.0 * 2 * 4 * (0.5 * 0.5 + 0.5 * 0.5))
        even = self.make(chosen=4, balance=3.0)
        even(torch.randn(6, 3), TASKS)
        assert even.penalty().item() == pytest.approx(3.0 * 2)
        trunk(torch.randn(6, 3), ("b",))
        trunk.penalty().backward()
        assert trunk.gates[1].bias.grad.any()
        assert trunk.gates[0].bias.grad is None
        assert all(p.grad is None for p in trunk.stem.parameters())
        assert self.make(balance=0.0).penalty() is None

    def test_balance_spreads_the_rows(self):
        def busiest(balance):
            torch.manual_seed(1)
            trunk = self.make(chosen=1, balance=balance)
            with torch.no_grad():
                for gate in trunk.gates:
                    gate.bias.copy_(torch.tensor([2.0, 0, 0, 0]))
            x = torch.randn(64, 3)
            optimizer = torch.optim.Adam(trunk.parameters(), lr=0.02)
            for _ in range(100):
                optimizer.zero_grad()
                loss = sum((f.sum(1) - x[:, 0]).square().mean() for f in trunk(x, TASKS).values())
                (loss + (trunk.penalty() if balance else 0)).backward()
                optimizer.step()
            return (trunk.gate(trunk.stem(x), "a") > 0).float().mean(0).max().item()

        assert busiest(1.0) < 0.5 < busiest(0.0)

    def test_refusals(self):
        with pytest.raises(UserError, match="chosen=5 of 4"):
            self.make(chosen=5)


class TestSoftModules:
    def test_against_numpy(self):
        trunk = SoftModules(nn.Identity(), TASKS, modules=3, layers=2, width=4, code=5, features=6).double()
        x = torch.randn(7, 6, dtype=torch.float64)
        rows = x.numpy()

        def linear(layer, values):
            return values @ numpy_of(layer.weight).T + numpy_of(layer.bias)

        def block(layer, values):
            return np.maximum(
                np.stack([values[m] @ numpy_of(layer.weight)[m] + numpy_of(layer.bias)[m] for m in range(3)]), 0
            )

        for t, name in enumerate(TASKS):
            code = linear(trunk.encode, rows) * numpy_of(trunk.descriptions[t])
            first = softmax(linear(trunk.routes[0], np.maximum(code, 0)).reshape(7, 3, 3))
            second = softmax(
                linear(trunk.routes[1], np.maximum(linear(trunk.recall[0], first.reshape(7, 9)) * code, 0))
            )
            hidden = block(trunk.blocks[0], np.stack([rows] * 3))
            joined = np.stack([sum(first[:, i, j, None] * hidden[j] for j in range(3)) for i in range(3)])
            hidden = block(trunk.blocks[1], joined)
            expected = sum(second[:, j, None] * hidden[j] for j in range(3))
            np.testing.assert_allclose(numpy_of(trunk(x, TASKS)[name]), expected, rtol=1e-12, atol=1e-12)

    def test_one_module_is_hard_sharing(self):
        trunk, x = SoftModules(MLP(3, [5]), TASKS, modules=1, layers=3, width=4), torch.randn(6, 3)
        hidden = trunk.stem(x)
        for block in trunk.blocks:
            hidden = torch.relu(hidden @ block.weight[0] + block.bias[0])
        for name in TASKS:
            torch.testing.assert_close(trunk(x, TASKS)[name], hidden)

    def test_routes_sum_to_one(self):
        trunk = SoftModules(MLP(3, [5]), TASKS, modules=3, layers=3, width=4)
        routes = trunk.routing(torch.randn(6, 5), "a")
        assert [tuple(r.shape) for r in routes] == [(6, 3, 3), (6, 3, 3), (6, 1, 3)]
        for route in routes:
            torch.testing.assert_close(route.sum(-1), torch.ones(route.shape[:-1]))

    def test_refusals(self):
        with pytest.raises(UserError, match="modules=0"):
            SoftModules(MLP(3, [5]), TASKS, modules=0)
        with pytest.raises(UserError, match="features="):
            SoftModules(nn.ReLU(), TASKS)
