"""The estimator: scikit-learn manners over the same engine."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from polytask import MultiTaskEstimator, Task, UserError

RNG = np.random.default_rng(0)
ROWS = 240
X = RNG.normal(size=(ROWS, 4))
SIGNAL = X[:, 0] + X[:, 1]
Y = pd.DataFrame(
    {
        "price": 1000 + 50 * SIGNAL + RNG.normal(size=ROWS),
        "buy": np.where(SIGNAL > 0, "yes", "no"),
        "tier": np.digitize(SIGNAL, [-1.0, 1.0]) * 10,
    }
)
KINDS = {"price": None, "buy": None, "tier": "classes"}


def small(**words: object) -> MultiTaskEstimator:
    return MultiTaskEstimator(**{"epochs": 25, "width": 32, "random_state": 0, **words})  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def fitted() -> MultiTaskEstimator:
    return small(tasks=KINDS).fit(X, Y)


def test_learns_every_kind(fitted: MultiTaskEstimator) -> None:
    predicted = pd.DataFrame(fitted.predict(X), columns=list(fitted.tasks_))
    assert np.corrcoef(predicted["price"].astype(float), Y["price"])[0, 1] > 0.95
    assert (predicted["buy"] == Y["buy"]).mean() > 0.9
    assert set(predicted["tier"]) <= {0, 10, 20}
    assert fitted.score(X, Y) > 0.7


def test_units_of_the_user(fitted: MultiTaskEstimator) -> None:
    assert 800 < float(np.mean(fitted.predict(X)[:, 0])) < 1200


def test_probabilities(fitted: MultiTaskEstimator) -> None:
    probabilities = fitted.predict_proba(X)
    assert set(probabilities) == {"buy", "tier"}
    assert probabilities["buy"].shape == (ROWS, 2)
    assert probabilities["tier"].shape == (ROWS, 3)
    for values in probabilities.values():
        np.testing.assert_allclose(values.sum(1), 1.0, atol=1e-5)
    assert list(fitted.classes_["buy"]) == ["no", "yes"]
    yes = fitted.predict(X)[:, 1] == "yes"
    np.testing.assert_array_equal(yes, probabilities["buy"][:, 1] >= 0.5)


def test_same_seed_same_model_and_global_random_numbers_untouched() -> None:
    before = torch.get_rng_state()
    first, second = (small(tasks=KINDS, epochs=3).fit(X, Y) for _ in range(2))
    assert torch.equal(before, torch.get_rng_state())
    for a, b in zip(first.model_.state_dict().values(), second.model_.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    other = small(tasks=KINDS, epochs=3, random_state=1).fit(X, Y)
    assert not np.allclose(other.predict(X)[:, 0].astype(float), first.predict(X)[:, 0].astype(float))


def test_missing_labels_are_used_where_present() -> None:
    partial = Y.copy()
    partial.loc[::2, "price"] = np.nan
    partial.loc[1::2, "buy"] = None
    fitted = small(tasks=KINDS).fit(X, partial)
    assert fitted.score(X, Y) > 0.6


def test_arrays_frames_and_task_objects() -> None:
    numbers = Y[["price"]].to_numpy()
    by_array = small(epochs=3).fit(X, numbers)
    assert list(by_array.tasks_) == ["y0"]
    assert by_array.predict(X).dtype == np.float64
    by_task = small(tasks=[Task.regression("dwell")], epochs=3).fit(X, numbers)
    assert list(by_task.tasks_) == ["dwell"]
    frame = pd.DataFrame(X, columns=list("abcd"))
    by_frame = small(tasks=["price"], epochs=3).fit(frame, Y)
    assert list(by_frame.feature_names_in_) == list("abcd")
    np.testing.assert_allclose(by_frame.predict(frame), by_frame.predict(frame.to_numpy()), rtol=1e-6)


@pytest.mark.parametrize(
    ("words", "x", "y", "message"),
    [
        ({}, X[:-1], Y, "X has 239 rows and Y has 240"),
        ({"tasks": ["prize"]}, X, Y, "Y has no column 'prize'"),
        ({"tasks": ["a", "b"]}, X, Y[["price"]].to_numpy(), "2 tasks need 2 columns of Y, got 1"),
        ({"balancer": "pcgard"}, X, Y, "did you mean 'pcgrad'"),
        ({"trunk": "soft"}, X, Y, "no trunk 'soft'"),
        ({"validation_fraction": 1.0}, X, Y, "validation_fraction must lie between 0 and 1"),
        ({"tasks": {"price": "binary"}}, X, Y, "price"),
    ],
)
def test_errors_name_the_matter(words: dict[str, object], x: object, y: object, message: str) -> None:
    with pytest.raises(UserError, match=message):
        small(**words).fit(x, y)


def test_not_fitted() -> None:
    with pytest.raises(UserError, match="not fitted"):
        small().predict(X)


def test_parameters() -> None:
    estimator = small(tasks=KINDS)
    assert estimator.set_params(width=8).get_params()["width"] == 8
    with pytest.raises(UserError, match="did you mean 'width'"):
        estimator.set_params(widht=8)
    assert repr(MultiTaskEstimator(width=7)) == "MultiTaskEstimator(width=7)"


def test_with_scikit_learn() -> None:
    base = pytest.importorskip("sklearn.base", reason="scikit-learn is not installed")
    from sklearn.model_selection import GridSearchCV, cross_val_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    estimator = small(tasks=KINDS, epochs=4)
    copy = base.clone(estimator)
    assert copy is not estimator
    assert copy.get_params() == estimator.get_params()
    pipeline = make_pipeline(StandardScaler(), estimator).fit(X, Y)
    assert pipeline.predict(X).shape == (ROWS, 3)
    assert len(cross_val_score(estimator, X, Y, cv=2)) == 2
    search = GridSearchCV(estimator, {"lr": [1e-6, 1e-2]}, cv=2).fit(X, Y)
    assert search.best_params_ == {"lr": 1e-2}


def test_inverse_size_counts_the_labelled_rows_of_the_training_part() -> None:
    sparse = Y[["price"]].assign(rare=np.where(np.arange(ROWS) % 4 == 0, SIGNAL, np.nan))
    weights = small(balancer="inverse-size", epochs=2).fit(X, sparse).run_.evaluations[0].weights
    assert weights["rare"] / weights["price"] == pytest.approx(4.0, rel=0.05)
    assert sum(weights.values()) == pytest.approx(2.0, rel=1e-3)


@pytest.mark.parametrize("balancer", ["famo", "dtp", "gradnorm"])
def test_balancers_that_watch_the_training(balancer: str) -> None:
    """The second look, the validation scores and the rates reach them by name."""
    evaluations = small(balancer=balancer, epochs=6).fit(X, Y).run_.evaluations
    first, last = evaluations[0].weights, evaluations[-1].weights
    assert max(abs(last[name] - first[name]) for name in first) > 0.01
