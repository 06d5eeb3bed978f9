"""The generator of click logs does what it says: its probabilities are those of what happens."""

import numpy as np
import pytest

from polytask.domains.recommend import metrics
from polytask.domains.recommend.clicks import PER_REQUEST, click_log, with_funnel
from polytask.errors import UserError


@pytest.fixture(scope="module", params=[0.0, 1.5], ids=["all is seen", "a hidden mood"])
def log(request):
    return click_log(60_000, users=500, items=100, hidden=request.param, seed=3)


def close(observed, p):
    """A mean of independent events against its probabilities: within four standard errors."""
    return abs(observed.mean() - p.mean()) < 4 * np.sqrt((p * (1 - p)).mean() / len(p))


def test_events_happen_as_often_as_the_truth_says(log):
    frame, truth = log.frame, log.truth
    assert truth["click"].mean() == pytest.approx(0.1, abs=1e-6)
    assert truth["buy|click"].mean() == pytest.approx(0.1, abs=1e-6)
    for event in ("click", "buy"):
        assert close(frame[event].to_numpy(), truth[event])
        for rows in np.array_split(np.argsort(truth[event]), 5):
            assert close(frame[event].to_numpy()[rows], truth[event][rows])


def test_conversions_after_a_click(log):
    clicked = (log.frame["click"] == 1).to_numpy()
    happened, p = log.frame["buy|click"].to_numpy()[clicked], log.truth["buy|click"][clicked]
    hidden = not np.allclose(log.truth["buy"], log.truth["click"] * log.truth["buy|click"])
    assert close(happened, p) != hidden  # a mood makes those who click buy more than they would
    assert close(happened, (log.truth["buy"] / log.truth["click"])[clicked])
    assert log.frame["buy|click"].isna().to_numpy()[~clicked].all()


def test_dwell_time(log):
    clicked = (log.frame["click"] == 1).to_numpy()
    dwell, expected = log.frame["dwell"].to_numpy()[clicked], log.truth["dwell"][clicked]
    assert abs(dwell.mean() / expected.mean() - 1) < 0.06
    assert np.isnan(log.frame["dwell"].to_numpy()[~clicked]).all()
    assert 0.02 < (dwell == 0).mean() < 0.3
    np.testing.assert_allclose(log.frame["completion"].to_numpy()[clicked], np.minimum(dwell / 180, 1))


def test_the_bayes_auc_is_what_the_truth_reaches(log):
    rng = np.random.default_rng(0)
    for event in ("click", "buy|click"):
        p = log.truth[event]
        clicked = [np.ones(len(p), dtype=bool) if event == "click" else rng.random(len(p)) < log.truth["click"]
                   for _ in range(12)]  # fmt: skip
        found = [metrics.auc(p[rows], rng.random(rows.sum()) < p[rows]) for rows in clicked]
        assert log.bayes_auc(event) == pytest.approx(np.mean(found), abs=4 * np.std(found) / np.sqrt(12))
    assert metrics.auc(log.truth["click"], log.frame["click"]) == pytest.approx(log.bayes_auc("click"), abs=0.01)


def test_selection_is_adjustable():
    ratio = {}
    for selection in (0.0, 0.5, 1.0):
        log = click_log(20_000, users=300, items=60, selection=selection, seed=0)
        p, clicked = log.truth["buy|click"], log.frame["click"] == 1
        ratio[selection] = p[clicked].mean() / p.mean()
    assert ratio[0.0] == pytest.approx(1.0, abs=0.05)
    assert 1.2 < ratio[0.5] < ratio[1.0]
    assert ratio[1.0] > 2


def test_the_form_of_a_log():
    log = click_log(1995, users=40, items=30, seed=1)
    frame = log.frame
    assert len(frame) == 2000
    assert (frame.groupby("request")["user"].nunique() == 1).all()
    assert (frame.groupby("request")["item"].nunique() == PER_REQUEST).all()
    assert frame["past"].map(len).eq(8).all()
    train, valid, test = log.split()
    assert train.stop == valid.start == 1400
    assert test == slice(1600, 2000)
    assert (frame["buy"] <= frame["click"]).all()
    assert click_log(1995, users=40, items=30, seed=1).frame.equals(frame)
    assert set(log.features.names) <= set(frame.columns)
    chain = with_funnel(frame.assign(back=frame["buy"]), ["click", "buy", "back"])
    assert chain["back|buy"].notna().sum() == frame["buy"].sum()


def test_what_cannot_be_made_is_said():
    with pytest.raises(UserError, match="at least 10 items"):
        click_log(100, items=5)
