"""Corrections for what was never clicked: unbiased where they promise it, and with the gradients of the paper."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from polytask import AllTasks, Batch, HardSharing, MultiTaskModel, Stage, Task, TensorSource, fit
from polytask.domains.recommend import DoublyRobust, InversePropensity, SpaceWeights
from polytask.errors import UserError
from polytask.training import Objective

NAN = float("nan")
CVR = "buy|click"
HEADS = ("click", CVR, f"imputed {CVR}")
TASKS = {"click": Task.binary("click"), CVR: Task.binary(CVR), "buy": Task.binary("buy")}


class Said(nn.Module):
    """A head that says what it was told, one logit a row."""

    def __init__(self, values):
        super().__init__()
        self.values = nn.Parameter(torch.as_tensor(values, dtype=torch.float32)[:, None])

    def forward(self, features):
        return self.values[features[:, 0].long()]


def model_of(**logits):
    names = {"click": "click", "cvr": CVR, "imputed": f"imputed {CVR}"}
    heads = {names[key]: Said(values) for key, values in logits.items()}
    return MultiTaskModel(HardSharing(nn.Identity(), 1), heads)


def batch_of(click, buy):
    click, buy = torch.tensor(click), torch.tensor(buy)
    return Batch(torch.arange(len(click)).float()[:, None], {"click": click, CVR: buy})


def gradient(model, losses, name=CVR):
    model.zero_grad()
    losses[name][0].backward(retain_graph=True)
    return {head: model.head(head).values.grad for head in model.names}


def test_inverse_propensity_by_hand():
    model = model_of(click=[0.0, -9.0, 1.0, 2.0], cvr=[0.3, -0.2, 0.5, 0.1])
    batch = batch_of([1.0, 1.0, 0.0, NAN], [1.0, 0.0, NAN, NAN])
    losses = InversePropensity(floor=0.1)(model, TASKS, [batch])
    d = F.binary_cross_entropy_with_logits(torch.tensor([0.3, -0.2]), torch.tensor([1.0, 0.0]), reduction="none")
    assert losses[CVR][0].item() == pytest.approx(((d[0] / 0.5 + d[1] / 0.1) / 3).item())  # three rows have a click
    assert losses[CVR][1] == 3
    assert losses["click"][1] == 3
    assert gradient(model, losses)["click"] is None  # the propensity gets no gradient


def test_a_clicked_row_without_a_label_says_nothing():
    model = model_of(click=[0.0, 0.0], cvr=[0.3, -0.2])
    losses = InversePropensity()(model, TASKS, [batch_of([1.0, 1.0], [1.0, NAN])])
    assert losses[CVR][1] == 1


def test_with_everything_clicked_for_certain_it_is_the_plain_loss():
    model = model_of(click=[50.0] * 3, cvr=[0.3, -0.2, 1.0], imputed=[0.1, 2.0, -1.0])
    batch = batch_of([1.0, 1.0, 1.0], [1.0, 0.0, 1.0])
    plain = Objective()(model, TASKS, [batch])[CVR][0]
    corrected = InversePropensity()(model, TASKS, [batch])[CVR][0]
    robust = DoublyRobust()(model, TASKS, [batch])
    torch.testing.assert_close(corrected, plain)
    torch.testing.assert_close(gradient(model, robust)[CVR], gradient(model, {CVR: (plain, 3)})[CVR])


def test_draws_and_batches_add_up():
    torch.manual_seed(0)
    model = model_of(click=torch.randn(6), cvr=torch.randn(6), imputed=torch.randn(6))
    click, buy = [1.0, 0.0, 1.0, 0.0, NAN, 1.0], [1.0, NAN, 0.0, NAN, NAN, 1.0]
    whole = batch_of(click, buy)
    parts = [
        Batch(whole.inputs[rows], {k: v[rows] for k, v in whole.targets.items()}) for rows in ([0, 1], [2, 3, 4, 5])
    ]
    for objective in (InversePropensity(), DoublyRobust()):
        one, two = objective(model, TASKS, [whole]), objective(model, TASKS, parts)
        assert one.keys() == two.keys() == {"click", CVR}
        for name in one:
            torch.testing.assert_close(one[name][0], two[name][0])
            assert one[name][1] == two[name][1]


def every_outcome(model, p_click, p_buy, objective):
    """The expected loss and gradient over all clicks and conversions of two rows."""
    loss, grads = 0.0, 0.0
    for number in range(16):
        click = torch.tensor([number & 1, number >> 1 & 1]).float()
        buy = torch.tensor([number >> 2 & 1, number >> 3 & 1]).float()
        chance = (torch.where(click == 1, p_click, 1 - p_click) * torch.where(buy == 1, p_buy, 1 - p_buy)).prod()
        seen = torch.where(click == 1, buy, NAN)
        found = objective(model, TASKS, [Batch(torch.arange(2.0)[:, None], {"click": click, CVR: seen})])
        loss = loss + chance * found[CVR][0].detach()
        grads = grads + chance * gradient(model, found)[CVR]
    return loss, grads


@pytest.mark.parametrize(("objective", "click", "imputed", "right"), [
    (InversePropensity, "true", "wrong", True),
    (InversePropensity, "wrong", "true", False),
    (DoublyRobust, "true", "wrong", True),
    (DoublyRobust, "wrong", "true", True),
    (DoublyRobust, "wrong", "wrong", False),
], ids=["IPS", "IPS, wrong click", "DR, wrong imputation", "DR, wrong click", "DR, both wrong"])  # fmt: skip
def test_unbiased_where_promised(objective, click, imputed, right):
    p_click, p_buy, said = torch.tensor([0.3, 0.8]), torch.tensor([0.2, 0.6]), torch.tensor([0.4, -0.7])
    other = torch.tensor([0.5, -1.0])
    model = model_of(
        click=torch.logit(p_click) + (0 if click == "true" else other), cvr=said,
        imputed=torch.logit(p_buy) + (0 if imputed == "true" else other),
    )  # fmt: skip
    _, grads = every_outcome(model, p_click, p_buy, objective(floor=0.01))
    ideal = (said.sigmoid() - p_buy)[:, None] / 2  # of the mean loss over both rows as if all were clicked
    assert torch.allclose(grads, ideal, atol=1e-6) == right


def test_the_imputing_tower_gets_its_own_loss_only():
    model = model_of(click=[0.0, 0.0], cvr=[0.4, -0.7], imputed=[1.2, 0.3])
    batch = batch_of([1.0, 0.0], [1.0, NAN])
    grads = gradient(model, DoublyRobust()(model, TASKS, [batch]))
    q = torch.tensor([1.2], requires_grad=True)
    real = F.binary_cross_entropy_with_logits(torch.tensor([0.4]), torch.tensor([1.0]))
    guess = F.binary_cross_entropy_with_logits(torch.tensor([0.4]), q.sigmoid())
    ((real - guess).square() / 0.5 / 2).sum().backward()
    torch.testing.assert_close(grads[f"imputed {CVR}"].squeeze(), torch.tensor([q.grad.item(), 0.0]))
    assert grads["click"] is None


def test_weights_in_and_out_of_a_space():
    model = model_of(click=[0.2, 0.4, -1.0], cvr=[0.3, -0.2, 1.0])
    targets = {"click": torch.tensor([1.0, 0.0, NAN]), CVR: torch.tensor([1.0, 0.0, 0.0])}
    batch = Batch(torch.arange(3.0)[:, None], targets, {CVR: torch.tensor([1.0, 1.0, 2.0])})
    found = SpaceWeights({CVR: ("click", 2.0, 0.5)})(model, TASKS, [batch])
    d = F.binary_cross_entropy_with_logits(
        torch.tensor([0.3, -0.2, 1.0]), torch.tensor([1.0, 0.0, 0.0]), reduction="none"
    )
    assert found[CVR][0].item() == pytest.approx(((2 * d[0] + 0.5 * d[1] + 1.0 * d[2]) / 3.5).item())
    nothing = SpaceWeights({CVR: ("click", 1.0, 0.0)}, InversePropensity())
    nothing.begin(model, TASKS)
    assert nothing(model, TASKS, [batch])["click"][1] == 2


def test_they_train_through_fit():
    torch.manual_seed(0)
    x = torch.randn(300, 1)
    click = (torch.rand(300) < x[:, 0].sigmoid()).float()
    buy = torch.where(click == 1, (torch.rand(300) < x[:, 0].sigmoid()).float(), NAN)
    source = TensorSource(x, {"click": click, CVR: buy})
    model = MultiTaskModel(HardSharing(nn.Identity(), 1), {name: nn.Linear(1, 1) for name in HEADS})
    tasks = {name: TASKS[name] for name in ("click", CVR)}
    run = fit(model, tasks, AllTasks(source, batch_size=50), source.batches(300), objective=DoublyRobust(),
              plan=Stage(3, lr=0.1))  # fmt: skip
    assert run.evaluations[run.best].scores[CVR] > 0.6


def test_a_checkpoint_knows_them_by_what_they_do():
    weighted = SpaceWeights({"buy": ("click", 1.0, 0.1)}, InversePropensity(floor=0.02))
    assert "floor=0.02" in weighted.extra_repr()
    assert "0.1" in weighted.extra_repr()
    assert InversePropensity().extra_repr() != InversePropensity(floor=0.1).extra_repr()


@pytest.mark.parametrize(("call", "sentence"), [
    (lambda: InversePropensity(floor=0), "floor of propensities"),
    (lambda: DoublyRobust().begin(model_of(click=[0.0], cvr=[0.0]), TASKS), "needs a head 'imputed buy"),
    (lambda: InversePropensity().begin(model_of(click=[0.0], cvr=[0.0]), {"click": TASKS["click"]}), "not among"),
    (lambda: InversePropensity()(model_of(click=[0.0], cvr=[0.0]), TASKS,
                                 [Batch(torch.zeros(1, 1), {CVR: torch.ones(1)})]), "'click' beside"),
    (lambda: SpaceWeights({"buy": ("click", 0.0, 0.0)}), "not both 0"),
    (lambda: SpaceWeights({"buy": ("click", 1.0, 0.0)}).weighted(Batch(None, {"buy": torch.ones(1)})), "labels of"),
])  # fmt: skip
def test_what_cannot_be_corrected_is_said(call, sentence):
    with pytest.raises(UserError, match=sentence):
        call()
