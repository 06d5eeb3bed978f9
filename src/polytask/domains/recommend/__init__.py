"""Recommendation: clicks, conversions and dwell time in one model; ratings with explanations."""

from polytask.domains.recommend.encoder import FeatureEncoder, FeatureStem
from polytask.domains.recommend.features import Features, Id, Ids, Number
from polytask.domains.recommend.fitted import FittedFeatures
from polytask.domains.recommend.lazy import LazyAdamW

__all__ = ["FeatureEncoder", "FeatureStem", "Features", "FittedFeatures", "Id", "Ids", "LazyAdamW", "Number"]
