"""Are tasks related? Pure functions of numbers: affinities, noise, groups under a budget, gains with intervals."""

from polytask.relate.affinity import (
    first_order_affinity,
    lookahead_affinity,
    pairwise_win_weights,
    sign_agreement,
    task_vector_cosines,
    transfer_affinity,
)
from polytask.relate.budget import (
    best_plan,
    plans_by_cost,
)
from polytask.relate.comparisons import (
    holm,
)
from polytask.relate.conditional import (
    information_given,
    quantile_residuals,
    residual_correlation,
    residual_information,
    spearman,
    strata_of,
)
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
from polytask.relate.grouping import (
    groups_from_affinity,
)
from polytask.relate.hierarchy import (
    average_linkage,
    cut_tree,
    leaf_order,
)
from polytask.relate.higher_order import (
    Approximation,
    Experiment,
    approximation_error,
    group_gains,
    likely_plans,
    next_experiments,
)
from polytask.relate.independence import (
    Dependence,
    Permuted,
    dependence,
    label_overlap,
    permutation_test,
)
from polytask.relate.information import (
    continuous_information,
    discrete_information,
    information_correlation,
    mixed_information,
    mutual_information,
    normalised_information,
    plug_in_information,
)
from polytask.relate.noise import (
    NoiseBaseline,
    noise_baseline,
)
from polytask.relate.parting import (
    branch_tree,
    parting_depths,
)
from polytask.relate.plans import (
    Group,
    GroupCost,
    Plan,
    pair_average_gains,
    tabulated_gains,
)
from polytask.relate.power import (
    Needed,
    needed,
    visible,
)
from polytask.relate.projected import (
    LinearisedTask,
    affinity_from_groups,
    fine_tuned_gains,
    fine_tuned_losses,
    random_groups,
)
from polytask.relate.quantile import (
    students_t_quantile,
    students_t_tail,
)
from polytask.relate.representation import (
    debiased_cka,
    layer_similarity,
    linear_cka,
    minibatch_cka,
    rbf_cka,
    rsa,
)
from polytask.relate.spread import (
    Spread,
)
from polytask.relate.stability import (
    Stability,
    adjusted_rand,
    bootstrap_affinities,
    group_stability,
    stable_groups,
)
from polytask.relate.transferability import (
    h_score,
    indicators,
    ledoit_wolf,
    leep,
    log_me,
)

__all__ = [
    "Approximation",
    "Dependence",
    "Experiment",
    "Group",
    "GroupCost",
    "Interval",
    "LinearisedTask",
    "Needed",
    "NoiseBaseline",
    "Permuted",
    "Plan",
    "Spread",
    "Stability",
    "Verdict",
    "adjusted_rand",
    "affinity_from_groups",
    "approximation_error",
    "average_linkage",
    "best_plan",
    "bootstrap_affinities",
    "branch_tree",
    "conflict_rate",
    "continuous_information",
    "cosines",
    "curvature_bound",
    "cut_tree",
    "debiased_cka",
    "delta_m",
    "dependence",
    "discrete_information",
    "fine_tuned_gains",
    "fine_tuned_losses",
    "first_order_affinity",
    "group_gains",
    "group_stability",
    "groups_from_affinity",
    "h_score",
    "holm",
    "indicators",
    "mutual_information",
    "information_correlation",
    "information_given",
    "layer_similarity",
    "ledoit_wolf",
    "leep",
    "leaf_order",
    "likely_plans",
    "linear_cka",
    "log_me",
    "lookahead_affinity",
    "magnitude_similarity",
    "mean_cosine",
    "mean_interval",
    "minibatch_cka",
    "mixed_information",
    "needed",
    "next_experiments",
    "noise_baseline",
    "normalised_information",
    "label_overlap",
    "pair_average_gains",
    "paired_interval",
    "pairwise_win_weights",
    "parting_depths",
    "permutation_test",
    "plans_by_cost",
    "plug_in_information",
    "quantile_residuals",
    "random_groups",
    "rbf_cka",
    "relative_gain",
    "relative_gains",
    "residual_correlation",
    "residual_information",
    "rsa",
    "sign_agreement",
    "spearman",
    "stable_groups",
    "strata_of",
    "students_t_quantile",
    "students_t_tail",
    "tabulated_gains",
    "task_vector_cosines",
    "transfer_affinity",
    "visible",
]
