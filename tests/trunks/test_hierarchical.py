"""Hierarchies: taps and shortcuts, and the information transfer of AITM."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from polytask import MLP, UserError
from polytask.testing import check_trunk
from polytask.trunks import AITM, CGC, HardSharing, Hierarchical

ELSEWHERE = dict.fromkeys(["compiles", "exports"], "seen on an MLP in test_every_trunk")
TAPS = {"low": 0, "middle": 1, "high": 2}


def encoder():
    return MLP(3, [8, 6, 4])


def transformer():
    return nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True), 3)


def convolutions():
    return nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 6, 3, padding=1), nn.Conv2d(6, 5, 3))


class TestHierarchical:
    def test_promises(self):
        tasks, images = tuple(TAPS), torch.randn(8, 1, 6, 6)
        check_trunk(lambda: Hierarchical(encoder(), TAPS), torch.randn(8, 3), tasks, exceptions=ELSEWHERE)
        check_trunk(lambda: Hierarchical(transformer(), TAPS), torch.randn(8, 4, 8), tasks, exceptions=ELSEWHERE)
        make = lambda: Hierarchical(convolutions(), TAPS, shortcuts={"high": ()}, out_features=7)  # noqa: E731
        check_trunk(make, images, tasks, exceptions=ELSEWHERE)

    def test_a_low_task_gives_no_gradient_above_its_tap(self):
        trunk = Hierarchical(encoder(), TAPS)
        trunk(torch.randn(5, 3), tuple(TAPS))["middle"].sum().backward()
        assert all(p.grad is not None for stage in trunk.stages[:2] for p in stage.parameters())
        assert all(p.grad is None for p in trunk.stages[2].parameters())

    def test_a_task_runs_no_stage_above_its_own(self):
        trunk, ran = Hierarchical(encoder(), TAPS), []
        for number, stage in enumerate(trunk.stages):
            stage.register_forward_hook(lambda *_, number=number: ran.append(number))
        trunk(torch.randn(5, 3), ["low"])
        assert ran == [0]

    def test_features_by_hand(self):
        trunk, x = Hierarchical(encoder(), TAPS, shortcuts={"high": [0]}), torch.randn(5, 3)
        first, second, third = trunk.stages
        h0 = first(x)
        h1 = second(h0)
        h2 = third(h1)
        features = trunk(x, ("high", "low", "middle"))
        torch.testing.assert_close(features["low"], trunk.necks[0](h0))
        torch.testing.assert_close(features["middle"], trunk.necks[1](torch.cat([h0, h1], 1)))
        torch.testing.assert_close(features["high"], trunk.necks[2](torch.cat([h0, h2], 1)))

    def test_all_at_the_top_without_shortcuts_is_hard_sharing(self):
        shared = encoder()
        trunk = Hierarchical(shared, {"a": 2, "b": 2}, shortcuts={"a": (), "b": ()})
        with torch.no_grad():
            for neck in trunk.necks:
                nn.init.eye_(neck.weight)
                nn.init.zeros_(neck.bias)
        x = torch.randn(5, 3)
        torch.testing.assert_close(trunk(x, ("a", "b")), HardSharing(shared)(x, ("a", "b")))

    def test_holding_what_was_learnt(self):
        trunk = Hierarchical(encoder(), TAPS).double()
        assert trunk.penalty() is None
        trunk.hold(0.5)
        assert trunk.penalty() == 0
        gap = torch.randn_like(trunk.stages[0][0].weight)
        with torch.no_grad():
            trunk.stages[0][0].weight.add_(gap)
        penalty = trunk.penalty()
        torch.testing.assert_close(penalty, 0.5 * gap.square().sum())
        penalty.backward()
        torch.testing.assert_close(trunk.stages[0][0].weight.grad, 2 * 0.5 * gap)

    def test_what_cannot_be_is_refused(self):
        with pytest.raises(UserError, match=r"'a' taps stage 3 .* stages 0 to 2"):
            Hierarchical(encoder(), {"a": 3})
        with pytest.raises(UserError, match="shortcuts of 'a' are stages below its tap"):
            Hierarchical(encoder(), {"a": 1}, shortcuts={"a": [1]})
        with pytest.raises(UserError, match="shortcuts of 'b'"):
            Hierarchical(encoder(), {"a": 1}, shortcuts={"b": [0]})
        with pytest.raises(UserError, match="'high' joins differ in shape"):
            Hierarchical(convolutions(), TAPS, out_features=7)(torch.randn(2, 1, 6, 6), ["high"])
        with pytest.raises(UserError, match="no task 'lwo'; did you mean 'low'"):
            Hierarchical(encoder(), TAPS)(torch.zeros(2, 3), ["lwo"])


class TestAITM:
    order = ("view", "click", "buy")

    def make(self):
        return AITM(HardSharing(MLP(3, [8])), self.order, widths=(6, 4))

    def test_promises(self):
        on_experts = lambda: AITM(CGC(nn.Identity(), self.order, widths=(8,), features=3), self.order, widths=(16,))  # noqa: E731
        for make in (self.make, on_experts):
            check_trunk(make, torch.randn(8, 3), self.order, exceptions=ELSEWHERE)

    def test_features_against_numpy(self):
        trunk = self.make().double()
        with torch.no_grad():
            for p in trunk.parameters():
                p.normal_()
        x = torch.randn(5, 3, dtype=torch.float64)
        weights = {name: p.detach().numpy() for name, p in trunk.named_parameters()}

        def linear(name, rows):
            return rows @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

        shared = np.maximum(linear("trunk.encoder.0", x.numpy()), 0)
        own = []
        for t in range(3):
            hidden = np.maximum(linear(f"towers.{t}.0", shared), 0)
            own.append(np.maximum(linear(f"towers.{t}.2", hidden), 0))
        known = own[0]
        features = trunk(x, self.order)
        np.testing.assert_allclose(features["view"].detach().numpy(), known)
        for t, name in ((1, "click"), (2, "buy")):
            slots = [linear(f"transfers.{t - 1}.passing", known), own[t]]
            scores = np.stack(
                [
                    (linear(f"transfers.{t - 1}.key", u) * linear(f"transfers.{t - 1}.query", u)).sum(1) / math.sqrt(4)
                    for u in slots
                ]
            )
            share = np.exp(scores - scores.max(0))
            share /= share.sum(0)
            known = sum(share[u][:, None] * linear(f"transfers.{t - 1}.value", slots[u]) for u in range(2))
            np.testing.assert_allclose(features[name].detach().numpy(), known, rtol=1e-9)

    def test_information_flows_forwards_only(self):
        trunk = self.make()
        served = trunk.serves(self.order)
        assert served["towers.0.0.weight"] == self.order
        assert served["towers.1.0.weight"] == ("click", "buy")
        assert served["transfers.1.passing.weight"] == ("buy",)

    def test_how_much_is_passed_on(self):
        mixing = self.make().coefficients(torch.randn(5, 3))["information transfer"]
        assert mixing.rows == ("click", "buy")
        torch.testing.assert_close(mixing.values.sum(1), torch.ones(2))

    def test_what_cannot_be_is_refused(self):
        with pytest.raises(UserError, match="two tasks or more"):
            AITM(HardSharing(MLP(3, [8])), ["click"])
        with pytest.raises(UserError, match="the order has no task 'by'; did you mean 'buy'"):
            self.make()(torch.zeros(2, 3), ["by"])
