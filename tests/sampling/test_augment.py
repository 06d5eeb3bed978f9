"""Augmented: only the named task's rows change, exactly resumable; the transforms by closed forms and statistics."""

import json
import random

import numpy as np
import pytest
import torch

from polytask import Batch, HardSharing, MultiTaskModel, Task, UserError
from polytask.encoders import MLP
from polytask.heads import make_head
from polytask.sampling import AllTasks, TensorSource
from polytask.sampling.augment import Augmented, join, join_trees
from polytask.sampling.augmentations import FeatureSwap, FromLibrary, GaussianNoise, Mixup
from polytask.training import task_losses

NAN = float("nan")


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def plus(amount):
    return lambda batch, generator: Batch(batch.inputs + amount, batch.targets, batch.weights)


def jitter(batch, generator):
    return Batch(batch.inputs + torch.rand(batch.inputs.shape, generator=generator), batch.targets)


def rows(count=10):
    """Row i has the input i; "a" is labelled everywhere, "b" in even rows, "c" (class indices) everywhere."""
    x = torch.arange(float(count))[:, None]
    b = torch.where(torch.arange(count) % 2 == 0, torch.arange(float(count)), NAN)
    return TensorSource(x, {"a": 10 * x[:, 0], "b": b, "c": torch.arange(count) % 3})


def by_label(batch, task):
    """(input, label) of the rows that are labelled for a task."""
    target = batch.targets[task]
    kept = ~target.isnan() if target.is_floating_point() else torch.ones(len(target), dtype=torch.bool)
    return sorted(zip(batch.inputs[kept, 0].tolist(), target[kept].tolist(), strict=True))


class TestAugmented:
    def test_a_batch_of_the_task_alone_is_transformed(self):
        plain, changed = (s.stream(["b"], 5).next() for s in (rows(), Augmented(rows(), {"b": plus(100)})))
        assert torch.equal(changed.inputs, plain.inputs + 100)
        assert torch.equal(changed.targets["b"], plain.targets["b"])

    def test_batches_of_other_tasks_are_the_same_stream(self):
        plain, same = (s.stream(["a", "c"], 4, seed=3) for s in (rows(), Augmented(rows(), {"b": plus(100)})))
        for _ in range(6):
            left, right = plain.next(), same.next()
            assert torch.equal(left.inputs, right.inputs)
            assert torch.equal(left.targets["c"], right.targets["c"])

    def test_in_shared_batches_every_label_is_there_once(self):
        source = Augmented(rows(), {"b": plus(100), "c": plus(1000)})
        plain, changed = (s.stream("abc", 4, seed=1) for s in (rows(), source))
        for _ in range(5):
            left, right = plain.next(), changed.next()
            assert list(right.targets) == ["a", "b", "c"]
            assert by_label(right, "a") == by_label(left, "a")
            assert by_label(right, "b") == [(x + 100, y) for x, y in by_label(left, "b")]
            assert by_label(right, "c") == [(x + 1000, y) for x, y in by_label(left, "c")]

    def test_losses_of_the_other_tasks_are_the_same(self):
        torch.manual_seed(0)
        tasks = {"a": Task.regression("a"), "b": Task.regression("b"), "c": Task.classes("c", 3)}
        model = MultiTaskModel(HardSharing(MLP(1, [8])), {n: make_head(t, 8) for n, t in tasks.items()})
        sources = rows(), Augmented(rows(), {"b": plus(3.0)})
        plain, changed = (task_losses(model, tasks, [s.stream("abc", 10).next()]) for s in sources)
        torch.testing.assert_close((plain["a"], plain["c"]), (changed["a"], changed["c"]))
        assert not torch.allclose(plain["b"], changed["b"])

    def test_a_batch_without_a_label_of_the_named_task(self):
        source = TensorSource(torch.zeros(4, 1), {"a": torch.ones(4), "b": torch.tensor([NAN, NAN, NAN, 1.0])})

        def some(batch, generator):
            assert len(batch.inputs)
            return batch

        stream = Augmented(source, {"b": some}).stream("ab", 1)
        assert sorted(len(stream.next().inputs) for _ in range(4)) == [1, 1, 1, 2]

    def test_the_random_numbers_are_those_of_seed_place_and_task(self):
        source = Augmented(rows(), {"a": jitter, "b": jitter})

        def drawn(stream):
            """What was added to each row of a batch, place by place."""
            batch = stream.next()
            return batch.inputs[:, 0] - batch.targets["a"] / 10

        stream, again, other = (source.stream(["a"], 10, seed=seed) for seed in (0, 0, 1))
        first = drawn(stream)
        assert torch.equal(first, drawn(again))
        assert not torch.allclose(first, drawn(other), atol=1e-3)
        assert not torch.allclose(first, drawn(stream), atol=1e-3)
        both = source.stream("ab", 10).next().inputs[10:] % 1
        assert not set(both[:10, 0].tolist()) & set(both[10:, 0].tolist())

    @pytest.mark.parametrize("tasks", ["b", "ab"])
    def test_a_resumed_stream_goes_on_with_the_same_numbers(self, tasks):
        source = Augmented(rows(), {"b": jitter})
        whole = source.stream(tasks, 3, seed=5)
        for _ in range(6):
            whole.next()
        state = json.loads(json.dumps(whole.state_dict()))
        resumed = source.stream(tasks, 3, seed=5)
        resumed.load_state_dict(state)
        for _ in range(5):
            left, right = whole.next(), resumed.next()
            assert torch.equal(left.inputs, right.inputs)
            assert torch.equal(left.targets["b"].nan_to_num(-1), right.targets["b"].nan_to_num(-1))

    def test_in_a_sampler(self):
        sampler = AllTasks(Augmented(rows(), {"b": plus(100)}), batch_size=4)
        draws = [sampler.draw()[0] for _ in range(sampler.steps_per_epoch)]
        assert sorted(pair for batch in draws for pair in by_label(batch, "b")) == [
            (x + 100.0, float(x)) for x in range(0, 10, 2)
        ]

    def test_it_is_a_source(self):
        source = Augmented(rows(), {"b": plus(1)})
        stream = source.stream(["b"], 2)
        assert (source.tasks, source.sizes(), len(stream), stream.rows) == (("a", "b", "c"), rows().sizes(), 3, 5)
        stream.close()
        with pytest.raises(UserError, match="no task 'bb' to augment; did you mean 'b'"):
            Augmented(rows(), {"bb": plus(1)})

    def test_rows_of_words_are_not_copied_by_half(self):
        class Words(TensorSource):
            def take(self, rows, tasks=None):
                batch = super().take(rows, tasks)
                return Batch({"x": batch.inputs, "words": ["a"] * len(batch.inputs)}, batch.targets)

        source = Words(torch.zeros(4, 1), {"a": torch.ones(4), "b": torch.ones(4)})
        with pytest.raises(UserError, match="rows of task 'b' cannot be copied out of a batch"):
            Augmented(source, {"b": plus(1)}).stream("ab", 2).next()


class TestJoin:
    def test_weights_of_rows_are_kept_and_1_elsewhere(self):
        left = Batch(torch.zeros(2, 1), {"a": torch.ones(2), "b": torch.ones(2)}, {"a": torch.tensor([3.0, 4.0])})
        right = Batch(torch.ones(1, 1), {"a": torch.zeros(1)}, None)
        joined = join([left, right])
        assert joined.weights["a"].tolist() == [3.0, 4.0, 1.0]
        assert list(joined.weights) == ["a"]
        assert joined.targets["b"].isnan().tolist() == [False, False, True]

    def test_trees(self):
        trees = [{"x": torch.full((n, 2), float(n)), "y": [torch.full((n,), n), "words"]} for n in (1, 2)]
        joined = join_trees(trees)
        assert joined["x"][:, 0].tolist() == [1.0, 2.0, 2.0]
        assert joined["y"][0].tolist() == [1, 2, 2]
        assert joined["y"][1] == "words"
        with pytest.raises(UserError, match="inputs of the form"):
            join_trees([torch.zeros(1), [torch.zeros(1), torch.zeros(1)]])


TABLE = {"numeric": torch.randn(4000, 3, generator=generator(1)) * torch.tensor([1.0, 10.0, 0.0]) + 5,
         "categorical": torch.randint(4, (4000, 2), generator=generator(2))}  # fmt: skip


class TestGaussianNoise:
    def test_its_deviation_is_a_share_of_the_columns(self):
        noisy = GaussianNoise(0.2, of=TABLE)(Batch(TABLE, {}), generator()).inputs
        noise = noisy["numeric"] - TABLE["numeric"]
        deviation = TABLE["numeric"].std(dim=0, unbiased=False)
        torch.testing.assert_close(noise.std(dim=0), 0.2 * deviation, rtol=0.05, atol=1e-6)
        assert (noise.mean(dim=0).abs() <= 0.2 * deviation / 4000**0.5 * 4 + 1e-6).all()
        assert torch.equal(noisy["categorical"], TABLE["categorical"])

    def test_missing_numbers_stay_missing_and_count_for_no_deviation(self):
        x = torch.tensor([[0.0], [2.0], [NAN]])
        noise = GaussianNoise(1.0, of=x)
        assert float(noise.deviations[0]) == 1.0
        assert noise(Batch(x, {}), generator()).inputs.isnan().flatten().tolist() == [False, False, True]

    def test_refusals(self):
        with pytest.raises(UserError, match="scale"):
            GaussianNoise(-1.0, of=TABLE)


class TestMixup:
    def test_the_loss_is_that_of_the_paper(self):
        """l L(f(x), y_a) + (1 - l) L(f(x), y_b), a mean over the rows, with class weights and a missing label."""
        torch.manual_seed(0)
        task = Task.classes("c", 3, class_weights=(1.0, 2.0, 3.0), focal=1.0)
        model = MultiTaskModel(HardSharing(MLP(2, [8])), {"c": make_head(task, 8)})
        x, y = torch.randn(6, 2), torch.tensor([0.0, 1, 2, 0, 1, NAN])
        mixed = Mixup(0.5)(Batch(x, {"c": y}), generator())
        assert torch.equal(mixed.inputs[:6], mixed.inputs[6:])
        loss = task_losses(model, {"c": task}, [mixed])["c"]
        share, other, label = mixed.weights["c"][:6], mixed.weights["c"][6:], mixed.targets["c"]
        torch.testing.assert_close(share + other, torch.ones(6))
        output = model(mixed.inputs[:6], ["c"])["c"]
        each = [task.loss(output, half.nan_to_num()) * ~half.isnan() for half in (label[:6], label[6:])]
        labelled = (share * ~label[:6].isnan() + other * ~label[6:].isnan()).sum()
        torch.testing.assert_close(loss, (share * each[0] + other * each[1]).sum() / labelled)

    def test_rows_lie_between_their_two(self):
        """A row of the input i, labelled i: l i + (1 - l) j."""
        x = torch.arange(50.0)
        mixed = Mixup(1.0)(Batch(x[:, None], {"y": x}), generator())
        share, a, b = mixed.weights["y"][:50], mixed.targets["y"][:50], mixed.targets["y"][50:]
        torch.testing.assert_close(mixed.inputs[:50, 0], share * a + (1 - share) * b)
        assert (a != b).all()
        assert torch.equal(a, x)
        assert torch.equal(b.sort().values, x)

    def test_shares_are_drawn_from_beta(self):
        x = torch.zeros(4000, 1)
        share = Mixup(0.3)(Batch(x, {"y": x[:, 0]}), generator()).weights["y"][:4000]
        assert float(share.mean()) == pytest.approx(0.5, abs=0.03)
        assert float(share.var()) == pytest.approx(1 / (4 * (2 * 0.3 + 1)), rel=0.05)

    def test_categories_are_those_of_one_of_the_two(self):
        codes = torch.arange(3000)[:, None].repeat(1, 2)
        mixed = Mixup(0.4)(Batch(codes, {"y": codes[:, 0].float()}), generator())
        a, b, share = mixed.targets["y"][:3000], mixed.targets["y"][3000:], mixed.weights["y"][:3000]
        chosen = mixed.inputs[:3000, 0]
        assert ((chosen == a) | (chosen == b)).all()
        assert float((chosen == a).float().mean()) == pytest.approx(float(share.mean()), abs=0.03)
        surely = share > 0.95
        assert float((chosen == a)[surely].float().mean()) > 0.95

    def test_weights_of_rows_are_multiplied_in(self):
        batch = Batch(torch.zeros(3, 1), {"y": torch.arange(3.0)}, {"y": torch.tensor([1.0, 2.0, 4.0])})
        mixed = Mixup(1.0)(batch, generator())
        share = Mixup(1.0)(Batch(batch.inputs, batch.targets), generator()).weights["y"]
        torch.testing.assert_close(mixed.weights["y"], share * 2.0 ** mixed.targets["y"])

    def test_one_row_has_nobody(self):
        batch = Batch(torch.zeros(1, 1), {"y": torch.ones(1)})
        assert Mixup()(batch, generator()) is batch
        with pytest.raises(UserError, match="alpha"):
            Mixup(0.0)


class TestFeatureSwap:
    def test_the_share_of_the_cells(self):
        x = torch.arange(8000.0).reshape(4000, 2)
        swapped = FeatureSwap(0.25)(Batch({"n": x, "c": x.long()}, {"y": x[:, 0]}), generator())
        for value, old in ((swapped.inputs["n"], x), (swapped.inputs["c"], x.long())):
            assert float((value != old).float().mean()) == pytest.approx(0.25, abs=0.01)
            assert (value % 2 == old % 2).all()  # the columns hold even and odd numbers
        assert torch.equal(swapped.targets["y"], x[:, 0])

    def test_limits(self):
        x = torch.randn(50, 3)
        assert torch.equal(FeatureSwap(0.0)(Batch(x, {}), generator()).inputs, x)
        with pytest.raises(UserError, match="share"):
            FeatureSwap(1.1)


class TestFromLibrary:
    @staticmethod
    def library(inputs):
        """Draws from three global generators, as libraries do."""
        return inputs + torch.rand(()) + float(np.random.rand()) + random.random()

    def test_repeatable_and_the_global_numbers_are_put_back(self):
        batch, transform = Batch(torch.zeros(2, 2), {}), FromLibrary(self.library)
        torch.manual_seed(1), np.random.seed(1), random.seed(1)
        expected = torch.rand(()), np.random.rand(), random.random()
        torch.manual_seed(1), np.random.seed(1), random.seed(1)
        first = transform(batch, generator(7)).inputs
        assert (torch.rand(()), np.random.rand(), random.random()) == expected
        assert torch.equal(first, transform(batch, generator(7)).inputs)
        assert not torch.equal(first, transform(batch, generator(8)).inputs)

    def test_they_are_put_back_after_an_error_too(self):
        def broken(inputs):
            raise ValueError("no")

        state = random.getstate()
        with pytest.raises(ValueError, match="no"):
            FromLibrary(broken)(Batch(torch.zeros(1), {}), generator())
        assert random.getstate() == state

    def test_around_a_source_it_resumes(self):
        source = Augmented(rows(), {"b": FromLibrary(self.library)})
        whole, resumed = source.stream(["b"], 2), source.stream(["b"], 2)
        whole.next()
        resumed.load_state_dict(whole.state_dict())
        assert torch.equal(whole.next().inputs, resumed.next().inputs)
