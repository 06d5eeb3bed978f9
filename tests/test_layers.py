"""The traps of an engine that never forms the Jacobian: every kind of layer against a loop of `torch.autograd.grad`."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations
from torch.utils.checkpoint import checkpoint

from polytask import GramBalancer, JacobianBalancer
from polytask.gradients import gramian

WEIGHTS = torch.tensor([1.0, -0.5, 2.0, 0.3, -1.2], dtype=torch.float64)
TASKS = [3, 5]  # one by one, and together
ROWS, WIDTH = 6, 5
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-5}


class FixedGram(GramBalancer):
    """Known weights, so that what is written is a known linear function of the task gradients."""

    def weigh(self, gram, losses, rows):
        return WEIGHTS[: len(gram)]


class FixedJacobian(JacobianBalancer):
    """The same update by the route that sees every number."""

    def merge(self, jacobian, losses, rows):
        return WEIGHTS[: len(jacobian)].to(jacobian) @ jacobian


class Net(nn.Module):
    """A trunk that is shared and three heads; a loss per task that is not linear in the features."""

    def __init__(self, trunk, x, tasks=3):
        super().__init__()
        self.trunk = trunk
        self.heads = nn.ModuleList(nn.Linear(trunk(x).flatten(1).shape[1], 2) for _ in range(tasks))

    def losses(self, x):
        features = self.trunk(x).flatten(1)
        return {f"t{i}": (head(features) - i).square().mean() for i, head in enumerate(self.heads)}


class Lambda(nn.Module):
    """Parameters by name and a function of them."""

    def __init__(self, forward, **parts):
        super().__init__()
        self.function = forward
        for name, part in parts.items():
            setattr(self, name, nn.Parameter(part) if isinstance(part, torch.Tensor) else part)

    def forward(self, x):
        return self.function(self, x)


def frozen(module, *names):
    for name in names:
        module.get_parameter(name).requires_grad_(False)
    return module


def hooked(module, name):
    module.get_parameter(name).register_hook(lambda gradient: 3 * gradient)
    return module


def offloaded(self, x):
    with torch.autograd.graph.saved_tensors_hooks(lambda t: t.numpy().copy(), torch.from_numpy):
        return self.linear(x).tanh()


def hooked_output(linear):
    def forward(self, x):
        y = self.linear(x)
        y.register_hook(lambda gradient: gradient * torch.arange(1.0, WIDTH + 1).to(gradient))
        return y

    return Lambda(forward, linear=linear)


class Reversed(torch.autograd.Function):
    """A function of one's own, without a rule for vmap; its gradient depends on the numbers that it gets."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return -gradient / (1 + gradient.abs().max().item())


def r(*shape):
    return torch.randn(*shape) / shape[-1] ** 0.5


LINEAR = {
    "linear": lambda: nn.Linear(4, WIDTH),
    "two linears": lambda: nn.Sequential(nn.Linear(4, 7), nn.Tanh(), nn.Linear(7, WIDTH)),
    "no bias": lambda: nn.Linear(4, WIDTH, bias=False),
    "bias frozen": lambda: frozen(nn.Linear(4, WIDTH), "bias"),
    "weight frozen": lambda: frozen(nn.Linear(4, WIDTH), "weight"),
    "first layer frozen": lambda: nn.Sequential(
        frozen(nn.Linear(4, 7), "weight", "bias"), nn.Tanh(), nn.Linear(7, WIDTH)
    ),
    "functional": lambda: Lambda(lambda s, x: F.linear(x, s.w, s.b), w=r(WIDTH, 4), b=r(WIDTH)),
    "matmul, weight right": lambda: Lambda(lambda s, x: x @ s.w + s.b, w=r(4, WIDTH), b=r(WIDTH)),
    "matmul, weight transposed": lambda: Lambda(lambda s, x: x @ s.w.T, w=r(WIDTH, 4)),
    "matmul, weight left": lambda: Lambda(lambda s, x: (s.w @ x.T).T, w=r(WIDTH, 4)),
    "functional, transposed": lambda: Lambda(lambda s, x: F.linear(x, s.w.T), w=r(4, WIDTH)),
    "addmm, alpha and beta": lambda: Lambda(
        lambda s, x: torch.addmm(s.b, x, s.w, beta=0.5, alpha=2.0), w=r(4, WIDTH), b=r(WIDTH)
    ),
    "addmm, a bias per row": lambda: Lambda(
        lambda s, x: torch.addmm(s.b, x, s.w), w=r(4, WIDTH), b=r(ROWS, WIDTH)
    ),
    "addmm, one bias": lambda: Lambda(lambda s, x: torch.addmm(s.b, x, s.w), w=r(4, WIDTH), b=r(1)),
    "addmm, a column of biases": lambda: Lambda(lambda s, x: torch.addmm(s.b, x, s.w), w=r(4, WIDTH), b=r(ROWS, 1)),
    "addmm, the weight is not a leaf": lambda: Lambda(
        lambda s, x: torch.addmm(s.b, x, s.w.tanh()), w=r(4, WIDTH), b=r(WIDTH)
    ),
    "addmm, the bias is not a leaf": lambda: Lambda(
        lambda s, x: torch.addmm(s.b.tanh(), x, s.w), w=r(4, WIDTH), b=r(WIDTH)
    ),
    "addmm, alpha and beta, transposed": lambda: Lambda(
        lambda s, x: torch.addmm(s.b, x, s.w.t(), beta=0.5, alpha=2.0), w=r(WIDTH, 4), b=r(WIDTH)
    ),
    "addmm, a bias per row, transposed": lambda: Lambda(
        lambda s, x: torch.addmm(s.b, x, s.w.t()), w=r(WIDTH, 4), b=r(ROWS, WIDTH)
    ),
    "addmm, one bias, transposed": lambda: Lambda(lambda s, x: torch.addmm(s.b, x, s.w.t()), w=r(WIDTH, 4), b=r(1)),
    "addmm, a column of biases, transposed": lambda: Lambda(
        lambda s, x: torch.addmm(s.b, x, s.w.t()), w=r(WIDTH, 4), b=r(ROWS, 1)
    ),
    "addmm, the weight is not a leaf, transposed": lambda: Lambda(
        lambda s, x: torch.addmm(s.b, x, s.w.tanh().t()), w=r(WIDTH, 4), b=r(WIDTH)
    ),
    "addmm, the bias is not a leaf, transposed": lambda: Lambda(
        lambda s, x: torch.addmm(s.b.tanh(), x, s.w.t()), w=r(WIDTH, 4), b=r(WIDTH)
    ),
    "the bias is also the scale": lambda: Lambda(
        lambda s, x: s.linear(x) * s.linear.bias, linear=nn.Linear(4, WIDTH)
    ),
    "the weight is also penalised": lambda: Lambda(
        lambda s, x: s.linear(x) + s.linear.weight.square().sum(), linear=nn.Linear(4, WIDTH)
    ),
    "part of a weight": lambda: Lambda(lambda s, x: F.linear(x, s.w[:WIDTH]), w=r(2 * WIDTH, 4)),
    "a weight split in two": lambda: Lambda(
        lambda s, x: torch.cat([F.linear(x, part) for part in s.w.split(3)], 1), w=r(6, 4)
    ),
    "a masked weight": lambda: Lambda(
        lambda s, x: F.linear(x, s.w * (torch.arange(4) != 2).to(s.w)), w=r(WIDTH, 4)
    ),
    "two factors": lambda: Lambda(lambda s, x: x @ (s.a @ s.b), a=r(4, 2), b=r(2, WIDTH)),
    "einsum": lambda: Lambda(lambda s, x: torch.einsum("bi,oi->bo", x, s.w), w=r(WIDTH, 4)),
    "batched product": lambda: Lambda(
        lambda s, x: torch.bmm(x.view(ROWS, 2, 2).transpose(0, 1), s.w).transpose(0, 1), w=r(2, 2, 3)
    ),
    "3-D inputs": lambda: nn.Sequential(nn.Unflatten(1, (2, 2)), nn.Linear(2, WIDTH)),
    "4-D inputs": lambda: nn.Sequential(nn.Unflatten(1, (2, 1, 2)), nn.Linear(2, WIDTH), nn.ReLU()),
    "3-D inputs, no bias": lambda: nn.Sequential(nn.Unflatten(1, (2, 2)), nn.Linear(2, WIDTH, bias=False)),
    "3-D inputs, not contiguous": lambda: Lambda(
        lambda s, x: s.linear(x.view(ROWS, 2, 2).transpose(0, 1)).transpose(0, 1), linear=nn.Linear(2, WIDTH)
    ),
    "expanded inputs": lambda: Lambda(
        lambda s, x: s.linear(x[:1].expand(ROWS, -1)) * x[:, :1], linear=nn.Linear(4, WIDTH)
    ),
    "one row at a time": lambda: Lambda(
        lambda s, x: torch.stack([s.linear(row) for row in x]), linear=nn.Linear(4, WIDTH)
    ),
    "called twice, in a row": lambda: Lambda(lambda s, x: s.linear(s.linear(x).tanh()), linear=nn.Linear(4, 4)),
    "called twice, side by side": lambda: Lambda(
        lambda s, x: s.linear(x) * s.linear(x.flip(1)), linear=nn.Linear(4, WIDTH)
    ),
    "tied, both ways round": lambda: Lambda(lambda s, x: F.linear(F.linear(x, s.w).tanh(), s.w.T), w=r(WIDTH, 4)),
    "one bias for two layers": lambda: Lambda(
        lambda s, x: F.linear(F.linear(x, s.a, s.b).tanh(), s.c, s.b), a=r(4, 4), c=r(4, 4), b=r(4)
    ),
    "residual": lambda: Lambda(lambda s, x: s.linear(x).tanh() + s.linear(x).detach() + x, linear=nn.Linear(4, 4)),
    "the output is used twice": lambda: Lambda(
        lambda s, x: (lambda y: y * y.sigmoid() + y)(s.linear(x)), linear=nn.Linear(4, WIDTH)
    ),
    "in-place after it": lambda: nn.Sequential(nn.Linear(4, WIDTH), nn.LeakyReLU(inplace=True)),
    "in-place on it": lambda: Lambda(lambda s, x: s.linear(x).mul_(2).add_(1), linear=nn.Linear(4, WIDTH)),
    "only some of its outputs": lambda: Lambda(lambda s, x: s.linear(x)[:, 1:3], linear=nn.Linear(4, WIDTH)),
    "an input that is a leaf": lambda: Lambda(
        lambda s, x: x[:, :1] * s.linear(s.latent), linear=nn.Linear(4, WIDTH), latent=r(ROWS, 4)
    ),
    "an input that depends on a leaf": lambda: Lambda(
        lambda s, x: s.linear(x + s.shift), linear=nn.Linear(4, WIDTH), shift=r(4)
    ),
    "a hook on the weight": lambda: hooked(nn.Linear(4, WIDTH), "weight"),
    "a hook on the bias": lambda: hooked(nn.Linear(4, WIDTH), "bias"),
    "a hook on the output": lambda: hooked_output(nn.Linear(4, WIDTH)),
    "weight norm": lambda: parametrizations.weight_norm(nn.Linear(4, WIDTH)),
    "spectral norm": lambda: parametrizations.spectral_norm(nn.Linear(4, WIDTH)).eval(),
    "orthogonal": lambda: parametrizations.orthogonal(nn.Linear(4, 4)),
    "bilinear": lambda: Lambda(lambda s, x: s.b(x[:, :2], x[:, 2:]), b=nn.Bilinear(2, 2, WIDTH)),
    "layer norm": lambda: nn.Sequential(nn.Linear(4, WIDTH), nn.LayerNorm(WIDTH)),
    "batch norm": lambda: nn.Sequential(nn.Linear(4, WIDTH), nn.BatchNorm1d(WIDTH), nn.Linear(WIDTH, 3)),
    "group norm": lambda: nn.Sequential(nn.Linear(4, 6), nn.GroupNorm(2, 6)),
    "prelu": lambda: nn.Sequential(nn.Linear(4, WIDTH), nn.PReLU()),
    "attention": lambda: Lambda(
        lambda s, x: s.a(*[s.up(x.view(ROWS, 2, 2))] * 3)[0],
        a=nn.MultiheadAttention(4, 2, batch_first=True), up=nn.Linear(2, 4),
    ),
    "transformer layer": lambda: nn.Sequential(
        nn.Unflatten(1, (2, 2)), nn.Linear(2, 4), nn.TransformerEncoderLayer(4, 2, 6, 0.0, batch_first=True)
    ),
    "lstm": lambda: Lambda(lambda s, x: s.rnn(x.view(ROWS, 2, 2))[0], rnn=nn.LSTM(2, 3, batch_first=True)),
    "gru, two layers": lambda: Lambda(
        lambda s, x: s.rnn(x.view(ROWS, 2, 2))[0][:, -1], rnn=nn.GRU(2, 3, num_layers=2, bidirectional=True)
    ),
    "rnn cell": lambda: Lambda(lambda s, x: s.cell(x[:, :2], s.cell(x[:, 2:])), cell=nn.RNNCell(2, 4)),
    "a function of one's own": lambda: Lambda(lambda s, x: Reversed.apply(s.linear(x)), linear=nn.Linear(4, WIDTH)),
    "saved on the way": lambda: Lambda(offloaded, linear=nn.Linear(4, WIDTH)),
    "checkpoint": lambda: Lambda(
        lambda s, x: checkpoint(s.body, x, use_reentrant=False),
        body=nn.Sequential(nn.Linear(4, 7), nn.Tanh(), nn.Linear(7, WIDTH)),
    ),
}  # fmt: skip

IMAGES = {
    "conv 3x3": lambda: nn.Conv2d(4, 3, 3, padding=1),
    "conv 1x1": lambda: nn.Conv2d(4, WIDTH, 1),
    "conv 1x1, no bias": lambda: nn.Conv2d(4, WIDTH, 1, bias=False),
    "conv, groups": lambda: nn.Conv2d(4, 6, 3, padding=1, groups=2),
    "conv, depthwise": lambda: nn.Conv2d(4, 4, 3, groups=4),
    "conv, stride and dilation": lambda: nn.Conv2d(4, 3, 2, stride=2, dilation=2),
    "conv, reflected": lambda: nn.Conv2d(4, 3, 3, padding=1, padding_mode="reflect"),
    "conv, transposed": lambda: nn.ConvTranspose2d(4, 3, 2, stride=2),
    "conv 1-D": lambda: nn.Sequential(nn.Flatten(2), nn.Conv1d(4, 3, 3)),
    "conv called twice": lambda: Lambda(lambda s, x: s.c(s.c(x).tanh()), c=nn.Conv2d(4, 4, 3, padding=1)),
    "conv and batch norm": lambda: nn.Sequential(nn.Conv2d(4, 3, 3, bias=False), nn.BatchNorm2d(3), nn.ReLU()),
    "conv weight norm": lambda: parametrizations.weight_norm(nn.Conv2d(4, 3, 3)),
    "conv, weight frozen": lambda: frozen(nn.Conv2d(4, 3, 3), "weight"),
    "a whole-map conv": lambda: nn.Conv2d(4, 3, 5),
    "instance norm": lambda: nn.InstanceNorm2d(4, affine=True),
    "linear on the last axis": lambda: nn.Linear(5, 3),
}

TABLES = {
    "embedding": lambda: nn.Embedding(9, 3),
    "embedding, a large table": lambda: nn.Embedding(400, 3),
    "embedding, padding": lambda: nn.Embedding(9, 3, padding_idx=2),
    "embedding, a large table with padding": lambda: nn.Embedding(400, 3, padding_idx=2),
    "embedding, by frequency": lambda: nn.Embedding(400, 3, scale_grad_by_freq=True),
    "embedding, max norm": lambda: nn.Embedding(400, 3, max_norm=0.5),
    "embedding, sparse": lambda: nn.Embedding(400, 3, sparse=True),
    "embedding, functional": lambda: Lambda(lambda s, x: F.embedding(x, s.w), w=r(400, 3)),
    "embedding, rows by index": lambda: Lambda(lambda s, x: s.w[x], w=r(400, 3)),
    "embedding, index_select": lambda: Lambda(lambda s, x: s.w.index_select(0, x.flatten()).view(6, -1), w=r(400, 3)),
    "embedding, one-hot": lambda: Lambda(lambda s, x: F.one_hot(x, 9).to(s.w) @ s.w, w=r(9, 3)),
    "embedding called twice": lambda: Lambda(lambda s, x: s.e(x) * s.e(x.flip(1)), e=nn.Embedding(400, 3)),
    "embedding tied to a linear": lambda: Lambda(lambda s, x: F.linear(s.e(x), s.e.weight), e=nn.Embedding(9, 3)),
    "embedding with a hook": lambda: hooked(nn.Embedding(400, 3), "weight"),
    "embedding, its weight is not a leaf": lambda: parametrizations.weight_norm(nn.Embedding(9, 3)),
    "embedding and a linear": lambda: nn.Sequential(nn.Embedding(400, 3), nn.Flatten(), nn.Linear(12, WIDTH)),
    "embedding bag, sum": lambda: nn.EmbeddingBag(400, 3, mode="sum"),
    "embedding bag, mean": lambda: nn.EmbeddingBag(400, 3, mode="mean"),
    "embedding bag, max": lambda: nn.EmbeddingBag(400, 3, mode="max"),
    "embedding bag, sparse": lambda: nn.EmbeddingBag(400, 3, mode="sum", sparse=True),
}  # fmt: skip


TRUNKS = {**LINEAR, **IMAGES, **TABLES}


def inputs(kind):
    if kind in LINEAR:
        return torch.randn(ROWS, 4)
    if kind in IMAGES:
        return torch.randn(ROWS, 4, 5, 5)
    return torch.tensor([[1, 2, 2, 8], [3, 3, 3, 3], [0, 1, 2, 5], [7, 6, 5, 4], [2, 2, 8, 8], [1, 1, 0, 4]])


def to(x, dtype):
    return x.to(dtype) if x.is_floating_point() else x


def jacobian(losses, leaves):
    """Task gradients in float64, one plain autograd call for each loss."""
    rows = []
    for loss in losses:
        found = torch.autograd.grad(loss, leaves, retain_graph=True, allow_unused=True)
        parts = [torch.zeros_like(p) if g is None else g.to_dense() for p, g in zip(leaves, found, strict=True)]
        rows.append(torch.cat([part.flatten().double() for part in parts]))
    return torch.stack(rows)


def shared(net):
    return [p for p in net.trunk.parameters() if p.requires_grad]


def written(leaves):
    return torch.cat([torch.zeros(p.numel()).double() if p.grad is None else p.grad.to_dense().flatten().double()
                      for p in leaves])  # fmt: skip


def close(found, expected, tolerance, scale=None):
    scale = expected.abs().max() if scale is None else scale
    assert torch.isfinite(found).all()
    assert (found - expected).abs().max() <= tolerance * scale


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("tasks", TASKS)
@pytest.mark.parametrize("kind", TRUNKS)
def test_a_layer(kind, tasks, dtype):
    """The Gramian, both routes to `.grad`, and accumulation, against a float64 copy of the same network."""
    x = inputs(kind)
    net, exact = (Net(TRUNKS[kind](), x, tasks) for _ in range(2))  # a copy would leave hooks behind
    exact.load_state_dict(net.state_dict())
    net, exact = net.to(dtype), exact.double()
    jac = jacobian(exact.losses(to(x, torch.float64)).values(), shared(exact))
    exact.zero_grad()
    plain = [torch.autograd.grad(loss, list(head.parameters()), retain_graph=True)
             for loss, head in zip(exact.losses(to(x, torch.float64)).values(), exact.heads, strict=True)]  # fmt: skip

    losses = net.losses(to(x, dtype))
    tolerance = TOLERANCE[dtype]
    close(gramian(losses), jac @ jac.T, tolerance)
    assert all(p.grad is None for p in net.parameters())
    step = FixedGram().backward(losses)
    close(step.gram, jac @ jac.T, tolerance)
    expected, scale = WEIGHTS[:tasks] @ jac, jac.abs().max()
    close(written(shared(net)), expected, tolerance, scale)
    assert all(p.grad is None or p.grad.dtype == p.dtype for p in net.parameters())
    assert all(p.grad is None or p.grad.shape == p.shape for p in net.parameters())
    FixedJacobian().backward(net.losses(to(x, dtype)))  # adds up
    close(written(shared(net)), 2 * expected, 2 * tolerance, scale)
    for head, gradients in zip(net.heads, plain, strict=True):
        for p, gradient in zip(head.parameters(), gradients, strict=True):
            close(p.grad.double(), 2 * gradient, 2 * tolerance)


@pytest.mark.parametrize("kind", ["linear", "no bias", "called twice, in a row", "3-D inputs", "embedding",
                                  "embedding, a large table", "conv 3x3"])  # fmt: skip
class TestWhatALossSees:
    def test_one_forward_per_task(self, kind):
        """Each task has inputs of its own, so every layer runs once per task."""
        net = Net(TRUNKS[kind](), inputs(kind)).double()
        batches = [to(inputs(kind), torch.float64) for _ in range(3)]
        if kind in TABLES:
            batches = [(ids + i) % 9 for i, ids in enumerate(batches)]

        def losses():
            return {task: net.losses(x)[task] for task, x in zip(("t0", "t1", "t2"), batches, strict=True)}

        self.check(losses(), net)

    def test_a_task_on_some_of_the_rows(self, kind):
        net, x = Net(TRUNKS[kind](), inputs(kind)).double(), inputs(kind)
        features = net.trunk(to(x, torch.float64)).flatten(1)
        parts = (features[:2], features[2:], features[1:2])
        outputs = [head(part) for head, part in zip(net.heads, parts, strict=True)]
        losses = {f"t{i}": output.square().mean() for i, output in enumerate(outputs)}
        self.check(losses, net)

    def test_a_task_through_two_forwards(self, kind):
        net, x = Net(TRUNKS[kind](), inputs(kind)).double(), to(inputs(kind), torch.float64)
        losses = net.losses(x)
        losses["t1"] = losses["t1"] + net.losses(x.flip(0))["t1"].square()
        self.check(losses, net)

    def test_a_layer_that_one_of_three_tasks_does_not_reach(self, kind):
        """Two groups of leaves: what all share, and what two share; each has the weights' own rows."""
        trunk = TRUNKS[kind]()
        net, x = Net(trunk, inputs(kind)).double(), to(inputs(kind), torch.float64)
        below = nn.Linear(4, 4).double()
        losses = net.losses(x)
        common = below(torch.randn(3, 4, dtype=torch.float64))
        losses = {task: loss * (1 + common[:, i].square().mean()) for i, (task, loss) in enumerate(losses.items())}
        losses["t2"] = net.heads[2].bias.square().sum() * common.square().mean()
        groups = [(list(below.parameters()), [0, 1, 2]), (shared(net), [0, 1])]
        gram, expected = torch.zeros(3, 3, dtype=torch.float64), []
        for leaves, rows in groups:
            jac = jacobian([list(losses.values())[row] for row in rows], leaves)
            gram[torch.tensor(rows)[:, None], torch.tensor(rows)] += jac @ jac.T
            expected.append(WEIGHTS[: len(rows)] @ jac)
        step = FixedGram().backward(losses)
        close(step.gram, gram, 1e-9)
        for (leaves, _), direction in zip(groups, expected, strict=True):
            close(written(leaves), direction, 1e-9)

    def check(self, losses, net):
        jac = jacobian(losses.values(), shared(net))
        close(gramian(losses), jac @ jac.T, 1e-9)
        FixedGram().backward(losses)
        close(written(shared(net)), WEIGHTS[: len(jac)] @ jac, 1e-9)


def test_inputs_that_require_gradients_are_shared_leaves():
    net, x = Net(nn.Linear(4, WIDTH), torch.randn(ROWS, 4)).double(), torch.randn(ROWS, 4, dtype=torch.float64)
    x.requires_grad_()
    losses = net.losses(x)
    jac = jacobian(losses.values(), [*shared(net), x])
    step = FixedGram().backward(losses)
    close(step.gram, jac @ jac.T, 1e-9)
    close(written([*shared(net), x]), WEIGHTS[: len(jac)] @ jac, 1e-9)


def test_one_layer_may_be_trunk_and_head():
    """The loss of one task is a function of the shared layer's own output."""
    net, x = Net(nn.Linear(4, WIDTH), torch.randn(ROWS, 4)).double(), torch.randn(ROWS, 4, dtype=torch.float64)
    losses = net.losses(x)
    losses["t1"] = net.trunk(x).square().mean()
    losses["t2"] = net.trunk.weight.abs().sum()
    jac = jacobian(losses.values(), shared(net))
    close(FixedGram().backward(losses).gram, jac @ jac.T, 1e-9)
    close(written(shared(net)), WEIGHTS[: len(jac)] @ jac, 1e-9)


def test_many_tasks_few_rows_and_wide_layers():
    """Where the Gramian without the Jacobian is far cheaper: 12 tasks, 3 rows, width 64."""
    trunk = nn.Sequential(nn.Linear(8, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh()).double()
    heads = [nn.Linear(64, 1).double() for _ in range(12)]
    features = trunk(torch.randn(3, 8, dtype=torch.float64))
    losses = {str(i): (head(features) - i).square().mean() for i, head in enumerate(heads)}
    jac = jacobian(losses.values(), list(trunk.parameters()))
    close(gramian(losses), jac @ jac.T, 1e-9)


def test_dropout_draws_one_mask_for_all_tasks():
    net = Net(nn.Sequential(nn.Linear(4, WIDTH), nn.Dropout(0.5)), torch.randn(ROWS, 4)).double()
    losses = net.losses(torch.randn(ROWS, 4, dtype=torch.float64))
    jac = jacobian(losses.values(), shared(net))
    close(FixedGram().backward(losses).gram, jac @ jac.T, 1e-9)
    close(written(shared(net)), WEIGHTS[: len(jac)] @ jac, 1e-9)
