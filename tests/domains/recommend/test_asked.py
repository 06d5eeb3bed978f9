"""A study over recommenders: from a log's columns to arms, a report and a model that predicts."""

import json

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from polytask import Study
from polytask.cli.app import app
from polytask.config import StudyConfig
from polytask.domains.recommend import Features, Id, click_log
from polytask.domains.recommend.asked import LogPreprocessor, default_arms, features_of
from polytask.domains.recommend.features import Ids, Number
from polytask.errors import UserError
from polytask.table.domain import find_domain, shape_from_json, shape_to_json
from polytask.table.opening import open_table
from polytask.table.predictor import TablePredictor
from polytask.table.preprocess import Preprocessor

KINDS = {"user": "categorical", "item": "categorical", "past": "text"}


def table(rows=600):
    frame = click_log(rows, users=30, items=15, click_rate=0.3, conversion_rate=0.3, seed=0).frame
    frame["past"] = frame["past"].map(lambda items: "|".join(map(str, items)))
    return frame[["user", "item", "price", "hour", "past", "click", "buy"]]


def preprocessor():
    opened = open_table(table(), targets={"click": "binary", "buy": "binary"}, kinds=KINDS)
    return find_domain("recommend").fit(opened.frame, opened.schema, None), opened


def test_columns_of_a_table_become_features():
    _, opened = preprocessor()
    columns = {column.name: column for column in features_of(opened.frame, opened.schema).columns}
    assert type(columns["user"]) is Id
    assert type(columns["price"]) is Number
    assert type(columns["past"]) is Ids
    assert set(columns) == {"user", "item", "price", "hour", "past"}


def test_a_preprocessor_comes_back_from_json():
    fitted, opened = preprocessor()
    back = Preprocessor.from_json(json.loads(json.dumps(fitted.to_json())))
    assert isinstance(back, LogPreprocessor)
    for key, array in fitted.inputs(opened.frame).items():
        np.testing.assert_array_equal(array, back.inputs(opened.frame)[key])
    assert back.targets(opened.frame).keys() == {"click", "buy"}
    shape = shape_from_json(json.loads(json.dumps(shape_to_json(fitted.shape))))
    assert (shape.numeric, shape.cardinalities) == (fitted.shape.numeric, fitted.shape.cardinalities)


def test_arms_depend_on_the_events():
    assert default_arms({"click": "binary", "buy": None})[-2:] == ["esmm+equal", "aitm+equal"]
    assert default_arms({"click": "binary", "dwell": "regression"}) == [
        "single",
        "hard+equal",
        "mmoe+equal",
        "ple+equal",
    ]


def test_a_study_of_recommenders(tmp_path):
    config = StudyConfig(targets="click:binary,buy:binary", kinds=KINDS, domain="recommend", seeds=2, trials=1,
                         epochs=1, arms="single,esmm+equal,aitm+equal", out=str(tmp_path / "out"))  # fmt: skip
    result = Study(table(300), config).run()
    assert result["status"] == "complete"
    assert set(result["arms"]) == {"single", "esmm+equal", "aitm+equal"}
    predictor = TablePredictor.load(tmp_path / "out" / "model")
    new = table().iloc[:5].assign(user=[0, 1, 2, 999, 3])
    found = predictor.predict(new)
    assert found["buy_probability"].between(0, 1).all()
    assert (tmp_path / "out" / "report.html").is_file()


def test_features_can_be_said(tmp_path):
    features = Features([Id("user", "user", 4, buckets=50), Id("item", "item", 4),
                         Ids("past", "user", 4, table="item", pooling="attention", query="item")])  # fmt: skip
    config = StudyConfig(targets="click:binary,buy:binary", kinds=KINDS, domain="recommend", out=str(tmp_path / "out"),
                         features=features.to_json(), arms="single,pepnet+equal")  # fmt: skip
    study = Study(table(), config)
    plan = study.plan()
    assert [arm["arm"] for arm in plan["arms"]] == ["single", "pepnet+equal"]
    assert study.data.preprocessor.fitted.features.columns == features.columns


@pytest.mark.parametrize(("words", "sentence"), [
    ({"domain": "recomend"}, "no domain 'recomend'; did you mean 'recommend'"),
    ({"domain": "recommend", "arms": "crossstitch+equal"}, "unknown arm 'crossstitch"),
    ({"domain": "recommend", "arms": "single,branched"}, "no branched networks"),
    ({"features": [{"kind": "id", "name": "user"}]}, "give the domain too"),
    ({"domain": "recommend", "arms": "esmm+equal", "needs": "buy:click"}, "two events on all rows"),
])  # fmt: skip
def test_what_cannot_be_studied_is_said(words, sentence, tmp_path):
    with pytest.raises(UserError, match=sentence):
        Study(table(), targets="click:binary,buy:binary", kinds=KINDS, out=str(tmp_path / "out"), **words).plan()


def test_a_table_without_a_feature_is_refused():
    frame = pd.DataFrame({"when": pd.date_range("2020", periods=60, freq="D"), "y": [0, 1] * 30})
    opened = open_table(frame, targets={"y": "binary"})
    with pytest.raises(UserError, match="no column of the table is a feature"):
        features_of(opened.frame, opened.schema)


def test_the_command_line_plans_such_a_study(tmp_path):
    path = tmp_path / "log.csv"
    table(300).to_csv(path, index=False)
    words = ["study", str(path), "--domain", "recommend", "--targets", "click:binary,buy:binary", "--plan", "--json"]
    words += ["--kinds", "user:categorical,item:categorical,past:text", "--out", str(tmp_path / "out")]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    arms = json.loads(done.stdout)["arms"]
    assert [arm["arm"] for arm in arms][-2:] == ["esmm+equal", "aitm+equal"]
    assert all(arm["parameters"] > 0 for arm in arms)
