"""A log of exposures, clicks, conversions and dwell times whose true probabilities are known, on unclicked rows too."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from polytask.domains.recommend.features import Features, Id, Ids, Number
from polytask.domains.recommend.metrics import auc
from polytask.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

LATENT, LEVELS, PER_REQUEST, PAST, SIGMA = 2, 6, 10, 8, 0.8
NODES, WEIGHTS = np.polynomial.hermite_e.hermegauss(24)
WEIGHTS = WEIGHTS / WEIGHTS.sum()
USER_LEVELS, ITEM_LEVELS = ("age", "region", "income", "household"), ("style", "genre", "quality", "brand")
FEATURES = Features([
    Id("user", "user", 16), *(Id(name, "user", 8) for name in USER_LEVELS),
    Id("item", "item", 16), *(Id(name, "item", 8) for name in ITEM_LEVELS),
    Number("price", "item", "log"), Id("position", "context", 8), Id("hour", "context", 8),
    Ids("past", "user", 16, table="item", length=PAST),
])  # fmt: skip
"""The columns of a generated log that a model may see."""


def given(event: str, before: str) -> str:
    """What an event is called where only rows with the event before it count: "buy|click".

    >>> given("buy", "click")
    'buy|click'
    """
    return f"{event}|{before}"


def with_funnel(frame: pd.DataFrame, order: Sequence[str]) -> pd.DataFrame:
    """The frame with a column "later|earlier" for neighbours in an order of events; NaN without the earlier one.

    >>> import pandas as pd
    >>> with_funnel(pd.DataFrame({"click": [0, 1, 1], "buy": [0, 0, 1]}), ["click", "buy"])["buy|click"].tolist()
    [nan, 0.0, 1.0]
    """
    added = {given(b, a): frame[b].where(frame[a] == 1).astype(float) for a, b in itertools.pairwise(order)}
    return frame.assign(**added)


@dataclass(frozen=True)
class ClickLog:
    """What `click_log` made.

    Args:
        frame: one row per exposure: request, user, item, ...; click (0 or 1), buy (0 or 1), "buy|click", dwell
            (seconds) and completion (0 to 1), the last three NaN without a click. A bounce has 0 seconds.
        truth: per row the probability of "click", of "buy" (after a click), of "buy|click": would this person buy this
            item *if made to click*; and the expected "dwell" after a click. All given what a model can see.
        features: that a model may see.
    """

    frame: pd.DataFrame
    truth: dict[str, np.ndarray]
    features: Features = FEATURES

    def bayes_auc(self, event: str, rows: slice | np.ndarray = slice(None)) -> float:
        """The AUC of the true probabilities, in expectation; of "buy|click" among clicked rows, as it is measured."""
        p = self.truth[event][rows]
        seen = self.truth["click"][rows] if event == "buy|click" else None
        return auc(p, p, seen)

    def split(self, train: float = 0.7, valid: float = 0.1) -> tuple[slice, slice, slice]:
        """Rows for training, validation and test: the log in its order, whole requests."""
        requests = len(self.frame) // PER_REQUEST
        first, second = (round(share * requests) * PER_REQUEST for share in (train, train + valid))
        return slice(0, first), slice(first, second), slice(second, len(self.frame))


def click_log(
    rows: int = 100_000,
    *,
    users: int = 2000,
    items: int = 400,
    selection: float = 1.0,
    hidden: float = 0.0,
    click_rate: float = 0.1,
    conversion_rate: float = 0.1,
    seed: int = 0,
) -> ClickLog:
    """Exposure -> click -> conversion and dwell time, by a process that is written down here.

    A request shows ten items to a user: popular ones, and those to the user's taste. Let t be the taste (an inner
    product of latent vectors of user and item), v another one for the wish to own, q the item's quality, h a mood of
    the moment that nobody records:

    - click: logit = 1.3 t + 0.5 q - 0.15 position + hidden h + const
    - conversion after a click: logit = selection (1.3 t + 0.5 q) + v - 0.5 log price + hidden h + const
    - bounce after a click: logit = -1.5 - t; else log dwell ~ N(log 60 + 0.4 t + 0.3 v, 0.8²)

    Args:
        rows: exposures, rounded up to whole requests of ten.
        selection: how much what leads to a click leads to a conversion too. At 0 clicked rows are a fair sample of the
            conversions there could be; above it they are the best of them.
        hidden: the same through what no model can see; no correction by observed features repairs that.
        click_rate: mean over all exposures.
        conversion_rate: mean over all exposures, as if every one were clicked.

    >>> log = click_log(2000, seed=1)
    >>> unclicked = log.frame["click"] == 0
    >>> bool(log.truth["buy|click"][~unclicked].mean() > 1.5 * log.truth["buy|click"][unclicked].mean())
    True
    """
    if rows < 1 or users < 1 or items < PER_REQUEST or not (0 < click_rate < 1 and 0 < conversion_rate < 1):
        raise UserError(
            f"a click log needs rows, users, at least {PER_REQUEST} items and rates between 0 and 1, got {rows} rows, "
            f"{users} users, {items} items, rates {click_rate} and {conversion_rate}"
        )
    rng = np.random.default_rng(seed)
    people, things = rng.normal(size=(2, users, LATENT)), rng.normal(size=(2, items, LATENT))
    columns, worth = _exposures(rng, people, things, -(-rows // PER_REQUEST))
    user, item = columns["user"], columns["item"]
    taste, wish = ((people[k][user] * things[k][item]).sum(1) / np.sqrt(LATENT) for k in (0, 1))
    drawn = 1.3 * taste + 0.5 * worth
    click = drawn - 0.15 * columns["position"]
    buy = selection * drawn + wish - 0.5 * (np.log(columns["price"]) - 3.0)
    click += _intercept(click, click_rate, hidden)
    buy += _intercept(buy, conversion_rate, hidden)
    log_dwell, bounce = np.log(60) + 0.4 * taste + 0.3 * wish, _sigmoid(-1.5 - taste)
    truth = {
        "click": _expected(lambda h: _sigmoid(click + h), hidden),
        "buy|click": _expected(lambda h: _sigmoid(buy + h), hidden),
        "buy": _expected(lambda h: _sigmoid(click + h) * _sigmoid(buy + h), hidden),
        "dwell": (1 - bounce) * np.exp(log_dwell + SIGMA**2 / 2),
    }
    mood = hidden * rng.normal(size=len(user))
    clicked, bought, bounced = (
        rng.random(len(user)) < p for p in (_sigmoid(click + mood), _sigmoid(buy + mood), bounce)
    )
    dwell = np.where(bounced, 0.0, np.exp(log_dwell + SIGMA * rng.normal(size=len(user))))
    columns |= {"click": clicked.astype(np.int64), "buy": (clicked & bought).astype(np.int64)}
    columns |= {"dwell": np.where(clicked, dwell, np.nan)}
    columns |= {"completion": np.minimum(columns["dwell"] / 180.0, 1.0)}
    import pandas as pd

    return ClickLog(with_funnel(pd.DataFrame(columns), ["click", "buy"]), truth)


def _exposures(
    rng: np.random.Generator, people: np.ndarray, things: np.ndarray, requests: int
) -> tuple[dict[str, Any], np.ndarray]:
    """Who is shown what, in columns of one row per exposure; and the quality of what is shown."""
    items: int = things.shape[1]
    quality, price = rng.normal(size=(items,)), rng.lognormal(3.0, 0.7, (items,))
    owner = rng.integers(0, people.shape[1], requests)
    item = _shown(rng, people[0][owner], things[0], quality).ravel()
    user = np.repeat(owner, PER_REQUEST)
    known = zip(USER_LEVELS, people.transpose(0, 2, 1).reshape(-1, people.shape[1]), strict=True)
    traits = [*things[0].T, quality, things[1][:, 0]]
    columns = {
        "request": np.repeat(np.arange(requests), PER_REQUEST),
        "user": user,
        **{name: _levels(values)[user] for name, values in known},
        "item": item,
        **{name: _levels(values)[item] for name, values in zip(ITEM_LEVELS, traits, strict=True)},
        "price": price[item],
        "position": np.tile(np.arange(PER_REQUEST), requests),
        "hour": np.repeat(rng.integers(0, 24, requests), PER_REQUEST),
        "past": _past(rng, people[0], things[0], quality)[user].tolist(),
    }
    return columns, quality[item]


def _shown(rng: np.random.Generator, people: np.ndarray, things: np.ndarray, quality: np.ndarray) -> np.ndarray:
    """(requests, 10) different items: the largest of popularity + a little taste + Gumbel noise, in that order."""
    popular = 0.5 * quality + rng.normal(size=len(things))
    found = np.empty((len(people), PER_REQUEST), dtype=np.int64)
    for start in range(0, len(people), 4096):
        part = people[start : start + 4096]
        liked = popular + 0.5 * part @ things.T / np.sqrt(LATENT) + rng.gumbel(size=(len(part), len(things)))
        found[start : start + len(part)] = np.argsort(-liked, axis=1)[:, :PER_REQUEST]
    return found


def _past(rng: np.random.Generator, people: np.ndarray, things: np.ndarray, quality: np.ndarray) -> np.ndarray:
    """(users, 8) items that each user clicked before the log began."""
    liked = 1.3 * people @ things.T / np.sqrt(LATENT) + 0.5 * quality + rng.gumbel(size=(len(people), len(things)))
    return np.argsort(-liked, axis=1)[:, :PAST]


def _levels(values: np.ndarray) -> np.ndarray:
    """Six levels of equally many: what a profile says, roughly."""
    return np.argsort(np.argsort(values)) * LEVELS // len(values)


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def _expected(probability: Callable[[float], np.ndarray], hidden: float) -> np.ndarray:
    """E probability(hidden h), h normal, by Gauss-Hermite quadrature."""
    if not hidden:
        return probability(0.0)
    return np.asarray(sum(w * probability(hidden * float(x)) for x, w in zip(NODES, WEIGHTS, strict=True)))


def _intercept(logit: np.ndarray, rate: float, hidden: float) -> float:
    """The constant with which the mean probability is the rate, by bisection."""
    low, high = -30.0, 30.0
    for _ in range(50):
        middle = (low + high) / 2
        if _mean_rate(logit + middle, hidden) < rate:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def _mean_rate(logit: np.ndarray, hidden: float) -> float:
    return float(_expected(lambda h: _sigmoid(logit + h), hidden).mean())
