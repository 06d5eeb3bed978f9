"""What can be measured on models and their training about whether tasks are related; `relate` has the arithmetic."""

from polytask.affinity.features import layer_features
from polytask.affinity.halves import HalfGramians, half_gramians

__all__ = ["HalfGramians", "half_gramians", "layer_features"]
