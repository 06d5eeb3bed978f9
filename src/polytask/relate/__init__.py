"""Are tasks related? Pure functions: gains with intervals, gradient conflict, grouping."""

from polytask.relate.budget import best_plan, plans_by_cost
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
from polytask.relate.plans import Group, GroupCost, Plan, pair_average_gains, tabulated_gains
from polytask.relate.quantile import students_t_quantile

__all__ = [
    "Group",
    "GroupCost",
    "Interval",
    "Plan",
    "Verdict",
    "best_plan",
    "conflict_rate",
    "cosines",
    "curvature_bound",
    "delta_m",
    "groups_from_affinity",
    "magnitude_similarity",
    "mean_cosine",
    "mean_interval",
    "pair_average_gains",
    "paired_interval",
    "plans_by_cost",
    "relative_gain",
    "relative_gains",
    "students_t_quantile",
    "tabulated_gains",
]
