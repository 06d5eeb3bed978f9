"""The encoder of a log against plain embeddings, and sparse gradients against dense ones."""

import copy

import pandas as pd
import pytest
import torch
from torch import nn

from polytask import MLP, AllTasks, Equal, HardSharing, MMoE, MultiTaskModel, PCGrad, Stage, Task, fit
from polytask.domains.recommend import FeatureEncoder, Features, FeatureStem, Id, Ids, LazyAdamW, Number
from polytask.domains.recommend.encoder import Attention
from polytask.testing import check_trunk
from polytask.training import train_step
from tests.domains.recommend.test_features import FEATURES, log

TASKS = {"click": Task.binary("click"), "buy": Task.binary("buy")}


def test_the_stem_is_embeddings_side_by_side():
    frame = log(60)
    features = Features([
        Id("user", "user", 3), Number("price", "item"), Id("city", "user", 5), Id("item", "item", 3),
        Ids("past", "user", 3, table="item", length=4), Ids("tags", "item", 5, pooling="sum"),
    ])  # fmt: skip
    fitted = features.fit(frame)
    stem, inputs = FeatureStem(fitted), fitted.tensors(frame)
    starts = {"user": 0, "item": fitted.codings["user"].rows}
    table, other = stem.banks[0].table.weight, stem.banks[1].table.weight
    user, city, item = inputs["categorical"].T
    past = table[inputs["past"] + starts["item"]] * (inputs["past"] > 0).unsqueeze(-1)
    mean = past.sum(1) / (inputs["past"] > 0).sum(1, keepdim=True).clamp(min=1)
    tags = other[inputs["tags"] + fitted.codings["city"].rows] * (inputs["tags"] > 0).unsqueeze(-1)
    expected = [table[user], table[item + starts["item"]], mean, other[city], tags.sum(1), inputs["numeric"]]
    torch.testing.assert_close(stem(inputs), torch.cat(expected, 1))
    assert stem(inputs).shape == (60, stem.out_features)
    assert stem.places("user").tolist() == [0, 1, 2, 6, 7, 8, 9, 10, 11, 12, 13]  # user, past, city
    assert (table[:2] == 0).all()


def test_attention_is_the_papers_sum_over_what_is_filled():
    torch.manual_seed(0)
    unit, items, query = Attention(3), torch.randn(2, 4, 3), torch.randn(2, 3)
    filled = torch.tensor([[True, True, False, False], [False] * 4])
    found = unit(items, query, filled)
    by_hand = torch.zeros(3)
    for place in range(2):
        e, q = items[0, place], query[0]
        by_hand = by_hand + unit.score(torch.cat([e, q, e - q, e * q])) * e
    torch.testing.assert_close(found[0], by_hand)
    assert (found[1] == 0).all()


def test_padding_changes_nothing():
    frame = log(40)
    fitted = FEATURES.fit(frame)
    stem = FeatureStem(fitted)
    inputs = fitted.tensors(frame)
    with torch.no_grad():
        before = stem(inputs)
        for bank in stem.banks:
            for start in bank.starts:
                bank.table.weight[start] = 7.0  # the row of "missing" of each table of a list
        after = stem(inputs)
    places = stem.places("past", "tags")
    torch.testing.assert_close(before[:, places], after[:, places])


def model_of(fitted, sparse):
    torch.manual_seed(3)
    trunk = MMoE(FeatureStem(fitted, sparse=sparse), list(TASKS), experts=3, widths=(16,))
    return MultiTaskModel(trunk, {name: nn.Linear(16, 1) for name in TASKS})


@pytest.mark.parametrize("balancer", [Equal, PCGrad])
def test_sparse_gradients_are_the_dense_ones(balancer):
    frame = log()
    fitted = FEATURES.fit(frame)
    batch = fitted.source(frame, list(TASKS)).take(slice(0, 64))
    dense, sparse = model_of(fitted, False), model_of(fitted, True)
    for model in (dense, sparse):
        torch.manual_seed(0)
        train_step(model, TASKS, [batch], balancer(), torch.optim.SGD(model.parameters(), lr=0.0))
    for one, other in zip(dense.parameters(), sparse.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad.to_dense() if other.grad.is_sparse else other.grad)
    assert sum(p.grad.is_sparse for p in sparse.parameters()) == 2  # two banks
    assert not any(p.grad.is_sparse for p in dense.parameters())


def test_lazy_adamw_is_adamw_where_every_row_is_met():
    torch.manual_seed(0)
    one = nn.ModuleDict({"table": nn.Embedding(4, 3, sparse=True), "last": nn.Linear(3, 1)})
    other = copy.deepcopy(one)
    other["table"].sparse = False
    lazy = LazyAdamW(one.parameters(), lr=0.05, weight_decay=0.1)
    plain = torch.optim.AdamW(other.parameters(), lr=0.05, weight_decay=0.1)
    ids = torch.tensor([0, 1, 2, 3, 3])
    for _ in range(5):
        for modules, optimizer in ((one, lazy), (other, plain)):
            optimizer.zero_grad()
            modules["last"](modules["table"](ids)).square().mean().backward()
            optimizer.step()
    for p, q in zip(one.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(p, q)


def test_lazy_adamw_goes_on_from_its_state():
    def run(split):
        torch.manual_seed(0)
        table = nn.Embedding(6, 2, sparse=True)
        optimizer = LazyAdamW(table.parameters(), lr=0.1)
        for step in range(6):
            if split and step == 3:
                state = optimizer.state_dict()
                optimizer = LazyAdamW(table.parameters(), lr=0.1)
                optimizer.load_state_dict(state)
            optimizer.zero_grad()
            table(torch.tensor([step % 3, 4])).square().sum().backward()
            optimizer.step()
        return table.weight

    assert torch.equal(run(False), run(True))


def test_it_trains_below_any_trunk():
    frame = log(800)
    frame["click"] = (frame["item"] % 2 == 0).astype(int)
    frame["buy"] = ((frame["item"] % 2 == 0) & (frame["user"] % 2 == 0)).astype(int)
    train, valid = frame.iloc[:600], frame.iloc[600:]
    fitted = FEATURES.fit(train)
    model = model_of(fitted, True)
    sampler = AllTasks(fitted.source(train, list(TASKS)), batch_size=50)
    batches = fitted.source(valid, list(TASKS)).batches(1000)
    run = fit(model, TASKS, sampler, batches, optimizer=LazyAdamW, plan=Stage(8, lr=0.03))
    assert run.evaluations[run.best].scores["click"] > 0.95
    check_trunk(lambda: HardSharing(FeatureEncoder(fitted, (8,))), fitted.tensors(frame[:6]), ["a", "b"])


def test_the_encoder_has_stages():
    fitted = Features([Id("a")]).fit(pd.DataFrame({"a": [1, 2]}))
    encoder = FeatureEncoder(fitted, (8, 4))
    chain = encoder.stages()
    assert len(chain) == 3
    assert isinstance(encoder.body, MLP)
    inputs = fitted.tensors(pd.DataFrame({"a": [2]}))
    expected = encoder(inputs)
    features = inputs
    for stage in chain:
        features = stage(features)
    torch.testing.assert_close(features, expected)
