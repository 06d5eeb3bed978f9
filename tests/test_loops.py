"""Loops of one's own in which libraries break: partly shared layers, statistics, optimizers, scalers, compilation."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from polytask import (
    MGDA,
    Clipped,
    Equal,
    GradDrop,
    GramBalancer,
    PCGrad,
    Probed,
    RefreshEvery,
    UncertaintyWeighting,
    UserError,
    WeightedHeads,
)
from polytask.balance import METHODS
from polytask.gradients import gramian
from polytask.names import registered
from tests.test_regimes import build

EACH_KIND = {
    "equal": Equal,
    "uncertainty": lambda: UncertaintyWeighting(["a", "b", "c"]),
    "pcgrad": PCGrad,
    "mgda": MGDA,
    "graddrop": GradDrop,
}
GRAM = [
    n for n, m in registered(METHODS).items() if issubclass(m, GramBalancer) and m._pull is GramBalancer._pull
]  # one batch, one Gramian
TASKS = ("a", "b", "c")


class Net(nn.Module):
    """A trunk of any kind with one linear head per task."""

    def __init__(self, trunk, width=6, head=nn.Linear):
        super().__init__()
        self.trunk = trunk
        self.heads = nn.ModuleDict({task: head(width, 2) for task in TASKS})

    def losses(self, x, tasks=TASKS):
        features = self.trunk(x).flatten(1)
        return {task: (self.heads[task](features) - i).abs().square().mean() for i, task in enumerate(tasks)}


def grads(module):
    return {name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None}


def rows_of(losses, leaves):
    """Task gradients in float64, one plain autograd call for each loss."""
    found = [torch.autograd.grad(loss, leaves, retain_graph=True) for loss in losses.values()]
    return torch.stack([torch.cat([g.flatten().double() for g in row]) for row in found])


def written(leaves):
    return torch.cat([p.grad.flatten().double() for p in leaves])


# Who shares what ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", GRAM)
def test_layers_that_some_of_the_tasks_share_are_balanced_among_those(name):
    """Three tasks on one stem, two of them on one branch: each set of parameters has weights of its own Gramian."""
    stem, branch = nn.Linear(4, 5).double(), nn.Linear(5, 5).double()
    heads = {task: nn.Linear(5, 1).double() for task in TASKS}
    base = stem(torch.randn(7, 4, dtype=torch.float64)).tanh()
    features = {"a": branch(base).tanh(), "c": branch(base).tanh(), "b": base}
    losses = {task: (heads[task](features[task]) - i).square().mean() for i, task in enumerate(TASKS)}
    rows = rows_of(losses, list(stem.parameters()))
    pair = rows_of({task: losses[task] for task in ("a", "c")}, list(branch.parameters()))
    balancer, twin = build(name), build(name)
    values = torch.tensor([loss.item() for loss in losses.values()], dtype=torch.float64).float().double()
    members = torch.tensor([0, 2])
    few = twin.weigh(pair @ pair.T, values[members], members)  # the smaller set first, as the balancer does
    every = twin.weigh(rows @ rows.T, values, torch.arange(3))
    balancer.backward(losses)
    torch.testing.assert_close(written(branch.parameters()), few @ pair, rtol=1e-7, atol=1e-10)
    torch.testing.assert_close(written(stem.parameters()), every @ rows, rtol=1e-7, atol=1e-10)


@pytest.mark.parametrize("kind", EACH_KIND)
def test_one_batch_per_task(kind):
    """Several forward passes in a step: the same numbers as one forward of all rows, where rows do not mix."""
    net = Net(nn.Sequential(nn.Linear(4, 6), nn.Tanh())).double()
    x = {task: torch.randn(5, 4, dtype=torch.float64) for task in TASKS}
    apart = {task: net.losses(x[task])[task] for task in TASKS}
    EACH_KIND[kind]().backward(apart)
    found = grads(net)
    net.zero_grad()
    features = net.trunk(torch.cat(list(x.values()))).split(5)
    joint = {t: (net.heads[t](f) - i).square().mean() for i, (t, f) in enumerate(zip(TASKS, features, strict=True))}
    EACH_KIND[kind]().backward(joint)
    torch.testing.assert_close(found, grads(net), rtol=1e-9, atol=1e-12)


# Layers with a state of their own ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", EACH_KIND)
def test_batch_norm_sees_a_batch_once(kind):
    torch.manual_seed(0)
    net = Net(nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6)))
    plain, x = copy.deepcopy(net), torch.randn(8, 4)
    EACH_KIND[kind]().backward(net.losses(x))
    torch.stack(list(plain.losses(x).values())).sum().backward()
    assert int(net.trunk[1].num_batches_tracked) == 1
    torch.testing.assert_close(dict(net.named_buffers()), dict(plain.named_buffers()), rtol=0, atol=0)


@pytest.mark.parametrize("kind", ["pcgrad", "mgda"])
@pytest.mark.parametrize("memory", [None, 64])
def test_random_layers_are_not_drawn_again(kind, memory):
    """The generator is where a plain step leaves it, and one mask serves all tasks."""
    net = Net(nn.Sequential(nn.Linear(4, 6), nn.Dropout(0.5), nn.Linear(6, 6), nn.RReLU())).double()
    torch.manual_seed(3)
    losses = net.losses(torch.randn(8, 4, dtype=torch.float64))
    rows = rows_of(losses, list(net.trunk.parameters()))
    before = torch.get_rng_state()
    balancer = EACH_KIND[kind]()
    balancer.memory = memory
    step = balancer.backward(losses)
    assert torch.equal(torch.get_rng_state(), before)
    torch.testing.assert_close(written(net.trunk.parameters()), step.weights @ rows, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("kind", EACH_KIND)
def test_complex_heads(kind):
    """Real parameters are shared; each head is complex and gets its plain gradient."""

    class ComplexHead(nn.Module):
        def __init__(self, i, o):
            super().__init__()
            self.weight = nn.Parameter(torch.randn(o, i, dtype=torch.complex64))

        def forward(self, x):
            return x.to(torch.complex64) @ self.weight.T

    net = Net(nn.Sequential(nn.Linear(4, 6), nn.Tanh()), head=ComplexHead)
    losses = net.losses(torch.randn(8, 4))
    rows = rows_of(losses, list(net.trunk.parameters()))
    heads = {t: torch.autograd.grad(losses[t], net.heads[t].weight, retain_graph=True)[0] for t in TASKS}
    step = EACH_KIND[kind]().backward(losses)
    if step.weights is not None:
        torch.testing.assert_close(written(net.trunk.parameters()), step.weights.double() @ rows, rtol=1e-4, atol=1e-5)
    factors = step.weights.tolist() if kind in ("equal", "uncertainty") else [1.0] * 3
    for task, factor in zip(TASKS, factors, strict=True):
        torch.testing.assert_close(net.heads[task].weight.grad, factor * heads[task])


@pytest.mark.parametrize("kind", ["pcgrad", "mgda", "graddrop"])
def test_complex_parameters_that_are_shared(kind):
    """A complex number is two real ones: the inner product is Re<g, h>."""
    spectrum = nn.Parameter(torch.randn(5, dtype=torch.complex128))
    signal = torch.randn(6, 8, dtype=torch.float64)
    heads = [torch.randn(8, dtype=torch.float64) for _ in TASKS]
    features = torch.fft.irfft(torch.fft.rfft(signal) * spectrum, n=8)
    losses = {task: (features @ head).square().mean() for task, head in zip(TASKS, heads, strict=True)}
    rows = [torch.autograd.grad(loss, spectrum, retain_graph=True)[0] for loss in losses.values()]
    real = torch.stack([torch.view_as_real(row).flatten() for row in rows])
    step = EACH_KIND[kind]().backward(losses)
    torch.testing.assert_close(step.gram, real @ real.T, rtol=1e-9, atol=1e-12)
    if step.weights is not None:
        expected = torch.view_as_complex((step.weights @ real).view(5, 2))
        torch.testing.assert_close(spectrum.grad, expected, rtol=1e-9, atol=1e-12)
    assert spectrum.grad.dtype == torch.complex128


@pytest.mark.parametrize("kind", EACH_KIND)
def test_channels_last_gives_the_same_numbers(kind):
    trunk = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 3))
    net, x = Net(trunk, width=8), torch.randn(5, 3, 4, 4)
    other = copy.deepcopy(net).to(memory_format=torch.channels_last)
    EACH_KIND[kind]().backward(net.losses(x))
    EACH_KIND[kind]().backward(other.losses(x.to(memory_format=torch.channels_last)))
    torch.testing.assert_close(grads(other), grads(net), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("forwards", ["one", "one per task"])
@pytest.mark.parametrize("kind", ["pcgrad", "mgda"])
def test_sparse_tables_train_with_sparse_adam(kind, forwards):
    """sparse=True: the gradient that arrives is one that SparseAdam takes, and its rows are the batch's."""
    table = nn.Embedding(50, 3, sparse=True)
    heads = [nn.Linear(3, 1) for _ in TASKS]
    ids = torch.tensor([4, 4, 9, 17])
    dense = nn.Embedding.from_pretrained(table.weight.detach().clone(), freeze=False)

    def losses(layer):
        looked_up = [layer(ids)] * 3 if forwards == "one" else [layer(ids) for _ in TASKS]
        outputs = [head(rows) for head, rows in zip(heads, looked_up, strict=True)]
        return {task: (output - i).square().mean() for i, (task, output) in enumerate(zip(TASKS, outputs, strict=True))}

    EACH_KIND[kind]().backward(losses(dense))
    EACH_KIND[kind]().backward(losses(table))
    torch.testing.assert_close(table.weight.grad.to_dense(), dense.weight.grad)
    before = table.weight.detach().clone()
    torch.optim.SparseAdam(table.parameters(), lr=0.1).step()
    assert (table.weight != before).any(1).nonzero().flatten().tolist() == [4, 9, 17]


# Optimizers and scalers ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", EACH_KIND)
def test_two_optimizers(kind):
    """One for what is shared and one for the heads move what one optimizer with two groups moves."""
    net = Net(nn.Sequential(nn.Linear(4, 6), nn.Tanh()))
    other, batches = copy.deepcopy(net), [torch.randn(8, 4) for _ in range(3)]
    pair = [torch.optim.SGD(net.trunk.parameters(), lr=0.1), torch.optim.Adam(net.heads.parameters(), lr=0.01)]
    pair_too = [torch.optim.SGD(other.trunk.parameters(), lr=0.1), torch.optim.Adam(other.heads.parameters(), lr=0.01)]
    first, second = EACH_KIND[kind](), EACH_KIND[kind]()
    for x in batches:
        for optimizer in pair:
            optimizer.zero_grad()
        first.backward(net.losses(x))
        for optimizer in pair:
            optimizer.step()
        other.zero_grad(set_to_none=False)  # zeros in place of None: nothing may depend on it
        second.backward(other.losses(x))
        for optimizer in reversed(pair_too):
            optimizer.step()
    torch.testing.assert_close(dict(net.named_parameters()), dict(other.named_parameters()), rtol=0, atol=0)


@pytest.mark.parametrize("kind", EACH_KIND)
def test_accumulation_adds_what_each_backward_gives(kind):
    """Two batches before a step, each balanced by itself."""
    net, batches = Net(nn.Sequential(nn.Linear(4, 6), nn.Tanh())), [torch.randn(8, 4) for _ in range(2)]
    balancer, alone = EACH_KIND[kind](), []
    twin = EACH_KIND[kind]()
    for x in batches:
        net.zero_grad()
        twin.backward(net.losses(x))
        alone.append(grads(net))
    net.zero_grad()
    for x in batches:
        balancer.backward(net.losses(x))
    torch.testing.assert_close(grads(net), {name: alone[0][name] + alone[1][name] for name in alone[0]})


@pytest.mark.parametrize("kind", EACH_KIND)
@pytest.mark.filterwarnings("ignore:.*skipped a step:RuntimeWarning")
def test_a_scaler_backs_off_until_it_fits(kind):
    """The scaled gradient overflows float32 at first: steps are skipped, the scale falls, then it trains."""
    net = Net(nn.Sequential(nn.Linear(4, 6), nn.Tanh()))
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127, backoff_factor=2.0**-40)
    optimizer, balancer, skipped = torch.optim.SGD(net.parameters(), lr=1e-6), EACH_KIND[kind](), []
    x = torch.randn(8, 4)
    for _ in range(5):
        before = [p.detach().clone() for p in net.parameters()]
        optimizer.zero_grad()
        step = balancer.backward({t: 1e3 * loss for t, loss in net.losses(x).items()}, scaler=scaler)
        scaler.step(optimizer)
        scaler.update()
        moved = any(not torch.equal(p, b) for p, b in zip(net.parameters(), before, strict=True))
        assert all(torch.isfinite(p).all() for p in net.parameters())
        skipped.append(not moved)
        if step.skipped is not None:
            assert not moved
    assert skipped[0]
    assert not skipped[-1]
    assert scaler.get_scale() < 2.0**127


@pytest.mark.parametrize("kind", ["pcgrad", "mgda"])
def test_autocast_in_bfloat16(kind):
    """Forward under autocast; the backward may stand inside or outside, and the Gramian is that of the loop."""
    net, x = Net(nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 6))), torch.randn(16, 64)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = {task: loss.float() for task, loss in net.losses(x).items()}
    rows = rows_of(losses, list(net.trunk.parameters()))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        step = EACH_KIND[kind]().backward(losses)
    scale = (rows @ rows.T).abs().max()
    assert ((step.gram - rows @ rows.T).abs() <= 2e-2 * scale).all()
    direction = step.weights @ rows
    assert ((written(net.trunk.parameters()) - direction).norm() <= 2e-2 * direction.norm()).all()
    assert all(p.grad.dtype == torch.float32 for p in net.parameters())


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
@pytest.mark.parametrize("what", ["trunk", "model"])
@pytest.mark.parametrize("tasks", [3, 6])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_compiled_model(tasks, what, backend):
    """The same Gramian of the trunk, the same direction, plain heads."""
    torch._dynamo.reset()
    trunk, x = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 6)), torch.randn(8, 4)
    heads = nn.ModuleList(nn.Linear(6, 1) for _ in range(tasks))

    def outputs(x, trunk):
        features = trunk(x)
        return [head(features) for head in heads]

    def losses(outputs):
        return {str(i): F.mse_loss(output, x[:, :1] * i) for i, output in enumerate(outputs)}

    rows = rows_of(losses(outputs(x, trunk)), list(trunk.parameters()))
    plain = [torch.autograd.grad(loss, head.weight)[0]
             for loss, head in zip(losses(outputs(x, trunk)).values(), heads, strict=True)]  # fmt: skip
    if what == "trunk":
        step = MGDA().backward(losses(outputs(x, torch.compile(trunk, backend=backend))))
    else:
        step = MGDA().backward(losses(torch.compile(outputs, backend=backend)(x, trunk)))
    torch.testing.assert_close(step.gram, rows @ rows.T, rtol=1e-4, atol=1e-7)
    torch.testing.assert_close(written(trunk.parameters()), step.weights @ rows, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close([head.weight.grad for head in heads], plain)
    torch._dynamo.reset()


@pytest.mark.parametrize("tasks", [3, 12])
def test_every_gramian_is_symmetric(tasks):
    """float32 products are not by themselves; solvers that exchange rows and columns go astray over 1e-9."""
    trunk = nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Conv1d(1, 2, 3), nn.Flatten())
    features = trunk(torch.randn(9, 1, 16))
    heads = [nn.Linear(features.shape[1], 1) for _ in range(tasks)]
    losses = {str(i): (head(features) - i).square().mean() for i, head in enumerate(heads)}
    for gram in (gramian(losses), gramian(losses, at=[features])):
        assert torch.equal(gram, gram.T)


@pytest.mark.parametrize("wrapper", ["refreshed", "probed", "clipped", "weighted heads"])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_wrappers_work_on_a_compiled_trunk_and_refuse_a_compiled_model(wrapper):
    """One node with the outputs of all tasks does not tell whose head is whose; weighting heads would be silent."""
    torch._dynamo.reset()
    trunk, x = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 6)), torch.randn(8, 4)
    heads = nn.ModuleList(nn.Linear(6, 1) for _ in TASKS)
    make = {
        "refreshed": lambda: RefreshEvery(MGDA(), 2, TASKS),
        "probed": lambda: Probed(MGDA()),
        "clipped": lambda: Clipped(MGDA(), 0.5),
        "weighted heads": lambda: WeightedHeads(MGDA()),
    }[wrapper]

    def outputs(trunk, x):
        features = trunk(x)
        return [head(features) for head in heads]

    def losses(outputs):
        return {task: F.mse_loss(o, x[:, :1] * i) for i, (task, o) in enumerate(zip(TASKS, outputs, strict=True))}

    leaves, found = [*trunk.parameters(), *heads.parameters()], []
    for seen in (trunk, torch.compile(trunk, backend="aot_eager")):
        balancer = make()
        for _ in range(2):
            for p in leaves:
                p.grad = None
            balancer.backward(losses(outputs(seen, x)), fresh=lambda seen=seen: losses(outputs(seen, x)))
        found.append(written(leaves))
    torch.testing.assert_close(found[0], found[1], rtol=1e-5, atol=1e-7)
    whole = torch.compile(outputs, backend="aot_eager")
    with pytest.raises(UserError, match="Compile the trunk only"):
        make().backward(losses(whole(trunk, x)), fresh=lambda: losses(whole(trunk, x)))
    torch._dynamo.reset()
