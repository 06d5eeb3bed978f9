"""Structures that are learnt by sampling: Learning to Branch and AdaShare."""

import copy
import math

import pytest
import torch
from torch import nn

from polytask import MLP, UserError
from polytask.testing import check_trunk
from polytask.trunks import AdaShare, Branched, HardSharing, LearningToBranch, Temperature

TASKS = ("a", "b", "c")
ELSEWHERE = dict.fromkeys(["compiles", "exports"], "seen on an MLP in test_every_trunk")


def encoder():
    return MLP(3, [8, 8, 8])


def branching(seed=0):
    torch.manual_seed(seed)
    trunk = LearningToBranch(encoder(), TASKS)
    with torch.no_grad():
        for p in [*trunk.choices, *trunk.leaves]:
            p.normal_()
    return trunk


class TestLearningToBranch:
    def test_promises(self):
        for nodes in (None, [1, 2, 3]):
            make = lambda nodes=nodes: LearningToBranch(encoder(), TASKS, nodes=nodes)  # noqa: E731
            check_trunk(make, torch.randn(8, 3), TASKS, exceptions=ELSEWHERE)

    def test_evaluation_is_deterministic_and_training_is_not(self):
        trunk, x = branching(), torch.randn(5, 3)
        first, second = trunk(x, TASKS), trunk(x, TASKS)
        assert not torch.equal(first["a"], second["a"])
        trunk.eval()
        assert torch.equal(trunk(x, TASKS)["a"], trunk(x, TASKS)["a"])

    @pytest.mark.parametrize("seed", range(5))
    def test_hardened_is_a_tree_with_the_same_features(self, seed):
        trunk, x = branching(seed).eval(), torch.randn(5, 3)
        hard = trunk.harden()
        assert isinstance(hard, Branched)
        assert not hard.training
        expected = trunk(x, TASKS)
        assert all(torch.equal(f, expected[name]) for name, f in hard(x, TASKS).items())
        with torch.no_grad():
            next(hard.parameters()).add_(1.0)  # copies: the trunk stays as it is
        assert torch.equal(trunk(x, TASKS)["a"], expected["a"])

    @pytest.mark.parametrize("seed", range(5))
    def test_each_node_has_one_parent(self, seed):
        paths = branching(seed).paths()
        for depth in (1, 2):
            parents = {}
            for path in paths.values():
                assert parents.setdefault(path[depth], path[depth - 1]) == path[depth - 1]

    def test_a_sure_choice_in_training_is_the_evaluation(self):
        """With logits far apart and a low temperature the sample is the likeliest parent."""
        trunk = branching()
        trunk.temperature = Temperature(first=0.01, last=0.01)
        with torch.no_grad():
            for p in [*trunk.choices, *trunk.leaves]:
                p.copy_(1e3 * nn.functional.one_hot(p.argmax(-1), p.shape[-1]))
        x = torch.randn(5, 3)
        torch.testing.assert_close(trunk.train()(x, TASKS), trunk.eval()(x, TASKS))

    def test_samples_follow_the_softmax_of_the_logits(self):
        """The Gumbel trick: the largest of logit + noise is node i with probability softmax(logits)_i."""
        from polytask.trunks.learning_to_branch import _sample

        torch.manual_seed(0)
        logits = torch.tensor([0.0, 1.0, 2.0])
        draws = _sample(logits.expand(20000, -1), torch.tensor(0.5))
        torch.testing.assert_close(draws.sum(-1), torch.ones(20000))
        share = draws.argmax(-1).bincount() / 20000
        torch.testing.assert_close(share, logits.softmax(-1), rtol=0, atol=0.015)

    def test_only_the_nodes_on_the_paths_are_computed(self):
        trunk = branching().eval()
        ran = []
        for depth, nodes in enumerate(trunk.nodes):
            for place, node in enumerate(nodes):
                node.register_forward_hook(lambda *_, where=(depth, place): ran.append(where))
        trunk(torch.randn(2, 3), ["b"])
        assert ran == list(enumerate(trunk.paths()["b"]))

    def test_chances_of_passing_through_a_node(self):
        trunk = branching()
        mixing = trunk.coefficients(torch.zeros(1, 3))
        assert list(mixing) == [f"branches at stage {depth}" for depth in range(3)]
        last = torch.stack([leaf.softmax(-1) for leaf in trunk.leaves])
        torch.testing.assert_close(mixing["branches at stage 2"].values, last)
        expected = last @ trunk.choices[1].softmax(-1) @ trunk.choices[0].softmax(-1)
        torch.testing.assert_close(mixing["branches at stage 0"].values, expected)

    def test_what_cannot_be_is_refused(self):
        with pytest.raises(UserError, match="each of the 3 stages at least one"):
            LearningToBranch(encoder(), TASKS, nodes=[1, 2])
        with pytest.raises(UserError, match="at least one"):
            LearningToBranch(encoder(), TASKS, nodes=0)


def test_the_temperature_falls_in_training_only():
    tau = Temperature(first=4.0, last=1.0, factor=0.5, every=2)
    assert [float(tau()) for _ in range(6)] == [4.0, 4.0, 2.0, 2.0, 1.0, 1.0]
    assert float(tau.eval()()) == 1.0
    assert int(tau.passes) == 6
    again = Temperature(first=4.0, last=1.0, factor=0.5, every=2)
    again.load_state_dict(tau.state_dict())
    assert float(again()) == 1.0
    with pytest.raises(UserError, match="temperature falls"):
        Temperature(first=1.0, last=2.0)


class TestAdaShare:
    def test_promises(self):
        layers = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
        make = lambda: AdaShare(nn.TransformerEncoder(layers, 3), TASKS)  # noqa: E731
        check_trunk(make, torch.randn(8, 4, 8), TASKS, exceptions=ELSEWHERE)

    def test_all_selected_is_hard_sharing_bit_for_bit(self):
        shared, x = encoder(), torch.randn(5, 3)
        hard, trunk = HardSharing(copy.deepcopy(shared)).eval(), AdaShare(shared, TASKS).eval()
        for name, features in trunk(x, TASKS).items():
            torch.testing.assert_close(features, hard(x, TASKS)[name], rtol=0, atol=1e-6)
            assert torch.equal(trunk.path(name)(x), hard(x, TASKS)[name])

    def test_in_evaluation_the_policy_is_hard(self):
        trunk, x = AdaShare(encoder(), TASKS).eval(), torch.randn(5, 3)
        with torch.no_grad():
            trunk.policy[0].copy_(torch.tensor([-0.1, 0.1]))
            trunk.policy[1].copy_(torch.tensor([-5.0, -5.0]))
        first, second, third = trunk.stages
        features = trunk(x, TASKS)
        torch.testing.assert_close(features["a"], third(first(x)))
        torch.testing.assert_close(features["b"], first(x))
        torch.testing.assert_close(features["c"], third(second(first(x))))
        for name in TASKS:
            torch.testing.assert_close(trunk.path(name)(x), features[name])

    def test_in_training_the_choice_is_between_both(self):
        trunk = AdaShare(encoder(), TASKS, probability=0.6).train()
        choice = trunk._choice(torch.stack(list(trunk.policy)))
        assert choice.shape == (3, 2)
        assert ((choice > 0) & (choice < 1)).all()
        torch.manual_seed(0)
        logit = torch.full((20000, 1), math.log(0.7 / 0.3))
        assert (trunk._choice(logit) > 0.5).float().mean().item() == pytest.approx(0.7, abs=0.015)

    def test_the_penalty_by_hand(self):
        trunk = AdaShare(encoder(), TASKS, sparsity=2.0, sharing=3.0).double()
        alpha = torch.tensor([[0.9, 0.5], [0.6, 0.5], [0.9, 0.1]], dtype=torch.float64)
        with torch.no_grad():
            for policy, row in zip(trunk.policy, alpha, strict=True):
                policy.copy_(torch.logit(row))
        sparse = -torch.log(1 - alpha).mean(1).sum()
        sharing = (0.3 + 0.0) + (0.0 + 0.5 * 0.4) + (0.3 + 0.5 * 0.4)
        torch.testing.assert_close(trunk.penalty(), 2 * sparse + 3 * sharing)

    def test_one_task_has_nothing_to_share(self):
        assert AdaShare(encoder(), ["a"], sparsity=0.0).penalty() == 0.0

    def test_only_stages_that_keep_the_width_are_skipped(self):
        assert AdaShare(MLP(3, [8, 8, 4, 4]), TASKS).blocks == (1, 3)
        with pytest.raises(UserError, match="no stage can be skipped"):
            AdaShare(MLP(3, [8, 4]), TASKS)
        with pytest.raises(UserError, match="changes the shape"):
            AdaShare(MLP(3, [8, 4]), TASKS, blocks=[1])(torch.zeros(2, 3), TASKS)
        with pytest.raises(UserError, match="probability between"):
            AdaShare(encoder(), TASKS, probability=0.3)
