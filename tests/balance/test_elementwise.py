"""Numbers per element: long parameters go in chunks, tables by the rows that occur; neither changes a step."""

import pytest
import torch
from torch import nn

from polytask import GradDrop, JacobianBalancer
from polytask.balance import DBMTL, ExcessMTL, MoCo, MomentumConFIG
from polytask.balance.base import CHUNK
from polytask.gradients import task_gradients
from polytask.gradients.parts import Direct, Unique

KEEPING = [DBMTL, MoCo, ExcessMTL, MomentumConFIG]
LONG, CUT = CHUNK + 4465, 40_000
DRAWN = [(0, 1, 2), (2, 1), (1, 0, 2), (0,), (0, 1, 2)]  # tasks of each step


class Agreement(JacobianBalancer):
    """The sum where all signs agree."""

    elementwise = True

    def merge(self, jacobian, losses, rows):
        return jacobian.sum(0) * (jacobian.sign().sum(0).abs() == len(jacobian))


@pytest.mark.parametrize("method", KEEPING)
def test_a_long_parameter_steps_as_its_two_halves(method):
    whole, *halves = (nn.Parameter(torch.zeros(n, dtype=torch.float64)) for n in (LONG, CUT, LONG - CUT))
    one, two = method(["a", "b", "c"]), method(["a", "b", "c"])
    one.attach([whole])
    two.attach(halves)
    for present in DRAWN:
        rows = {"abc"[t]: torch.randn(LONG, dtype=torch.float64) for t in present}
        whole.grad = halves[0].grad = halves[1].grad = None
        one.backward({n: row @ whole + 1.0 for n, row in rows.items()})
        two.backward({n: row[:CUT] @ halves[0] + row[CUT:] @ halves[1] + 1.0 for n, row in rows.items()})
        torch.testing.assert_close(whole.grad, torch.cat([x.grad for x in halves]), rtol=1e-9, atol=1e-12)


def test_draws_in_chunks_are_the_draws_of_the_whole():
    x, jac = nn.Parameter(torch.zeros(2 * CHUNK + 7)), torch.randn(3, 2 * CHUNK + 7)
    GradDrop(seed=5).backward({n: row @ x for n, row in zip("abc", jac, strict=True)})
    assert torch.equal(x.grad, GradDrop(seed=5).merge(jac, torch.zeros(3), torch.arange(3)))


class Tables(nn.Module):
    """A table that all tasks use, one that a and b use, one of c alone; few of their rows occur."""

    def __init__(self, whole):
        super().__init__()
        torch.manual_seed(0)
        self.shared, self.ours = nn.Embedding(100, 4, padding_idx=1), nn.Embedding(80, 4)
        self.own, self.mix = nn.Embedding(60, 4), nn.Linear(4, 4)
        self.heads = nn.ModuleDict({n: nn.Linear(4, 1) for n in "abc"})
        if whole:  # a hook that changes nothing: the gradients are then measured at the tables themselves
            self.shared.weight.register_hook(lambda gradient: None)
            self.ours.weight.register_hook(lambda gradient: None)

    def losses(self, ids, names):
        common = self.mix(self.shared(ids)).tanh()
        deep, own = common + self.ours(ids), common + self.own(ids)
        return {n: (self.heads[n](own if n == "c" else deep) - 1).square().mean() + 0.1 for n in names}


def trained(balancer, whole):
    """Steps of other ids each; the gradients of every step."""
    net, seen = Tables(whole), []
    balancer.attach(net.parameters())
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    for present in DRAWN:
        ids = torch.randint(0, 60, (6,), generator=torch.Generator().manual_seed(len(seen)))
        optimizer.zero_grad()
        balancer.backward(net.losses(ids, ["abc"[t] for t in present]))
        optimizer.step()
        seen.append({name: p.grad.clone() for name, p in net.named_parameters() if p.grad is not None})
    return seen


def check_same(rows, whole):
    for few, every in zip(rows, whole, strict=True):
        assert few.keys() == every.keys()
        for name, gradient in every.items():
            torch.testing.assert_close(few[name], gradient, rtol=1e-5, atol=1e-7, msg=name)


def test_the_tables_are_held_as_told():
    ids = torch.tensor([1, 4, 4, 9])
    for whole, kind in ((False, Unique), (True, Direct)):
        net = Tables(whole)
        blocks = task_gradients(list(net.losses(ids, "abc").values()), dense=True).blocks
        kinds = {id(leaf): type(part) for block in blocks for part in block.parts for leaf in part.leaves}
        assert kinds[id(net.shared.weight)] is kinds[id(net.ours.weight)] is kind


@pytest.mark.parametrize("method", KEEPING)
def test_rows_that_occur_give_the_step_of_the_whole_table(method):
    few, every = method(["a", "b", "c"]), method(["a", "b", "c"])
    check_same(trained(few, whole=False), trained(every, whole=True))
    assert few.state_dict().keys() == every.state_dict().keys()
    for name, value in every.state_dict().items():
        torch.testing.assert_close(few.state_dict()[name], value, rtol=1e-5, atol=1e-7, msg=name)


@pytest.mark.parametrize("balancer", [Agreement, lambda: GradDrop(leak=1.0), lambda: GradDrop(leak=0.3)])
def test_rows_that_occur_are_merged_as_in_the_whole_table(balancer, monkeypatch):
    monkeypatch.setattr(torch, "rand", lambda size, generator: torch.full((size,), 0.4))
    rows = trained(balancer(), whole=False)
    check_same(rows, trained(balancer(), whole=True))
    assert 0 < rows[0]["shared.weight"].any(1).sum() <= 6


def test_a_sparse_table_keeps_a_sparse_gradient():
    table = nn.Embedding(50, 2, sparse=True)
    balancer = GradDrop(leak=1.0)
    ids, pull = torch.tensor([3, 7, 3]), torch.randn(2, 3, 2)
    balancer.backward({n: (table(ids) * p).sum() for n, p in zip("ab", pull, strict=True)})
    assert table.weight.grad.is_sparse
    expected = torch.zeros(50, 2).index_add_(0, ids, pull.sum(0))
    torch.testing.assert_close(table.weight.grad.to_dense(), expected)


@pytest.mark.parametrize("method", [DBMTL, MoCo])
def test_a_sparse_table_is_moved_by_its_average_where_the_batch_is(method):
    table, names = nn.Embedding(50, 2, sparse=True), ["a", "b"]
    balancer = method(names)
    balancer.attach(table.parameters())
    for ids in (torch.tensor([3, 7]), torch.tensor([7, 9])):
        table.weight.grad = None
        balancer.backward({n: (table(ids) * torch.randn(2, 2)).sum() + 9.0 for n in names})
    gradient, average = table.weight.grad.coalesce(), balancer.averages.get_buffer("average_0").view(2, 50, 2)
    assert gradient.indices().flatten().tolist() == [7, 9]
    assert average[:, [3, 7, 9]].all()
    if method is DBMTL:
        norms = average.flatten(1).norm(dim=1)
        torch.testing.assert_close(
            gradient.values(), ((norms.max() / norms) @ average[:, [7, 9]].flatten(1)).view(2, 2)
        )


def test_only_the_present_tasks_averages_are_merged():
    x, balancer = nn.Parameter(torch.zeros(5, dtype=torch.float64)), DBMTL(["a", "b", "c"], beta=0.5)
    balancer.attach([x])
    h = torch.zeros(3, 5, dtype=torch.float64)
    for present in DRAWN:
        x.grad, jac = None, torch.randn(len(present), 5, dtype=torch.float64)
        losses = {"abc"[t]: row @ x + 1.0 for t, row in zip(present, jac, strict=True)}
        if len(present) == 1:
            continue  # a plain step
        balancer.backward(losses)
        h[list(present)] = 0.5 * h[list(present)] + 0.5 * jac
        norms = h[list(present)].norm(dim=1, keepdim=True)
        torch.testing.assert_close(x.grad, norms.max() * (h[list(present)] / norms).sum(0))


def test_a_table_that_only_seems_shared_stays_its_task_s_own():
    tables, weights = [nn.Embedding(50, 2) for _ in "ab"], [nn.Parameter(torch.randn(2, 3)) for _ in "ab"]
    ids = torch.tensor([4, 9])
    y = torch.stack([table.weight for table in tables])[:, ids] @ torch.stack(weights)
    found = task_gradients([y[0].square().sum(), y[1].square().sum()], dense=True)
    assert not found.blocks
    assert {id(leaf) for leaf, _ in found.own} == {id(p) for p in [*weights, *(t.weight for t in tables)]}
