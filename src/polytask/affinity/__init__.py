"""What can be measured on models and their training about whether tasks are related; `relate` has the arithmetic."""

from polytask.affinity.features import layer_features
from polytask.affinity.halves import HalfGramians, half_gramians
from polytask.affinity.linearised import linearise
from polytask.affinity.transfer import transfer_losses
from polytask.affinity.watching import Watched, watch

__all__ = ["HalfGramians", "Watched", "half_gramians", "layer_features", "linearise", "transfer_losses", "watch"]
