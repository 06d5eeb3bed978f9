"""One network per task that exchange: soft sharing, cross-stitch, sluice, NDDR."""

import numpy as np
import pytest
import torch
from torch import nn

from polytask import MLP, Batch, Equal, MultiTaskModel, Separate, Task, UserError, train_step
from polytask.trunks import NDDR, CrossStitch, Sluice, SoftSharing

TASKS = ("a", "b", "c")
METHODS = [SoftSharing, CrossStitch, Sluice, NDDR]
APART = {SoftSharing: {"strength": 0.0}, CrossStitch: {"own": 1.0}, Sluice: {"own": 1.0}, NDDR: {"own": 1.0}}


def same_weights(trunk, separate):
    """Copies the networks of a trunk of streams into single-task networks."""
    for stream, single in zip(trunk.streams, separate.trunks, strict=True):
        for p, q in zip(stream.parameters(), single.parameters(), strict=True):
            q.data.copy_(p.data)


@pytest.mark.parametrize("method", METHODS)
def test_without_exchange_they_are_the_single_task_networks(method):
    trunk, separate, x = (
        method(MLP(3, [6, 6]), TASKS, **APART[method]),
        Separate(MLP(3, [6, 6]), TASKS),
        torch.randn(5, 3),
    )
    same_weights(trunk, separate)
    ours, theirs = trunk(x, TASKS), separate(x, TASKS)
    for name in TASKS:
        torch.testing.assert_close(ours[name], theirs[name], rtol=1e-6, atol=1e-7)


def heads():
    return {name: nn.Linear(6, 1) for name in TASKS}


def test_strength_zero_trains_bit_for_bit_as_single_task_networks():
    tasks = {name: Task.regression(name) for name in TASKS}
    batch = Batch(torch.randn(9, 3), {name: torch.randn(9) for name in TASKS})
    torch.manual_seed(1)
    first = MultiTaskModel(SoftSharing(MLP(3, [6, 6]), TASKS, strength=0.0), heads())
    torch.manual_seed(1)
    second = MultiTaskModel(Separate(MLP(3, [6, 6]), TASKS), heads())
    same_weights(first.trunk, second.trunk)
    for model in (first, second):
        optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
        for _ in range(5):
            train_step(model, tasks, [batch], Equal(), optimizer)
    for name in TASKS:
        assert torch.equal(first(batch.inputs)[name], second(batch.inputs)[name])


class TestSoftSharing:
    def pair(self, **options):
        """Two networks of two parameters with the oracle's numbers."""
        trunk = SoftSharing(nn.Linear(2, 1, bias=False), ["s", "t"], out_features=1, **options)
        for stream, numbers in zip(trunk.streams, ([1.0, 2.0], [3.0, 0.0]), strict=True):
            stream[0].weight.data = torch.tensor([numbers])
        return trunk

    def test_golden(self):  # oracle soft_sharing
        trunk = self.pair(strength=1.0)
        trunk.penalty().backward()
        assert trunk.penalty().item() == 8.0
        assert trunk.streams[0][0].weight.grad.tolist() == [[-4.0, 4.0]]
        assert self.pair(strength=1.0, distance="l2").penalty().item() == pytest.approx(2.8284271247461903)
        assert self.pair(strength=0.5).penalty().item() == 4.0

    def test_trace_norm_against_numpy(self):
        trunk = self.pair(strength=1.0, distance="trace")
        expected = np.linalg.svd(np.array([[1.0, 2.0], [3.0, 0.0]]), compute_uv=False).sum()
        assert trunk.penalty().item() == pytest.approx(expected, rel=1e-6)

    @pytest.mark.parametrize("distance", ["squared", "l2", "trace"])
    def test_gradients_are_finite_where_networks_are_equal(self, distance):
        trunk = SoftSharing(MLP(3, [6, 6]), TASKS, init="same", distance=distance, strength=1.0)
        trunk.penalty().backward()
        grads = [p.grad for p in trunk.parameters()]
        assert all(g.isfinite().all() for g in grads)
        if distance != "trace":
            assert not any(g.any() for g in grads)

    def test_strength_of_each_stage_and_relatedness_of_pairs(self):
        related = [[0.0, 2.0, 0.0], [2.0, 0.0, 0.0], [0.0, 0.0, 0.0]]
        trunk = SoftSharing(MLP(3, [6, 6]), TASKS, strength=(0.0, 3.0), relatedness=related)
        chains = [list(stream) for stream in trunk.streams]
        gap = sum(
            (p - q).square().sum() for p, q in zip(chains[0][1].parameters(), chains[1][1].parameters(), strict=True)
        )
        torch.testing.assert_close(trunk.penalty(), 6 * gap)
        trunk.penalty().backward()
        assert not any(p.grad is not None and p.grad.any() for p in trunk.streams[2].parameters())
        assert not any(p.grad is not None for p in chains[0][0].parameters())

    def test_a_large_strength_closes_the_gap(self):
        gaps = []
        for strength in (0.0, 100.0):
            torch.manual_seed(2)
            trunk = SoftSharing(MLP(3, [6]), ["a", "b"], strength=strength)
            model = MultiTaskModel(trunk, {n: nn.Linear(6, 1) for n in "ab"})
            x = torch.randn(40, 3)
            batch = Batch(x, {"a": x[:, 0], "b": -x[:, 1]})
            tasks = {name: Task.regression(name) for name in "ab"}
            optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
            for _ in range(400):
                train_step(model, tasks, [batch], Equal(), optimizer)
            first, second = ([*s.parameters()] for s in trunk.streams)
            gaps.append(max((p - q).abs().max().item() for p, q in zip(first, second, strict=True)))
        assert gaps[0] > 0.5
        assert gaps[1] < 1e-2

    def test_refusals(self):
        for words, options in [
            ("one per stage", {"strength": (1.0,)}),
            ("none below 0", {"strength": -1.0}),
            ("'squared', 'l2', 'trace'", {"distance": "l1"}),
            ("no relatedness", {"distance": "trace", "relatedness": torch.ones(3, 3)}),
            ("symmetric", {"relatedness": [[0, 1, 1], [0, 0, 1], [1, 1, 0]]}),
            ("symmetric", {"relatedness": torch.ones(2, 2)}),
            ("negative", {"relatedness": -torch.ones(3, 3)}),
        ]:
            with pytest.raises(UserError, match=words):
                SoftSharing(MLP(3, [6, 6]), TASKS, **options)

    def test_the_distance_is_told(self):
        trunk = SoftSharing(MLP(3, [6]), ["a", "b"], init="same")
        assert trunk.coefficients(None)["distance"].values.tolist() == [[0, 0], [0, 0]]
        assert SoftSharing(MLP(3, [6]), ["a", "b"]).coefficients(None)["distance"].values[0, 1] > 0.3


class TestCrossStitch:
    def test_golden(self):  # oracle cross_stitch
        trunk = CrossStitch([nn.Identity()], ["a", "b"], out_features=2)
        trunk.streams[0][0], trunk.streams[1][0] = nn.Identity(), nn.Linear(2, 2)
        second = trunk.streams[1][0]
        second.weight.data.zero_()
        second.bias.data = torch.tensor([3.0, -1.0])
        found = trunk(torch.tensor([[1.0, 2.0]]), ["a", "b"])
        torch.testing.assert_close(found["a"], torch.tensor([[1.2, 1.7]]))
        torch.testing.assert_close(found["b"], torch.tensor([[2.8, -0.7]]))

    @pytest.mark.parametrize("per", ["layer", "channel"])
    def test_against_numpy(self, per):
        trunk = CrossStitch(MLP(3, [4, 6]), TASKS, per=per).double()
        with torch.no_grad():
            for stitch in trunk.stitches:
                stitch.copy_(torch.randn_like(stitch))
        x = torch.randn(5, 3, dtype=torch.float64)
        features = [x.numpy()] * 3
        for stage in range(2):
            linears = [trunk.streams[t][stage][0] for t in range(3)]
            hidden = [np.maximum(f @ m.weight.detach().numpy().T + m.bias.detach().numpy(), 0)
                      for f, m in zip(features, linears, strict=True)]  # fmt: skip
            alpha = trunk.stitches[stage].detach().numpy()
            features = [sum(alpha[t, s] * hidden[s] for s in range(3)) for t in range(3)]
        found = trunk(x, TASKS)
        for t, name in enumerate(TASKS):
            np.testing.assert_allclose(found[name].detach().numpy(), features[t], rtol=1e-12, atol=1e-12)

    @pytest.mark.parametrize("per", ["layer", "channel"])
    def test_even_stitches_make_all_equal(self, per):
        trunk = CrossStitch(MLP(3, [4, 6]), TASKS, own=1 / 3, per=per)
        found = trunk(torch.randn(5, 3), TASKS)
        torch.testing.assert_close(found["a"], found["b"])
        torch.testing.assert_close(found["a"], found["c"])

    def test_rows_start_at_one_and_layers_do_not_grow(self):
        trunk = CrossStitch(MLP(3, [4, 6]), TASKS, init="same")
        for stitch in trunk.stitches:
            torch.testing.assert_close(stitch.sum(1), torch.ones(3))
        x = torch.randn(5, 3)
        plain = Separate(MLP(3, [4, 6]), TASKS)
        same_weights(trunk, plain)
        torch.testing.assert_close(trunk(x, TASKS)["b"], plain(x, TASKS)["b"])  # equal networks stay as they are

    def test_what_it_says(self):
        trunk = CrossStitch(MLP(3, [4]), TASKS, per="channel")
        assert trunk.coefficients(None)["stitch 1"].values.shape == (3, 3)
        with pytest.raises(UserError, match='"layer" or per "channel"'):
            CrossStitch(MLP(3, [4]), TASKS, per="pixel")


class TestSluice:
    def test_subspaces_are_mixed_and_layers_too(self):
        trunk = Sluice(MLP(3, [4, 4]), ["a", "b"]).double()
        with torch.no_grad():
            for p in [*trunk.stitches, *trunk.layer_mix]:
                p.copy_(torch.randn_like(p))
        x = torch.randn(5, 3, dtype=torch.float64)
        features, layers = [x, x], []
        for stage in range(2):
            hidden = [trunk.streams[t][stage](features[t]) for t in range(2)]
            halves = torch.stack([hidden[0][:, :2], hidden[0][:, 2:], hidden[1][:, :2], hidden[1][:, 2:]])
            mixed = torch.tensordot(trunk.stitches[stage], halves, dims=([1], [0]))
            features = [torch.cat([mixed[0], mixed[1]], 1), torch.cat([mixed[2], mixed[3]], 1)]
            layers.append(features)
        for t, name in enumerate(("a", "b")):
            beta = trunk.layer_mix[t]
            torch.testing.assert_close(trunk(x, ("a", "b"))[name], beta[0] * layers[0][t] + beta[1] * layers[1][t])

    def test_orthogonal_subspaces_cost_nothing(self):
        trunk = Sluice(MLP(4, [4]), ["a", "b"], orthogonality=2.0)
        for stream in trunk.streams:
            stream[0][0].weight.data = torch.eye(4)
        assert trunk.penalty().item() == 0.0
        trunk.streams[0][0][0].weight.data[0, 3] = 0.5  # W1 W2ᵀ has one entry of .5
        assert trunk.penalty().item() == pytest.approx(2.0 * 0.25)
        assert Sluice(MLP(4, [4]), ["a"], orthogonality=0.0).penalty() is None

    def test_refusals(self):
        with pytest.raises(UserError, match="must be even"):
            Sluice(MLP(3, [5]), TASKS)
        with pytest.raises(UserError, match="orthogonality=0"):
            Sluice([nn.EmbeddingBag(7, 4)], TASKS, sample=torch.zeros(2, 3, dtype=torch.long))
        shrinking = nn.Sequential(nn.Conv2d(2, 2, 3), nn.Conv2d(2, 2, 3))
        with pytest.raises(UserError, match="stages of one shape"):
            Sluice(shrinking, TASKS)(torch.zeros(2, 2, 8, 8), TASKS)


class TestNDDR:
    def test_against_numpy(self):
        trunk = NDDR(MLP(3, [4]), ["a", "b"]).double()
        with torch.no_grad():
            for p in trunk.fusions.parameters():
                p.copy_(torch.randn_like(p))
        x = torch.randn(5, 3, dtype=torch.float64)
        both = np.concatenate([stream[0](x).detach().numpy() for stream in trunk.streams], axis=1)
        for t, name in enumerate(("a", "b")):
            fusion = trunk.fusions[0][t]
            expected = both @ fusion.weight.detach().numpy().T + fusion.bias.detach().numpy()
            np.testing.assert_allclose(trunk(x, (name,))[name].detach().numpy(), expected, rtol=1e-12, atol=1e-12)

    def test_it_starts_as_a_cross_stitch(self):
        torch.manual_seed(0)
        first = NDDR(MLP(3, [4, 6]), TASKS)
        torch.manual_seed(0)
        second = CrossStitch(MLP(3, [4, 6]), TASKS)
        second.streams.load_state_dict(first.streams.state_dict())
        x = torch.randn(5, 3)
        for name in TASKS:
            torch.testing.assert_close(first(x, TASKS)[name], second(x, TASKS)[name])
        torch.testing.assert_close(first.coefficients(None)["fusion 1"].values, second.stitches[0].data)

    def test_the_last_reduction_is_the_task_s_own(self):
        trunk = NDDR(MLP(3, [4, 6]), TASKS)
        trunk(torch.randn(5, 3), ("b",))["b"].sum().backward()
        assert trunk.fusions[0][0].weight.grad.any()
        assert trunk.fusions[1][1].weight.grad.any()
        assert trunk.fusions[1][0].weight.grad is None
