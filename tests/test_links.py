"""Heads that see other heads: oracles of ESMM and AITM, what is computed, what gets a gradient."""

import copy
import itertools
import math

import pytest
import torch
from torch import nn

from polytask import MLP, Batch, Grouped, HardSharing, MMoE, MultiTaskModel, Task, UserError, train_step
from polytask.balance import Equal
from polytask.links import Agrees, AtMost, Distils, Link, ProductOf, Sees

# oracles.json, keys esmm and aitm_calibrator
PCTR, PCVR, PCTCVR = 0.1, 0.2, 0.02
LOSS_CTR_LABEL_1, LOSS_CTCVR_LABEL_0 = 2.3025850929940455, 0.020202707317519466
P_CLICK, P_PURCHASE, PENALTY = 0.3, (0.2, 0.5), (0.0, 0.2)


def logit(p):
    return torch.logit(torch.tensor([[p]], dtype=torch.float64))


class Counted(nn.Linear):
    calls = 0

    def forward(self, input):
        self.calls += 1
        return super().forward(input)


def esmm():
    heads = {"click": Counted(8, 1), "convert": Counted(8, 1), "buy": ProductOf("click", "convert")}
    return MultiTaskModel(MMoE(nn.Identity(), ["click", "convert"], widths=(8,), features=3), heads)


class TestProduct:
    def test_the_oracle(self):
        outputs = {"click": logit(PCTR), "convert": logit(PCVR)}
        product = ProductOf("click", "convert")(None, outputs)
        assert product.sigmoid().item() == pytest.approx(PCTCVR, rel=1e-12)
        click, buy = Task.binary("click"), Task.binary("buy")
        assert click.loss(outputs["click"], torch.ones(1)).item() == pytest.approx(LOSS_CTR_LABEL_1, rel=1e-12)
        assert buy.loss(product, torch.zeros(1)).item() == pytest.approx(LOSS_CTCVR_LABEL_0, rel=1e-9)

    def test_it_is_exact_where_a_product_of_sigmoids_is_not(self):
        for a, b in itertools.product([-80.0, -40.0, 0.0, 40.0, 80.0], repeat=2):
            x, y = torch.tensor([[a]], requires_grad=True), torch.tensor([[b]], requires_grad=True)
            out = ProductOf("x", "y")(None, {"x": x, "y": y})
            # -log(e^-a + e^-b + e^-(a+b)) by Python's exact rationals of the largest term
            largest = max(-a, -b, -a - b)
            expected = -(largest + math.log(sum(math.exp(v - largest) for v in (-a, -b, -a - b))))
            assert out.item() == pytest.approx(expected, rel=1e-6)
            out.sum().backward()
            assert x.grad.isfinite().all()
            assert y.grad.isfinite().all()
            assert 0 <= x.grad.item() <= 1 + 1e-5

    def test_of_three(self):
        outputs = {"a": logit(0.9), "b": logit(0.5), "c": logit(0.2)}
        assert ProductOf("a", "b", "c")(None, outputs).sigmoid().item() == pytest.approx(0.09, rel=1e-12)

    def test_it_is_never_likelier_than_a_factor(self):
        model = esmm()
        outputs = model(10 * torch.randn(500, 3))
        assert (outputs["buy"] <= outputs["click"]).all()
        assert (outputs["buy"] <= outputs["convert"]).all()

    def test_conversion_learns_through_the_product_only(self):
        model, x = esmm(), torch.randn(9, 3)
        tasks = {name: Task.binary(name) for name in ("click", "buy")}
        outputs = model(x, tuple(tasks))
        assert tuple(outputs) == ("click", "buy")
        click = tasks["click"].loss(outputs["click"], torch.ones(9)).mean()
        click.backward(retain_graph=True)
        assert model.head("convert").weight.grad is None
        tasks["buy"].loss(outputs["buy"], torch.zeros(9)).mean().backward()
        assert model.head("convert").weight.grad.any()

    def test_training_on_impressions_recovers_the_conversion_rate(self):
        """Labels of click and of click-and-buy only; the rate of conversion is never shown."""
        torch.manual_seed(0)
        model = MultiTaskModel(
            HardSharing(nn.Linear(1, 4), 4),
            {"click": nn.Linear(4, 1), "convert": nn.Linear(4, 1), "buy": ProductOf("click", "convert")},
        )
        batch = Batch(
            torch.zeros(100, 1),
            {"click": (torch.arange(100) < 40).float(), "buy": (torch.arange(100) < 10).float()},
        )
        tasks = {name: Task.binary(name) for name in ("click", "buy")}
        optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
        for _ in range(200):
            train_step(model, tasks, [batch], Equal(), optimizer)
        assert model(torch.zeros(1, 1))["convert"].sigmoid().item() == pytest.approx(0.25, abs=0.01)


class TestOrder:
    def test_the_oracle(self):
        for purchase, expected in zip(P_PURCHASE, PENALTY, strict=True):
            head = AtMost(nn.Identity(), "click", weight=0.6)
            head(logit(purchase), {"click": logit(P_CLICK)})
            assert head.penalty().item() == pytest.approx(0.6 * expected, abs=1e-12)

    def test_the_mean_over_rows_and_a_gradient_for_both(self):
        click, buy = (torch.tensor(v, requires_grad=True) for v in ([[0.0], [1.0]], [[1.0], [0.0]]))
        head = AtMost(nn.Identity(), "click", weight=2.0)
        assert torch.equal(head(buy, {"click": click}), buy)
        penalty = head.penalty()
        gap = torch.tensor(1.0).sigmoid() - 0.5
        torch.testing.assert_close(penalty, 2.0 * gap / 2)
        penalty.backward()
        slope = torch.tensor(1.0).sigmoid() * (1 - torch.tensor(1.0).sigmoid())
        torch.testing.assert_close(buy.grad, torch.stack([slope, torch.tensor(0.0)])[:, None])
        torch.testing.assert_close(click.grad, torch.tensor([[-0.25], [0.0]]))

    def test_the_penalty_is_given_once_and_in_training_only(self):
        head = AtMost(nn.Identity(), "click")
        outputs = {"click": logit(0.2)}
        head(logit(0.5), outputs)
        assert head.penalty() is not None
        assert head.penalty() is None
        head.eval()(logit(0.5), outputs)
        assert head.penalty() is None
        with torch.no_grad():
            head.train()(logit(0.5), outputs)
        assert head.penalty() is None

    def test_the_order_is_learnt(self):
        """Two heads with opposite labels: the calibrator pulls the purchase below the click."""
        torch.manual_seed(0)
        gaps = []
        for weight in (0.0, 5.0):
            model = MultiTaskModel(
                HardSharing(nn.Linear(1, 4), 4),
                {"click": nn.Linear(4, 1), "buy": AtMost(nn.Linear(4, 1), "click", weight)},
            )
            batch = Batch(torch.zeros(10, 1), {"click": torch.zeros(10), "buy": torch.ones(10)})
            tasks = {name: Task.binary(name) for name in ("click", "buy")}
            optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
            for _ in range(100):
                train_step(model, tasks, [batch], Equal(), optimizer)
            outputs = model(torch.zeros(1, 1))
            gaps.append((outputs["buy"].sigmoid() - outputs["click"].sigmoid()).item())
        assert gaps[0] > 0.8
        assert gaps[1] < 0.2


class TestSees:
    @pytest.mark.parametrize("detach", [False, True])
    def test_the_output_of_another_head(self, detach):
        model = MultiTaskModel(
            HardSharing(MLP(3, [8])),
            {"high": Sees(nn.Linear(8 + 2, 1), "low", detach=detach), "low": nn.Linear(8, 2)},
        )
        x = torch.randn(5, 3)
        features = model.trunk.encoder(x)
        low = model.head("low")(features)
        outputs = model(x, ["high"])
        assert list(outputs) == ["high"]
        torch.testing.assert_close(outputs["high"], model.head("high").head(torch.cat([features, low], 1)))
        outputs["high"].sum().backward()
        assert (model.head("low").weight.grad is None) == detach

    def test_label_embeddings(self):
        through = nn.Sequential(nn.Softmax(-1), nn.Linear(3, 4))
        head = Sees(nn.Linear(8 + 4, 1), "tag", through=through)
        features, tags = torch.randn(5, 6, 8), torch.randn(5, 6, 3)
        expected = head.head(torch.cat([features, through(tags)], -1))
        torch.testing.assert_close(head(features, {"tag": tags}), expected)

    def test_forms_that_do_not_fit(self):
        with pytest.raises(UserError, match=r"features \(5, 6, 8\) cannot see outputs of \('tag',\)"):
            Sees(nn.Linear(9, 1), "tag")(torch.zeros(5, 6, 8), {"tag": torch.zeros(5, 1)})


class TestAgreement:
    @pytest.mark.parametrize(("kind", "width"), [("regression", 2), ("binary", 1), ("classes", 4)])
    def test_of_equal_outputs_is_zero(self, kind, width):
        for head in (Agrees(nn.Identity(), "other", kind), Distils(nn.Identity(), "other", kind)):
            output = torch.randn(6, width, requires_grad=True)
            head(output, {"other": output.detach().clone()})
            torch.testing.assert_close(head.penalty(), torch.tensor(0.0))
            head(output, {"other": torch.randn(6, width)})
            assert head.penalty() > 0

    def test_consistency_by_hand_with_a_gradient_for_both(self):
        own, other = torch.randn(6, 3, requires_grad=True), torch.randn(6, 3, requires_grad=True)
        head = Agrees(nn.Identity(), "other", "classes", weight=2.0)
        head(own, {"other": other})
        penalty = head.penalty()
        torch.testing.assert_close(penalty, 2 * (own.softmax(-1) - other.softmax(-1)).square().sum(1).mean())
        penalty.backward()
        assert own.grad.any()
        assert other.grad.any()

    def test_consistency_by_a_learnt_translation(self):
        head = Agrees(nn.Identity(), "other", "regression", via=nn.Linear(2, 1))
        own, other = torch.randn(6, 1), torch.randn(6, 2)
        head(own, {"other": other})
        torch.testing.assert_close(head.penalty(), (head.via(other) - own).square().mean())

    @pytest.mark.parametrize("temperature", [1.0, 3.0])
    def test_distillation_by_hand_teaches_one_way(self, temperature):
        own, teacher = torch.randn(6, 3, requires_grad=True), torch.randn(6, 3, requires_grad=True)
        head = Distils(nn.Identity(), "teacher", "classes", weight=2.0, temperature=temperature)
        head(own, {"teacher": teacher})
        penalty = head.penalty()
        p, q = (teacher / temperature).softmax(-1), (own / temperature).softmax(-1)
        torch.testing.assert_close(penalty, 2 * temperature**2 * (p * (p / q).log()).sum(1).mean())
        penalty.backward()
        torch.testing.assert_close(own.grad, 2 * temperature * (q - p).detach() / 6)
        assert teacher.grad is None

    def test_distillation_of_one_logit_is_that_of_two_classes(self):
        own, teacher = torch.randn(6, 1), torch.randn(6, 1)
        terms = []
        for kind, pad in (("binary", False), ("classes", True)):
            rows = [torch.cat([torch.zeros(6, 1), t], 1) if pad else t for t in (own, teacher)]
            head = Distils(nn.Identity(), "teacher", kind, temperature=2.0)
            head(rows[0].requires_grad_(), {"teacher": rows[1]})
            terms.append(head.penalty())
        torch.testing.assert_close(*terms)

    def test_an_unknown_kind(self):
        with pytest.raises(UserError, match="unknown kind 'class'; did you mean 'classes'"):
            Distils(nn.Identity(), "teacher", "class")


class TestModel:
    def test_a_task_computes_what_it_needs_and_nothing_else(self):
        model, x = esmm(), torch.randn(4, 3)
        asked = []
        model.trunk.register_forward_pre_hook(lambda module, args: asked.append(args[1]))
        for task, tower, needed in (
            ("click", [1, 0], ("click",)),
            ("convert", [0, 1], ("convert",)),
            ("buy", [1, 1], ("click", "convert")),
        ):
            model.head("click").calls = model.head("convert").calls = 0
            assert list(model(x, [task])) == [task]
            assert [model.head(n).calls for n in ("click", "convert")] == tower
            assert asked.pop() == needed
        assert list(model(x, ["buy", "click"])) == ["buy", "click"]
        assert list(model(x)) == ["click", "convert", "buy"]

    def test_a_chain_and_heads_in_heads(self):
        """buy sees click, and is at most click; return sees buy."""
        heads = {
            "back": Sees(nn.Linear(9, 1), "buy"),
            "buy": AtMost(Sees(nn.Linear(9, 1), "click"), "click"),
            "click": nn.Linear(8, 1),
        }
        model, x = MultiTaskModel(HardSharing(MLP(3, [8])), heads), torch.randn(4, 3)
        features = model.trunk.encoder(x)
        click = heads["click"](features)
        buy = heads["buy"].head.head(torch.cat([features, click], 1))
        back = heads["back"].head(torch.cat([features, buy], 1))
        torch.testing.assert_close(model(x, ["back"])["back"], back)
        expected = 0.6 * torch.relu(buy.sigmoid() - click.sigmoid()).mean()
        torch.testing.assert_close(model.penalty(), expected)
        assert model.penalty() is None

    def test_the_penalty_reaches_the_optimizer(self):
        model = MultiTaskModel(
            HardSharing(MLP(3, [8])), {"a": nn.Linear(8, 1), "b": Distils(nn.Linear(8, 1), "a", "regression")}
        )
        batch = Batch(torch.randn(6, 3), {"b": torch.full((6,), torch.nan), "a": torch.randn(6)})
        before = model.head("b").head.weight.clone()
        tasks = {name: Task.regression(name) for name in "ab"}
        train_step(model, tasks, [batch], Equal(), torch.optim.SGD(model.parameters(), lr=0.1))
        assert not torch.equal(model.head("b").head.weight, before)  # without a label, by its teacher alone

    def test_who_serves_whom(self):
        served = esmm().serves()
        assert served["heads.1.weight"] == ("convert", "buy")
        assert served["trunk.gates.0.weight"] == ("click", "buy")
        own = MultiTaskModel(HardSharing(MLP(3, [8])), {"a": nn.Linear(8, 1), "b": Sees(nn.Linear(9, 1), "a")}).serves()
        assert own["heads.0.weight"] == ("a", "b")
        assert own["heads.1.head.weight"] == ("b",)

    def test_save_and_load(self):
        first, second, x = esmm(), esmm(), torch.randn(4, 3)
        second.load_state_dict(first.state_dict())
        torch.testing.assert_close(second(x), first(x), rtol=0, atol=0)

    def test_a_model_can_be_copied_in_the_middle_of_a_step(self):
        model = MultiTaskModel(HardSharing(MLP(3, [8])), {"a": nn.Linear(8, 1), "b": AtMost(nn.Linear(8, 1), "a")})
        model(torch.randn(4, 3))
        copied = copy.deepcopy(model)
        assert copied.penalty() is None
        assert model.penalty() is not None

    def test_double_and_half_precision(self):
        model, x = esmm().double(), torch.randn(4, 3, dtype=torch.float64)
        assert model(x)["buy"].dtype == torch.float64
        model.float()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            low = model(x.float())["buy"]
        torch.testing.assert_close(low.float(), model(x.float())["buy"], rtol=0.1, atol=0.1)

    def test_compiled(self):
        heads = {"a": nn.Linear(8, 1), "b": AtMost(Sees(nn.Linear(9, 1), "a"), "a"), "c": ProductOf("a", "b")}
        model, x = MultiTaskModel(HardSharing(MLP(3, [8])), heads), torch.randn(4, 3)
        expected = model(x)
        penalty = model.penalty()
        compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
        torch.testing.assert_close(compiled(x), expected)
        torch.testing.assert_close(model.penalty(), penalty)

    def test_groups_of_tasks_give_features_for_what_is_needed(self):
        trunk = Grouped([("click",), ("convert",)], [HardSharing(MLP(3, [8])) for _ in range(2)])
        heads = {"click": nn.Linear(8, 1), "convert": nn.Linear(8, 1), "buy": ProductOf("click", "convert")}
        assert MultiTaskModel(trunk, heads)(torch.randn(4, 3), ["buy"])["buy"].shape == (4, 1)

    def test_circles_and_unknown_names_are_refused(self):
        trunk = HardSharing(MLP(3, [8]))
        with pytest.raises(UserError, match="no task 'clik'; did you mean 'click'"):
            MultiTaskModel(trunk, {"click": nn.Linear(8, 1), "buy": Sees(nn.Linear(9, 1), "clik")})
        with pytest.raises(UserError, match="in a circle: a -> b -> a"):
            MultiTaskModel(trunk, {"a": Sees(nn.Linear(9, 1), "b"), "b": Sees(nn.Linear(9, 1), "a")})
        with pytest.raises(UserError, match="in a circle: a -> a"):
            MultiTaskModel(trunk, {"a": AtMost(nn.Linear(8, 1), "a")})
        with pytest.raises(UserError, match="two tasks or more"):
            ProductOf("a", "a")
        with pytest.raises(UserError, match="needs the name"):
            Sees(nn.Linear(8, 1))

    def test_a_link_of_ones_own(self):
        class Sum(Link):
            reads_features = False

            def forward(self, features, outputs):
                return sum(outputs[name] for name in self.needs)

        model = MultiTaskModel(
            HardSharing(MLP(3, [8])), {"a": nn.Linear(8, 1), "b": nn.Linear(8, 1), "all": Sum(["a", "b"])}
        )
        outputs = model(torch.randn(4, 3))
        torch.testing.assert_close(outputs["all"], outputs["a"] + outputs["b"])
