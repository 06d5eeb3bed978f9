"""What every balancer's `backward` promises: its errors, `at=`, `extra=`, skipped steps, mixed precision."""

import pytest
import torch
from torch import nn

from polytask import (
    MGDA,
    Equal,
    GradDrop,
    GramBalancer,
    JacobianBalancer,
    LogGramian,
    Manual,
    PCGrad,
    UncertaintyWeighting,
    UserError,
)
from polytask.gradients import gramian, task_gradients

KINDS = {
    "equal": Equal,
    "uncertainty": lambda: UncertaintyWeighting(["a", "b"]),
    "pcgrad": PCGrad,
    "mgda": MGDA,
    "graddrop": GradDrop,
    "logged": lambda: LogGramian(Equal()),
}
MEASURING = ["pcgrad", "mgda", "graddrop"]


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(4, 6), nn.Tanh())
        self.a, self.b = nn.Linear(6, 1), nn.Linear(6, 1)

    def losses(self, x):
        self.features = self.encoder(x)
        heads = {"a": self.a(self.features), "b": self.b(self.features)}
        return {name: (out - i).square().mean() for i, (name, out) in enumerate(heads.items())}


def grads(module):
    return {name: None if p.grad is None else p.grad.clone() for name, p in module.named_parameters()}


@pytest.mark.parametrize("kind", KINDS)
class TestErrors:
    def test_a_tensor_of_losses(self, kind):
        x = torch.ones(2, requires_grad=True)
        with pytest.raises(UserError, match="dict"):
            KINDS[kind]().backward(torch.stack([x.sum(), x.sum()]))

    def test_no_losses(self, kind):
        with pytest.raises(UserError, match="no losses"):
            KINDS[kind]().backward({})

    def test_a_loss_without_graph(self, kind):
        x = torch.ones(2, requires_grad=True)
        with pytest.raises(UserError, match="task 'b' has no graph"):
            KINDS[kind]().backward({"a": x.sum(), "b": torch.ones(())})

    def test_a_number(self, kind):
        x = torch.ones(2, requires_grad=True)
        with pytest.raises(UserError, match=r"task 'b' is 1\.5"):
            KINDS[kind]().backward({"a": x.sum(), "b": 1.5})

    def test_a_loss_of_many_rows(self, kind):
        x = torch.ones(2, requires_grad=True)
        with pytest.raises(UserError, match=r"task 'a' has shape \(2,\)"):
            KINDS[kind]().backward({"a": x * 2, "b": x.sum()})
        assert x.grad is None


@pytest.mark.parametrize("make", [lambda: Manual({"alpha": 1, "beta": 2}), lambda: UncertaintyWeighting(["alpha"])])
def test_an_unknown_task_is_named(make):
    x = torch.ones(2, requires_grad=True)
    with pytest.raises(UserError, match=r"'alhpa' is unknown .* did you mean 'alpha'"):
        make().backward({"alhpa": x.sum()})


@pytest.mark.parametrize("kind", ["equal", "pcgrad", "mgda", "graddrop"])
def test_one_task_is_plain_backward(kind):
    net, x = Net(), torch.randn(8, 4)
    net.losses(x)["a"].backward()
    expected = grads(net)
    net.zero_grad()
    step = KINDS[kind]().backward({"a": net.losses(x)["a"]})
    found = grads(net)
    assert step.tasks == ("a",)
    assert step.weights.tolist() == [1.0]
    assert found["b.weight"] is None
    assert all(found[n] is None or torch.equal(found[n], expected[n]) for n in found)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_accumulate(kind):
    net, x = Net(), torch.randn(8, 4)
    KINDS[kind]().backward(net.losses(x))
    once = grads(net)
    for p in net.parameters():
        p.grad = torch.ones_like(p)
    KINDS[kind]().backward(net.losses(x))
    for name, gradient in grads(net).items():
        torch.testing.assert_close(gradient, once[name] + 1)


@pytest.mark.parametrize("kind", ["pcgrad", "mgda"])
def test_measured_at_the_features(kind):
    """Weights from the Gramian of the features' gradients; the trunk then gets the weighted sum of its gradients."""
    net, x = Net(), torch.randn(8, 4)
    losses = net.losses(x)
    at_features = gramian(losses, at=[net.features])
    by_hand = [torch.autograd.grad(v, net.features, retain_graph=True)[0].flatten() for v in losses.values()]
    torch.testing.assert_close(at_features, (torch.stack(by_hand) @ torch.stack(by_hand).T).double())
    trunk = task_gradients(list(losses.values()), keep_graph=True).blocks[0].jacobian()
    step = KINDS[kind]().backward(losses, at=net.features)
    torch.testing.assert_close(step.gram, at_features)
    rows = torch.arange(2)
    torch.testing.assert_close(step.weights, KINDS[kind]().weigh(at_features, step.losses.double(), rows))
    found = torch.cat([p.grad.flatten() for p in net.encoder.parameters()])
    order = [p.shape for p in net.encoder.parameters()]
    leaves = task_gradients(list(net.losses(x).values())).blocks[0].leaves
    weighted = step.weights.float() @ trunk
    parts = dict(zip([leaf.shape for leaf in leaves], weighted.split([leaf.numel() for leaf in leaves]), strict=True))
    torch.testing.assert_close(found, torch.cat([parts[shape] for shape in order]), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", MEASURING)
def test_heads_are_plain_whatever_is_measured_at(kind):
    net, x = Net(), torch.randn(8, 4)
    Equal().backward(net.losses(x))
    plain = grads(net)
    net.zero_grad()
    KINDS[kind]().backward(net.losses(x), at=[net.features])
    for name in ("a.weight", "a.bias", "b.weight", "b.bias"):
        torch.testing.assert_close(grads(net)[name], plain[name])
    assert grads(net)["encoder.0.weight"].abs().sum() > 0


def test_graddrop_at_the_features_drops_there():
    net, x = Net(), torch.randn(8, 4)
    jac = task_gradients(list(net.losses(x).values()), at=[net.features]).blocks[0].jacobian()
    merged = GradDrop(seed=5).merge(jac, torch.zeros(2), torch.arange(2))
    net.losses(x)
    net.features.backward(merged.view_as(net.features))
    expected = grads(net)["encoder.0.weight"]
    net.zero_grad()
    GradDrop(seed=5).backward(net.losses(x), at=net.features)
    torch.testing.assert_close(grads(net)["encoder.0.weight"], expected)


@pytest.mark.parametrize("kind", ["pcgrad", "mgda"])
def test_one_representation_per_task(kind):
    encoders, heads = [nn.Linear(3, 2), nn.Linear(3, 2)], [nn.Linear(2, 1), nn.Linear(2, 1)]
    features = [encoder(torch.randn(4, 3)) for encoder in encoders]
    losses = {str(i): h(f).square().mean() for i, (h, f) in enumerate(zip(heads, features, strict=True))}
    step = KINDS[kind]().backward(losses, at=features)
    assert step.gram[0, 1] == 0
    assert all(encoder.weight.grad is not None for encoder in encoders)


@pytest.mark.parametrize("kind", KINDS)
def test_the_extra_term_is_added_as_it_is(kind):
    net, x = Net(), torch.randn(8, 4)
    KINDS[kind]().backward(net.losses(x))
    without = grads(net)
    net.zero_grad()
    losses = net.losses(x)
    extra = 0.5 * net.encoder[0].weight.square().sum() + net.features.sum()  # it shares the graph with the losses
    expected = torch.autograd.grad(extra, net.encoder[0].weight, retain_graph=True)[0]
    KINDS[kind]().backward(losses, extra=extra)
    found = grads(net)
    torch.testing.assert_close(found["encoder.0.weight"], without["encoder.0.weight"] + expected)
    torch.testing.assert_close(found["a.weight"], without["a.weight"])


@pytest.mark.parametrize("kind", KINDS)
def test_a_constant_extra_term_is_nothing(kind):
    net = Net()
    KINDS[kind]().backward(net.losses(torch.randn(8, 4)), extra=torch.ones(()))
    assert net.a.weight.grad is not None


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("kind", KINDS)
def test_a_loss_that_is_not_finite_skips_the_step(kind, bad):
    net, balancer = Net(), KINDS[kind]()
    before = [v.clone() for v in balancer.state_dict().values() if isinstance(v, torch.Tensor)]
    net.a.weight.grad = torch.ones_like(net.a.weight)
    losses = net.losses(torch.randn(8, 4))
    with pytest.warns(RuntimeWarning, match="task 'b' is not finite"):
        step = balancer.backward({"a": losses["a"], "b": losses["b"] * bad}, extra=net.features.sum())
    assert "'b'" in step.skipped
    assert net.a.weight.grad.eq(1).all()
    assert all(p.grad is None for n, p in net.named_parameters() if n != "a.weight")
    after = [v for v in balancer.state_dict().values() if isinstance(v, torch.Tensor)]
    assert all(torch.equal(x, y) for x, y in zip(before, after, strict=True))


def test_an_extra_term_that_is_not_finite_skips_the_step():
    net = Net()
    losses = net.losses(torch.randn(8, 4))
    with pytest.warns(RuntimeWarning, match="extra term"):
        step = PCGrad().backward(losses, extra=net.features.sum() * float("nan"))
    assert step.skipped
    assert all(p.grad is None for p in net.parameters())


@pytest.mark.parametrize("kind", MEASURING)
def test_a_gradient_that_overflows_skips_the_step(kind):
    x, own = torch.zeros(2, requires_grad=True), torch.ones(1, requires_grad=True)
    losses = {"a": x.sum() * own.sum(), "b": x.square().sum().sqrt()}  # the root has no gradient at 0
    with pytest.warns(RuntimeWarning, match="gradient of task 'b' is not finite"):
        step = KINDS[kind]().backward(losses, extra=x.sum())
    assert step.skipped == "the gradient of task 'b' is not finite"
    assert x.grad is None
    assert own.grad is None


@pytest.mark.parametrize("kind", KINDS)
def test_a_scaler_leaves_the_same_gradients(kind):
    net, x = Net(), torch.randn(8, 4)
    expected_step = KINDS[kind]().backward(net.losses(x), extra=net.encoder[0].bias.sum())
    expected = grads(net)
    net.zero_grad()
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    balancer = KINDS[kind]()
    step = balancer.backward(net.losses(x), scaler=scaler, extra=net.encoder[0].bias.sum())
    scaler.unscale_(optimizer)
    for name, gradient in grads(net).items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-4, atol=1e-6)
    for field in ("weights", "gram"):
        if getattr(expected_step, field) is not None:
            torch.testing.assert_close(getattr(step, field), getattr(expected_step, field), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("where", ["loss", "gradient"])
@pytest.mark.parametrize("scale", [1.0, 65536.0])
@pytest.mark.parametrize("at", [False, True])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.filterwarnings("ignore:.*skipped a step:RuntimeWarning")
def test_an_overflow_lowers_the_scale_and_moves_nothing(kind, at, scale, where):
    net, balancer = Net(), KINDS[kind]()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=scale)
    before = [p.detach().clone() for p in net.parameters()]
    losses = net.losses(torch.randn(8, 4))
    if where == "loss":
        losses["b"] = losses["b"] * float("inf")
    else:
        losses["b"] = losses["b"] + (net.features * 0).square().sum().sqrt()
    balancer.backward(losses, at=net.features if at else None, scaler=scaler)
    scaler.step(optimizer)
    scaler.update()
    assert scaler.get_scale() == scale / 2
    assert all(torch.equal(p, b) for p, b in zip(net.parameters(), before, strict=True))


def test_a_scaler_that_is_switched_off_changes_nothing():
    net, x = Net(), torch.randn(8, 4)
    MGDA().backward(net.losses(x))
    expected = grads(net)
    net.zero_grad()
    MGDA().backward(net.losses(x), scaler=torch.amp.GradScaler("cpu", enabled=False))
    assert all(torch.equal(g, expected[n]) for n, g in grads(net).items())


class RememberedGram(GramBalancer):
    stateful = True

    def weigh(self, gram, losses, rows):
        return torch.tensor([1.0, 10.0, 100.0], dtype=torch.float64)[rows]


class RememberedJacobian(JacobianBalancer):
    stateful = True

    def merge(self, jacobian, losses, rows):
        return torch.tensor([1.0, 10.0, 100.0])[rows] @ jacobian


@pytest.mark.parametrize("method", [RememberedGram, RememberedJacobian])
def test_a_state_per_task_goes_by_name(method):
    """Also in a block that only some of the present tasks share."""
    x, y = torch.zeros(3, requires_grad=True), torch.zeros(1, requires_grad=True)
    losses = {"c": x[2] + y.sum(), "b": x[1] + 0 * x[0], "a": x[0] + y.sum()}
    method(["a", "b", "c"]).backward(losses)
    assert x.grad.tolist() == [1.0, 10.0, 100.0]
    assert y.grad.tolist() == [101.0]
