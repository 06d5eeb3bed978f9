"""The engine against closed forms: who shares what, task gradients, the Gramian, and the way back to `.grad`."""

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from polytask import MGDA, Equal, GradDrop, PCGrad, RefreshEvery
from polytask.gradients import accumulate, chunked_gram, fused_heads, gramian, reaches, task_gradients


def two_heads(dtype=torch.float64):
    """y_t = v_t . (W x): the smallest model with a shared and an own part, and its squared errors."""
    shared = torch.randn(3, 4, dtype=dtype, requires_grad=True)
    heads = [torch.randn(3, dtype=dtype, requires_grad=True) for _ in range(2)]
    x, targets = torch.randn(5, 4, dtype=dtype), torch.randn(2, 5, dtype=dtype)
    features = x @ shared.T
    losses = {n: (features @ v - y).square().mean() for n, v, y in zip("ab", heads, targets, strict=True)}
    return shared, heads, x, targets, losses


def closed_form(shared, heads, x, targets):
    """dL_t/dW = 2/B v_t (r_t' X) and dL_t/dv_t = 2/B F' r_t."""
    trunk, own = [], []
    with torch.no_grad():
        for v, y in zip(heads, targets, strict=True):
            residual = x @ shared.T @ v - y
            trunk.append(2 / len(x) * torch.outer(v, residual @ x))
            own.append(2 / len(x) * (x @ shared.T).T @ residual)
    return trunk, own


def test_task_gradients_of_two_linear_heads_have_their_closed_form():
    shared, heads, x, targets, losses = two_heads()
    trunk, own = closed_form(shared, heads, x, targets)
    found = task_gradients(list(losses.values()))
    (block,) = found.blocks
    assert block.leaves == (shared,)
    assert block.rows == (0, 1)
    torch.testing.assert_close(block.jacobian(), torch.stack(trunk).reshape(2, -1))
    torch.testing.assert_close(block.gram(), block.jacobian() @ block.jacobian().T)
    assert [leaf is head for (leaf, _), head in zip(found.own, heads, strict=True)] == [True, True]
    for (_, gradient), expected in zip(found.own, own, strict=True):
        torch.testing.assert_close(gradient, expected)
    assert shared.grad is None


@pytest.mark.parametrize("balancer", [PCGrad(), MGDA(), GradDrop()], ids=lambda b: type(b).__name__)
def test_heads_get_their_plain_gradient(balancer):
    shared, heads, x, targets, losses = two_heads()
    own = closed_form(shared, heads, x, targets)[1]
    balancer.backward(losses)
    for head, expected in zip(heads, own, strict=True):
        torch.testing.assert_close(head.grad, expected)
    assert shared.grad is not None


def test_gramian_of_the_whole_step_is_over_all_shared_parameters():
    shared, heads, x, targets, losses = two_heads()
    trunk = torch.stack(closed_form(shared, heads, x, targets)[0]).reshape(2, -1)
    gram = gramian(losses)
    torch.testing.assert_close(gram, trunk @ trunk.T)
    assert all(p.grad is None for p in (shared, *heads))
    step = MGDA().backward(losses)  # the graph is still there
    torch.testing.assert_close(step.gram, gram)


def test_a_parameter_shared_by_some_of_the_tasks_is_balanced_among_those():
    generator = torch.Generator().manual_seed(3)
    rows = torch.randn(3, 6, generator=generator, dtype=torch.float64)
    pair = torch.randn(2, 4, generator=generator, dtype=torch.float64)
    x, y = torch.zeros(6, dtype=torch.float64, requires_grad=True), torch.zeros(4, dtype=torch.float64)
    y.requires_grad_()
    losses = {"a": rows[0] @ x + pair[0] @ y, "b": rows[1] @ x, "c": rows[2] @ x + pair[1] @ y}
    assert [(g.rows, len(g.leaves)) for g in reaches(list(losses.values()))] == [((0, 1, 2), 1), ((0, 2), 1)]
    step = MGDA().backward(losses)
    alone_x, alone_y = torch.zeros_like(x, requires_grad=True), torch.zeros_like(y, requires_grad=True)
    expected = MGDA().backward({str(i): row @ alone_x for i, row in enumerate(rows)})
    MGDA().backward({str(i): row @ alone_y for i, row in enumerate(pair)})
    torch.testing.assert_close(x.grad, alone_x.grad)
    torch.testing.assert_close(y.grad, alone_y.grad)
    torch.testing.assert_close(step.weights, expected.weights)  # those of the largest set
    full = rows @ rows.T
    full[[0, 0, 2, 2], [0, 2, 0, 2]] += (pair @ pair.T).flatten()
    torch.testing.assert_close(step.gram, full)


def test_a_shared_parameter_that_one_task_does_not_use():
    x, y = torch.ones(3, requires_grad=True), torch.ones(2, requires_grad=True)
    losses = {"a": x.square().sum() + y.sum(), "b": x.sum(), "c": (x * torch.tensor([1.0, -2.0, 0.5])).sum()}
    step = PCGrad().backward(losses)
    assert step.gram[1, 1] == 3.0
    assert step.gram[0, 0] == 12.0  # y is a's own: no part of what is shared
    torch.testing.assert_close(y.grad, torch.ones(2))


def test_frozen_and_unused_parameters_are_left_alone():
    frozen, unused, head = nn.Linear(3, 4), nn.Linear(2, 2), nn.ModuleList([nn.Linear(4, 1), nn.Linear(4, 1)])
    frozen.requires_grad_(False)
    middle = nn.Linear(4, 4)
    features = middle(frozen(torch.randn(5, 3)))
    MGDA().backward({str(i): h(features).square().mean() for i, h in enumerate(head)})
    assert frozen.weight.grad is None
    assert unused.weight.grad is None
    assert middle.weight.grad is not None
    assert head[0].weight.grad is not None


def test_tasks_that_share_nothing_get_plain_gradients():
    a, b = torch.ones(2, requires_grad=True), torch.ones(3, requires_grad=True)
    step = PCGrad().backward({"a": a.square().sum(), "b": 3 * b.sum()})
    torch.testing.assert_close(a.grad, torch.full((2,), 2.0))
    torch.testing.assert_close(b.grad, torch.full((3,), 3.0))
    assert torch.isnan(step.weights).all()


def test_twice_the_same_loss_is_two_tasks():
    x = torch.ones(2, requires_grad=True)
    loss = x.square().sum()
    MGDA().backward({"a": loss, "b": loss})
    torch.testing.assert_close(x.grad, torch.full((2,), 2.0))


def test_gradients_do_not_alias():
    """autograd may give one tensor to two leaves or an expanded one; clipping in place must scale each number once."""
    x, y, z, shared = (torch.full((3,), 2.0, requires_grad=True) for _ in range(4))
    PCGrad().backward({"a": (x + y).sum() + (shared * z.sum()).sum(), "b": shared.square().sum()})
    nn.utils.clip_grad_norm_([x, y, z], 1e-3)
    assert x.grad.tolist() == y.grad.tolist()
    assert torch.stack([x.grad, y.grad, z.grad]).norm().item() == pytest.approx(1e-3, rel=1e-2)


def test_accumulate_adds_and_keeps_the_type_of_the_leaf():
    leaf = torch.ones(2, dtype=torch.bfloat16, requires_grad=True)
    accumulate(leaf, torch.tensor([1.0, 2.0]))
    accumulate(leaf, torch.tensor([1.0, 2.0]))
    assert leaf.grad.dtype == torch.bfloat16
    assert leaf.grad.tolist() == [2.0, 4.0]


@pytest.mark.parametrize("columns", [1, 8191, 8192, 8193, 10**6])
def test_chunked_gramian_has_the_digits_of_float64(columns):
    matrix = torch.randn(10, columns) + 0.5
    exact = matrix.double() @ matrix.double().T
    error = (chunked_gram(matrix) - exact).abs().max() / exact.abs().max()
    assert chunked_gram(matrix).dtype == torch.float64
    assert error <= 1e-6


def reference(losses, leaves):
    """Task gradients by one plain autograd call for each loss."""
    rows = []
    for loss in losses:
        found = torch.autograd.grad(loss, leaves, retain_graph=True, allow_unused=True)
        parts = [torch.zeros_like(p) if g is None else g.to_dense() for p, g in zip(leaves, found, strict=True)]
        rows.append(torch.cat([part.flatten().double() for part in parts]))
    return torch.stack(rows)


class Sequence(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(2, 6, batch_first=True)

    def forward(self, x):
        return self.lstm(x.view(len(x), 2, 2))[0][:, -1]


class Checkpointed(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Dropout(0.3))

    def forward(self, x):
        return checkpoint(self.body, x, use_reentrant=False)


ENCODERS = {
    "norm": lambda: nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU()),
    "dropout": lambda: nn.Sequential(nn.Linear(4, 6), nn.Dropout(0.5)),
    "conv": lambda: nn.Sequential(nn.Unflatten(1, (1, 4)), nn.Conv1d(1, 3, 3), nn.Flatten()),
    "lstm": Sequence,
    "checkpoint": Checkpointed,
}


@pytest.mark.parametrize("kind", ENCODERS)
@pytest.mark.parametrize("balancer", [PCGrad, MGDA, GradDrop])
def test_layers_of_every_kind(kind, balancer):
    encoder = ENCODERS[kind]()
    heads = [nn.Linear(6, 1) for _ in range(3)]
    features = encoder(torch.randn(8, 4))
    losses = {str(i): (head(features) - i).square().mean() for i, head in enumerate(heads)}
    leaves = list(encoder.parameters())
    jac = reference(losses.values(), leaves)
    step = balancer().backward(losses)
    torch.testing.assert_close(step.gram, jac @ jac.T, rtol=1e-4, atol=1e-6)
    direction = torch.cat([p.grad.flatten() for p in leaves]).double()
    if step.weights is not None:
        torch.testing.assert_close(direction, step.weights @ jac, rtol=1e-4, atol=1e-6)
    else:
        assert direction.abs().max() > 0


@pytest.mark.parametrize("balancer", [PCGrad, MGDA, GradDrop])
def test_sparse_embeddings_get_sparse_gradients(balancer):
    """So that `SparseAdam` can go on with them, as after a plain backward."""
    torch.manual_seed(0)
    table, own = nn.Embedding(7, 3, sparse=True), nn.Embedding(7, 3, sparse=True)

    def losses():
        rows = table(torch.tensor([1, 4, 4]))
        picked = (rows * torch.linspace(-1, 1, 9).view(3, 3)).sum()
        return {"a": rows.square().sum() + own(torch.tensor([2])).sum(), "b": picked}

    jac = reference(losses().values(), [table.weight])
    step = balancer().backward(losses())
    torch.testing.assert_close(step.gram, jac @ jac.T, rtol=1e-5, atol=1e-6)
    assert table.weight.grad.is_sparse
    assert own.weight.grad.is_sparse
    full = table.weight.grad.to_dense()
    if step.weights is not None:
        torch.testing.assert_close(full.double(), (step.weights @ jac).view(7, 3))
    assert full[[0, 2, 3, 5, 6]].abs().sum() == 0
    assert full[[1, 4]].abs().sum() > 0
    once = full.clone()
    balancer().backward(losses())
    torch.testing.assert_close(table.weight.grad.to_dense(), 2 * once)
    torch.optim.SparseAdam([table.weight, own.weight], lr=0.1).step()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("balancer", [PCGrad, MGDA, GradDrop, Equal])
def test_types_of_parameters(dtype, balancer):
    shared, heads, x, targets, losses = two_heads(dtype)
    trunk = torch.stack(closed_form(shared, heads, x, targets)[0]).reshape(2, -1).double()
    step = balancer().backward(losses)
    assert shared.grad.dtype == dtype
    assert torch.isfinite(shared.grad).all()
    if step.gram is not None:
        assert step.gram.dtype == torch.float64
        tolerance = {torch.bfloat16: 0.1, torch.float32: 1e-5, torch.float64: 1e-12}[dtype]
        scale = (trunk @ trunk.T).abs().max().item()
        torch.testing.assert_close(step.gram, trunk @ trunk.T, rtol=0, atol=tolerance * scale)


@pytest.mark.parametrize("first", [Equal, PCGrad])
def test_a_compiled_encoder_takes_plain_and_balanced_steps_in_any_order(first):
    torch._dynamo.reset()
    body = nn.Sequential(nn.Linear(3, 8), nn.GELU(), nn.LayerNorm(8), nn.Linear(8, 8), nn.Tanh())
    encoder, heads = torch.compile(body, backend="aot_eager"), [nn.Linear(8, 1), nn.Linear(8, 1)]
    for balancer in (first(), PCGrad(), Equal(), MGDA()):
        body.zero_grad()
        x = torch.randn(4, 3)
        losses = {str(i): (h(encoder(x)) - i).square().mean() for i, h in enumerate(heads)}
        eager = {str(i): (h(body(x)) - i).square().mean() for i, h in enumerate(heads)}
        expected = gramian(eager)
        step = balancer.backward(losses)
        if step.gram is not None:
            torch.testing.assert_close(step.gram, expected, rtol=1e-5, atol=1e-7)
        assert body[0].weight.grad.abs().sum() > 0


@pytest.mark.parametrize("place", ["before the activation", "features"])
@pytest.mark.parametrize(
    "hook", [lambda g: 2 * g, lambda g: g.clamp(-1e-3, 1e-3), lambda g: None], ids=["twice", "clamp", "look"]
)
@pytest.mark.parametrize("tasks", [2, 5])
def test_a_hook_on_a_shared_tensor_acts_once_on_every_task(place, hook, tasks):
    """autograd.grad gives some derivatives as they are before such a hook; ours must be those after it."""
    torch.manual_seed(0)
    lower, upper = nn.Linear(9, 30).double(), nn.Linear(30, 40).double()
    heads = [nn.Linear(40, 1).double() for _ in range(tasks)]
    x = torch.randn(4, 9, dtype=torch.float64)

    def losses():
        hidden = lower(x)
        features = upper(hidden.relu())
        {"before the activation": hidden, "features": features}[place].register_hook(hook)
        return {str(i): head(features).square().mean() for i, head in enumerate(heads)}, features

    leaves = [*lower.parameters(), *upper.parameters()]
    jac = reference(losses()[0].values(), leaves)
    step = MGDA().backward(losses()[0])
    torch.testing.assert_close(step.gram, jac @ jac.T)
    direction = torch.cat([p.grad.flatten() for p in leaves])
    torch.testing.assert_close(direction, step.weights @ jac)
    if hook(torch.ones(()).double()) == 1e-3:
        return  # one pass of the weighted sum cannot clamp every task by itself
    for p in leaves:
        p.grad = None
    again, features = losses()
    step = MGDA().backward(again, at=features)
    torch.testing.assert_close(torch.cat([p.grad.flatten() for p in leaves]), step.weights @ jac)


class Branching(nn.Module):
    """A layer for four tasks, above it one for two of them, and heads."""

    def __init__(self):
        super().__init__()
        self.lower = nn.Sequential(nn.Linear(5, 12), nn.Tanh(), nn.LayerNorm(12))
        self.upper = nn.Linear(12, 7)
        self.heads = nn.ModuleList(nn.Linear(width, 2) for width in (7, 7, 12, 12))

    def losses(self, x):
        low = self.lower(x)
        high = self.upper(low).relu()
        features = (high, high, low, low)
        pairs = enumerate(zip(self.heads, features, strict=True))
        return {str(i): (head(f) - i).square().mean() for i, (head, f) in pairs}


@pytest.mark.parametrize("memory", [0, 1000, 3000, 10**9])
@pytest.mark.parametrize("method", [MGDA, PCGrad])
def test_bounded_memory_changes_nothing(memory, method):
    torch.manual_seed(0)
    free, bound, x = Branching().double(), Branching().double(), torch.randn(9, 5, dtype=torch.float64)
    bound.load_state_dict(free.state_dict())
    expected = method().backward(free.losses(x))
    balancer = method()
    balancer.memory = memory
    step = balancer.backward(bound.losses(x))
    torch.testing.assert_close(step.gram, expected.gram)
    torch.testing.assert_close(step.weights, expected.weights)
    for p, q in zip(free.parameters(), bound.parameters(), strict=True):
        torch.testing.assert_close(q.grad, p.grad)


@pytest.mark.parametrize(("layers_at_a_time", "passes"), [(None, 2), (6, 2), (2, 2 * 3 + 1), (1, 2 * 6 + 1)])
def test_bounded_memory_makes_more_passes(layers_at_a_time, passes):
    """Two tasks, six layers of 64 x 64, and the pass of the weighted sum where gradients were forgotten."""
    seen = []
    layers = nn.Sequential(*[nn.Linear(64, 64, bias=False) for _ in range(6)])
    features = layers(torch.randn(500, 64))
    features.register_hook(lambda gradient: seen.append(1))
    balancer = MGDA()
    balancer.memory = layers_at_a_time and layers_at_a_time * 2 * 64 * 64 * 4
    balancer.backward({"a": features.square().mean(), "b": features.abs().mean()})
    assert len(seen) == passes


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("hooked", [False, True])
def test_kept_weights_act_as_on_a_measured_step(fused, hooked):
    """Between measurements too a hook on the features acts once, and fused heads keep their plain gradients."""
    torch.manual_seed(0)
    lower, heads = nn.Linear(5, 12).double(), [nn.Linear(12, 1).double() for _ in range(3)]
    x, leaves = torch.randn(6, 5, dtype=torch.float64), []
    leaves = [*lower.parameters(), *(p for head in heads for p in head.parameters())]

    def losses():
        features = lower(x)
        if hooked:
            features.register_hook(lambda g: 2 * g)
        outputs = fused_heads(features, heads) if fused else [head(features) for head in heads]
        return {str(i): (output - i).square().mean() for i, output in enumerate(outputs)}

    found = []
    balancer = RefreshEvery(MGDA(), every=2, tasks=["0", "1", "2"])
    for _ in range(2):
        step = balancer.backward(losses())
        found.append((step.gram is None, step.weights, [p.grad for p in leaves]))
        for p in leaves:
            p.grad = None
    assert [kept for kept, _, _ in found] == [False, True]
    torch.testing.assert_close(found[0][1:], found[1][1:])


@pytest.mark.parametrize("tasks", [3, 5])
def test_own_parameters_of_tasks_that_are_stacked_stay_their_own(tasks):
    """As adapters are, when rows of several tasks pass together: the graph shows every loss reaching every one."""
    torch.manual_seed(0)
    lower = nn.Linear(4, 6).double()
    own = [nn.Parameter(torch.randn(6, 6, dtype=torch.float64)) for _ in range(tasks)]
    heads = [nn.Linear(6, 1).double() for _ in range(tasks)]
    x = torch.randn(7, 4, dtype=torch.float64)

    def losses(stacked):
        features = lower(x)
        adapted = features @ torch.stack(own) if stacked else [features @ matrix for matrix in own]
        return {str(i): (heads[i](adapted[i]) - i).square().mean() for i in range(tasks)}

    leaves = [*lower.parameters(), *own, *(p for head in heads for p in head.parameters())]
    found = []
    for stacked in (False, True):
        for p in leaves:
            p.grad = None
        step = MGDA().backward(losses(stacked))
        found.append((step.gram, step.weights, [p.grad for p in leaves]))
    torch.testing.assert_close(found[0], found[1])
