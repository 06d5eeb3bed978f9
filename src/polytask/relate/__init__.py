"""Are tasks related? Pure functions: gains with intervals, gradient conflict, grouping."""

from polytask.relate.conflict import (
    conflict_rate,
    cosines,
    curvature_bound,
    magnitude_similarity,
    mean_cosine,
)
from polytask.relate.gains import (
    Interval,
    Verdict,
    delta_m,
    mean_interval,
    paired_interval,
    relative_gain,
    relative_gains,
)
from polytask.relate.grouping import groups_from_affinity
from polytask.relate.quantile import students_t_quantile

__all__ = [
    "Interval",
    "Verdict",
    "conflict_rate",
    "cosines",
    "curvature_bound",
    "delta_m",
    "groups_from_affinity",
    "magnitude_similarity",
    "mean_cosine",
    "mean_interval",
    "paired_interval",
    "relative_gain",
    "relative_gains",
    "students_t_quantile",
]
