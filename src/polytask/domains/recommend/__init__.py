"""Recommendation: clicks, conversions and dwell time in one model; ratings with explanations."""

from polytask.domains.recommend.clicks import ClickLog, click_log, given, with_funnel
from polytask.domains.recommend.counterfactual import DoublyRobust, InversePropensity, SpaceWeights
from polytask.domains.recommend.encoder import FeatureEncoder, FeatureStem
from polytask.domains.recommend.features import Features, Id, Ids, Number
from polytask.domains.recommend.fitted import FittedFeatures
from polytask.domains.recommend.gates import PersonalGates
from polytask.domains.recommend.graph import TowerGraph
from polytask.domains.recommend.lazy import LazyAdamW
from polytask.domains.recommend.models import MODELS, RecommenderRecipe, recommender

__all__ = [
    "MODELS",
    "ClickLog",
    "DoublyRobust",
    "FeatureEncoder",
    "FeatureStem",
    "Features",
    "FittedFeatures",
    "Id",
    "Ids",
    "InversePropensity",
    "LazyAdamW",
    "Number",
    "PersonalGates",
    "RecommenderRecipe",
    "SpaceWeights",
    "TowerGraph",
    "click_log",
    "given",
    "recommender",
    "with_funnel",
]
