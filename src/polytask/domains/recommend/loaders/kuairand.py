"""KuaiRand: short videos with clicks, likes and how long they were watched; some of them shown at random."""

from __future__ import annotations

from pathlib import Path

from polytask.domains.recommend.dwell import completion
from polytask.domains.recommend.features import Column, Features, Id, Ids, Number
from polytask.domains.recommend.loaders.files import Log, read
from polytask.task import Task

WHERE = "get KuaiRand-Pure (Gao et al., CIKM 2022) at kuairand.com or zenodo.org/records/10439422"
EVENTS = ("is_click", "is_like", "long_view")
LOG = ("user_id", "video_id", "hourmin", "tab", "play_time_ms", "duration_ms", *EVENTS)
USER = ("user_active_degree", "is_lowactive_period", "is_live_streamer", "is_video_author", "follow_user_num_range",
        "fans_user_num_range", "friend_user_num_range", "register_days_range")  # fmt: skip
VIDEO = ("author_id", "video_type", "upload_type", "music_id")


def kuairand(
    log: str | Path, users: str | Path | None = None, videos: str | Path | None = None, *, dimension: int = 16
) -> Log:
    """A log (`log_standard_*.csv`, `log_random_*.csv`), with the features of users and videos where given.

    Tasks: is_click, is_like, long_view, and completion (the share of the video that was watched, at most 1). Rows of
    `log_random_*` were shown at random (`is_rand`): an unbiased test of what was learnt from the others.
    """
    frame = read(log, WHERE, LOG)
    frame["hour"] = frame["hourmin"] // 100
    share = frame["play_time_ms"] / frame["duration_ms"].where(frame["duration_ms"] > 0)
    frame["completion"] = share.clip(0.0, 1.0)
    columns: list[Column] = [Id("user_id", "user", dimension), Id("video_id", "item", dimension)]
    columns += [Id("tab", dimension=4), Id("hour", dimension=4), Number("duration_ms", "item", "log")]
    if users is not None:
        frame = frame.merge(read(users, WHERE, ("user_id", *USER))[["user_id", *USER]], on="user_id", how="left")
        columns += [Id(name, "user", 4) for name in USER]
    if videos is not None:
        known = read(videos, WHERE, ("video_id", "tag", *VIDEO), dtype={"tag": "str"})[["video_id", "tag", *VIDEO]]
        frame = frame.merge(known, on="video_id", how="left")
        columns += [Id(name, "item", dimension if name == "author_id" else 4) for name in VIDEO]
        columns.append(Ids("tag", "item", 4, separator=",", length=5))
    tasks = {name: Task.binary(name) for name in EVENTS} | {"completion": completion("completion")}
    return Log(frame, Features(columns), tasks)
