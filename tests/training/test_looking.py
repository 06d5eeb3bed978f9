"""What a sampler hears: evaluations, steps, the losses of its draw again and those of probe rows ahead."""

import pytest
import torch
from tests.training.cases import NAN, TASKS, all_tasks, changed, data, deep_model, same, state, valid

from polytask import AllTasks, Equal, PCGrad, Stage, fit
from polytask.batch import Batch
from polytask.devices import Place
from polytask.names import make_balancer
from polytask.training import task_losses
from polytask.training.looking import PROBE_ROWS, Probe


class Curious(AllTasks):
    """Asks everything after every step."""

    looks = True

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.heard, self.drawn = [], []
        self.model = None

    def draw(self):
        self.drawn = super().draw()
        self.before = torch.get_rng_state()
        return self.drawn

    def observe(self, evaluation):
        self.heard.append(evaluation)

    def after_step(self, step, look):
        if step is None:
            self.heard.append((None, look.again(), look.ahead(["a"])))
            return
        kept = state(self.model), torch.get_rng_state(), [m.training for m in self.model.modules()]
        self.heard.append((step, look.again(), look.again(), look.ahead(["b", "a"])))
        assert same(kept[0], state(self.model))
        assert torch.equal(kept[1], torch.get_rng_state())
        assert kept[2] == [m.training for m in self.model.modules()]


def curious(model, **options):
    sampler = Curious(data(), batch_size=16, **options)
    sampler.model = model
    return sampler


@pytest.mark.parametrize("balancer", [Equal, PCGrad, lambda: make_balancer("famo", ("a", "b"))])
def test_looking_changes_nothing(balancer):
    models = [deep_model(), deep_model()]
    for model, sampler in zip(models, (all_tasks(), curious(models[1])), strict=True):
        torch.manual_seed(4)
        fit(model, TASKS, sampler, valid(), balancer=balancer(), plan=Stage(3, None, 0.05, freeze="trunk.encoder.0"))
    assert same(state(models[0]), state(models[1]))


def test_again_is_the_same_draw_with_the_new_weights():
    model = deep_model(dropout=0.0)
    sampler = curious(model)
    fit(model, TASKS, sampler, valid(), plan=Stage(steps=1, patience=None, lr=0.05))
    step, again, twice, _ = sampler.heard[0]
    with torch.no_grad():
        wanted = task_losses(model, TASKS, sampler.drawn)
    assert again == twice
    assert again == {name: pytest.approx(float(loss), rel=1e-5) for name, loss in wanted.items()}
    assert float(step.losses[0]) > again["a"]


def test_without_a_step_again_is_what_the_step_saw():
    """The same dropout: a learning rate of 0 changes nothing."""
    model = deep_model(dropout=0.5)
    sampler = curious(model)
    fit(model, TASKS, sampler, valid(), plan=Stage(1, None, 0.0, weight_decay=0.0))
    steps = [heard for heard in sampler.heard if isinstance(heard, tuple)]
    assert len(steps) == sampler.steps_per_epoch
    for step, again, _, _ in steps:
        assert list(again.values()) == pytest.approx(step.losses.tolist(), rel=1e-5)


def test_ahead_is_the_mean_loss_of_the_probe_rows_in_evaluation_mode():
    model = deep_model()
    sampler = curious(model)
    fit(model, TASKS, sampler, valid(), plan=Stage(steps=1, patience=None))
    model.eval()
    with torch.no_grad():
        wanted = task_losses(model, TASKS, valid())
    assert sampler.heard[0][3] == {name: pytest.approx(float(wanted[name]), rel=1e-5) for name in ("b", "a")}


def test_the_probe_is_the_first_labelled_rows_of_each_task():
    source = data(rows=1000, missing=False)
    source.targets["a"][::2] = NAN
    probe = Probe(deep_model(), TASKS, source.batches(100), Place.find("cpu"))
    rows = torch.cat([batch.inputs for batch in probe.rows["a"]])
    assert torch.equal(rows, source.inputs[1 : 2 * PROBE_ROWS : 2])
    assert torch.equal(torch.cat([batch.inputs for batch in probe.rows["b"]]), source.inputs[:PROBE_ROWS])


def test_evaluations_and_empty_draws_are_heard():
    class Empty(Curious):
        def draw(self):
            self.drawn = [Batch(batch.inputs, {"a": torch.full((len(batch.inputs),), NAN)}) for batch in super().draw()]
            return self.drawn

    model = deep_model()
    sampler = Empty(data(), batch_size=60)
    sampler.model = model
    before = state(model)
    run = fit(model, TASKS, sampler, valid(), plan=Stage(2, None))
    assert [heard for heard in sampler.heard if not isinstance(heard, tuple)] == run.evaluations
    assert all(heard[:2] == (None, {}) and heard[2]["a"] > 0 for heard in sampler.heard if isinstance(heard, tuple))
    assert not changed(before, state(model)) & {n for n, _ in model.named_parameters()}
    assert run.evaluations[0].drawn == {}
