"""Census-Income (KDD): income and never-married, the tasks of the MMoE paper."""

from __future__ import annotations

from pathlib import Path

from polytask.domains.recommend.features import Features, Id, Number
from polytask.domains.recommend.loaders.files import Log, read
from polytask.errors import UserError
from polytask.task import Task

WHERE = "get census-income.data and .test of the UCI repository (Census-Income KDD, Lane & Kohavi)"
COLUMNS = (
    "age", "class_worker", "det_ind_code", "det_occ_code", "education", "wage_per_hour", "hs_college", "marital_stat",
    "major_ind_code", "major_occ_code", "race", "hisp_origin", "sex", "union_member", "unemp_reason",
    "full_or_part_emp", "capital_gains", "capital_losses", "stock_dividends", "tax_filer_stat", "region_prev_res",
    "state_prev_res", "det_hh_fam_stat", "det_hh_summ", "instance_weight", "mig_chg_msa", "mig_chg_reg",
    "mig_move_reg", "mig_same", "mig_prev_sunbelt", "num_emp", "fam_under_18", "country_father", "country_mother",
    "country_self", "citizenship", "own_or_self", "vet_question", "vet_benefits", "weeks_worked", "year", "income_50k",
)  # fmt: skip
NUMBERS = ("age", "wage_per_hour", "capital_gains", "capital_losses", "stock_dividends", "num_emp", "weeks_worked")


def census_income(path: str | Path, dimension: int = 4) -> Log:
    """The file as UCI has it: 42 columns without a header.

    Never-married is made from `marital_stat`, which is then no feature; nor is the survey's `instance_weight`.

    Args:
        dimension: of the 32 embeddings.
    """
    frame = read(path, WHERE, header=None, skipinitialspace=True)
    if len(frame.columns) != len(COLUMNS):
        raise UserError(f"'{path}' has {len(frame.columns)} columns instead of {len(COLUMNS)}: {WHERE}")
    frame.columns = list(COLUMNS)
    frame["income_50k"] = frame["income_50k"].astype(str).str.contains("50000+", regex=False).astype(int)
    frame["never_married"] = (frame["marital_stat"] == "Never married").astype(int)
    inputs = [name for name in COLUMNS if name not in ("marital_stat", "instance_weight", "income_50k")]
    features = Features([Number(name) if name in NUMBERS else Id(name, dimension=dimension) for name in inputs])
    return Log(frame, features, {name: Task.binary(name) for name in ("never_married", "income_50k")})
