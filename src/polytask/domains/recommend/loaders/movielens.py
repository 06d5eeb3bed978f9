"""MovieLens: ratings of films, with what is known of people and films."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from polytask.domains.recommend.features import Column, Features, Id, Ids
from polytask.domains.recommend.loaders.files import Log, read
from polytask.errors import UserError
from polytask.task import Task

if TYPE_CHECKING:
    import pandas as pd

WHERE = 'get MovieLens at grouplens.org/datasets/movielens, or call fetch("ml-1m")'
LIKED = 4.0


def movielens(folder: str | Path, dimension: int = 16) -> Log:
    """A folder with ratings.dat (1M, 10M) or ratings.csv (the later ones), in the order of time.

    Tasks: liked (a rating of 4 or more) and rating. Genres are a list of ids; gender, age, occupation where there are.
    """
    place = Path(folder)
    ratings, movies = _read(place, "ratings"), _read(place, "movies")
    frame = ratings.merge(movies, on="movie_id", how="left")
    columns: list[Column] = [Id("user_id", "user", dimension), Id("movie_id", "item", dimension),
                             Ids("genres", "item", 8, length=6)]  # fmt: skip
    if (place / "users.dat").is_file():
        frame = frame.merge(_read(place, "users"), on="user_id", how="left")
        columns += [Id(name, "user", 4) for name in ("gender", "age", "occupation")]
    frame["liked"] = (frame["rating"] >= LIKED).astype(int)
    frame = frame.sort_values("timestamp", kind="stable", ignore_index=True)
    rating = Task.regression("rating", center=float(frame["rating"].mean()), scale=float(frame["rating"].std()) or 1.0)
    return Log(frame, Features(columns), {"liked": Task.binary("liked"), "rating": rating})


NAMES = {
    "ratings": ["user_id", "movie_id", "rating", "timestamp"],
    "movies": ["movie_id", "title", "genres"],
    "users": ["user_id", "gender", "age", "occupation", "zip"],
}


def _read(folder: Path, name: str) -> pd.DataFrame:
    dat, names = folder / f"{name}.dat", NAMES[name]
    if dat.is_file():
        return read(dat, WHERE, sep="::", engine="python", header=None, names=names, encoding="latin-1")
    if not (folder / f"{name}.csv").is_file():
        raise UserError(f"'{folder}' has neither {name}.dat nor {name}.csv: {WHERE}")
    frame = read(folder / f"{name}.csv", WHERE)
    frame.columns = NAMES[name][: len(frame.columns)]
    return frame
