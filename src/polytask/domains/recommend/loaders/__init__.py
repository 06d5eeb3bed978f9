"""Public logs in the form of this domain; the files are the user's own, each reader says where they come from."""

from polytask.domains.recommend.loaders.alibaba import ali_ccp, ali_ccp_raw, aliexpress
from polytask.domains.recommend.loaders.census import census_income
from polytask.domains.recommend.loaders.criteo import criteo, criteo_attribution
from polytask.domains.recommend.loaders.files import PUBLIC, Log, fetch
from polytask.domains.recommend.loaders.kuairand import kuairand
from polytask.domains.recommend.loaders.movielens import movielens

__all__ = [
    "PUBLIC",
    "Log",
    "ali_ccp",
    "ali_ccp_raw",
    "aliexpress",
    "census_income",
    "criteo",
    "criteo_attribution",
    "fetch",
    "kuairand",
    "movielens",
]
