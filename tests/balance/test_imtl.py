"""IMTL: IMTL-L for the losses, IMTL-G on the gradients of the scaled losses."""

import pytest
import torch
from torch import nn

from polytask import UserError
from polytask.balance import IMTL, IMTLG, IMTLL

TASKS = ("a", "b", "c")


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(3)
        self.encoder = nn.Linear(4, 6).double()
        self.heads = nn.ModuleDict({n: nn.Linear(6, 1).double() for n in TASKS})

    def losses(self, x, names=TASKS):
        features = self.encoder(x).tanh()
        return {n: (self.heads[n](features) - ord(n) / 98).square().mean() for n in names}


def trained(balancer):
    with torch.no_grad():
        balancer.loss.log_scale.copy_(torch.tensor([0.7, -1.2, 0.3]))
    return balancer.double()


def grads(module):
    return [p.grad.clone() for p in module.parameters()]


def test_it_is_imtl_g_on_the_scaled_losses():
    x = torch.randn(8, 4, dtype=torch.float64)
    balancer, net, other = trained(IMTL(TASKS)), Net(), Net()
    step = balancer.backward(net.losses(x, "bca"))
    scales = balancer.loss.log_scale.detach().exp()
    IMTLG().backward({n: other.losses(x)[n] * scales[TASKS.index(n)] for n in "bca"})
    for found, expected in zip(grads(net), grads(other), strict=True):
        torch.testing.assert_close(found, expected)
    together = sum(w * value for w, value in zip(step.weights, net.losses(x, "bca").values(), strict=True))
    torch.testing.assert_close(torch.autograd.grad(together, net.encoder.weight)[0], net.encoder.weight.grad)


def test_the_projections_on_the_scaled_gradients_are_equal():
    x = torch.randn(8, 4, dtype=torch.float64)
    net = Net()
    step = trained(IMTL(TASKS)).backward(net.losses(x))
    along = step.gram @ step.weights / step.gram.diagonal().sqrt()
    torch.testing.assert_close(along, along[:1].expand(3))


def test_the_scales_learn_as_in_imtl_l():
    x = torch.randn(8, 4, dtype=torch.float64)
    full, half = trained(IMTL(TASKS)), IMTLL(TASKS).double()
    half.load_state_dict(full.loss.state_dict())
    full.backward(Net().losses(x, "ca"))
    half.backward(Net().losses(x, "ca"))
    torch.testing.assert_close(full.loss.log_scale.grad, half.log_scale.grad, rtol=1e-6, atol=1e-7)
    assert full.loss.log_scale.grad[1] == 0


def test_a_task_alone_keeps_its_scale():
    balancer = trained(IMTL(TASKS))
    x = torch.ones(1, dtype=torch.float64, requires_grad=True)
    balancer.backward({"b": 2 * x.sum()})
    assert x.grad.item() == pytest.approx(2 * torch.exp(torch.tensor(-1.2)).item(), rel=1e-6)
    assert balancer.loss.log_scale.grad[1] == pytest.approx(2 * torch.exp(torch.tensor(-1.2)).item() - 1, rel=1e-6)


def test_a_skipped_step_teaches_the_scales_nothing():
    balancer = IMTL(["a", "b"])
    x = torch.zeros(2, requires_grad=True)
    with pytest.warns(RuntimeWarning, match="gradient of task 'b' is not finite"):
        step = balancer.backward({"a": x.sum() + 1, "b": x.sqrt().sum() + 1})
    assert step.skipped
    assert balancer.loss.log_scale.grad is None


def test_a_negative_loss_is_refused_by_name():
    x = torch.ones(2, requires_grad=True)
    with pytest.raises(UserError, match=r"task 'b': IMTL-L needs losses of at least 0, and one is -2"):
        IMTL(["a", "b"]).backward({"a": x.sum(), "b": -x.sum()})


def test_fp16_scales_the_gradient_of_the_scales_too():
    x = torch.ones(2, requires_grad=True)
    balancer = IMTL(["a", "b"])
    balancer.backward({"a": 3 * x[0], "b": x[1]}, scaler=torch.amp.GradScaler("cpu", init_scale=8.0))
    assert balancer.loss.log_scale.grad.tolist() == [16.0, 0.0]
