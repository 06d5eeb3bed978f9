"""What a watched joint training tells about its tasks, as signals and numbers for a record."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polytask import relate
from polytask.affinity import Watched
from polytask.affinity.halves import HalfGramians
from polytask.batch import Batch
from polytask.model import MultiTaskModel
from polytask.relate.noise import noise_baseline
from polytask.sampling import AllTasks, TensorSource
from polytask.study.signals import Signal, lists
from polytask.trunks.base import Trunk

Array = NDArray[np.float64]


def gradient_draws(train: TensorSource, size: int, count: int) -> list[list[Batch]]:
    """Batches on which gradients are compared, twice as large as those of the training; not its draws.

    None where labels are so few that no draw has those of two tasks.
    """
    draws = [AllTasks(train, batch_size=2 * size, seed=10_000 + k).draw() for k in range(count)]
    return [draw for draw in draws if len(_labelled(draw)) > 1]


def _labelled(draw: Sequence[Batch]) -> set[str]:
    return {name for batch in draw for name, target in batch.targets.items() if int((~target.isnan()).sum()) > 1}


def told_by(seen: Watched, model: MultiTaskModel) -> tuple[list[Signal], dict[str, Any]]:
    """Look-ahead affinity and gradient cosines as signals; layers, noise, branches and stability for the record."""
    names = model.names
    layers, cosines = seen.by_layer()
    noises = {epoch: seen.noise(epoch) for epoch in seen.halves}
    pooled = noise_baseline(np.concatenate([found.whole() for found in seen.halves.values()]))
    stages = np.clip(stage_cosines(list(seen.halves.values()), model.trunk, names), -1, 1)
    signals = [
        Signal(
            "look-ahead",
            "By how much of itself the loss of the column falls after a step for the row alone (TAG; Fifty et al. "
            "2021), mean over the training: it has a direction, and it is noisy.",
            seen.affinity(),
        ),
        Signal(
            "gradients",
            "Cosine of the tasks' gradients over the training, with the noise of small batches taken out: 1 the same "
            "change is wanted, 0 they do not touch each other, below 0 conflict.",
            np.clip(pooled.cosine, -1, 1),
            low=np.clip(pooled.low, -1, 1),
            high=np.clip(pooled.high, -1, 1),
            p_value=noises[max(noises)].conflict_p,
        ),
    ]
    tree = relate.branch_tree(np.nan_to_num(stages), names, _threshold(stages))
    return signals, {
        "layers": {"names": list(layers), "cosines": [lists(np.clip(one, -1, 1)) for one in cosines]},
        "noise": [{"epoch": epoch, "reliability": _plain(noise.reliability),
                   "self_conflict": _plain(noise.self_conflict), "conflict_p": lists(noise.conflict_p),
                   "cosine": lists(np.clip(noise.cosine, -1, 1))} for epoch, noise in noises.items()],
        "branches": [[list(group) for group in level] for level in tree],
        "stability": _stability(seen, names),
    }  # fmt: skip


def stage_cosines(halves: Sequence[HalfGramians], trunk: Trunk, names: Sequence[str]) -> Array:
    """Cosines without noise, (L, T, T), of each hidden layer of a table's trunk, which is where tasks can part.

    Its depth 0 is the stem (embeddings), which counts with the first hidden layer, as in a branched trunk.
    """
    depth_of = {id(module): depth for depth, level in enumerate(trunk.depths()) for part in level
                for module in part.modules()}  # type: ignore[union-attr]  # fmt: skip
    depths = [depth_of.get(id(trunk.get_submodule(name.removeprefix("trunk."))), 0) for name in halves[0].layers]
    grams = np.concatenate([found.grams for found in halves])
    stages = []
    for level in range(1, max(depths) + 1) or [0]:
        places = [place for place, depth in enumerate(depths) if max(depth, 1) == level or max(depths) == 0]
        whole = np.nansum(grams[:, places], axis=1)
        whole[np.isnan(grams[:, places]).all(axis=1)] = np.nan
        stages.append(noise_baseline(whole).cosine)
    return np.stack(stages)


def _plain(values: Array) -> list[float | None]:
    return [None if np.isnan(value) else float(value) for value in values]


def _threshold(cosines: Array) -> float:
    """From what cosine sharing a layer is proposed: above the mean of all pairs, and above 0."""
    values = cosines[:, ~np.eye(cosines.shape[1], dtype=bool)]
    return max(0.0, float(np.nanmean(values))) if np.isfinite(values).any() else 0.0


def _stability(seen: Watched, names: Sequence[str]) -> dict[str, Any] | None:
    """How often the look-ahead affinity of other epochs would have given the same groups."""
    if len(seen.look_ahead) < 4 or len(names) < 3:
        return None
    block = max(1, len(seen.look_ahead) // 8)
    draws = relate.bootstrap_affinities(seen.look_ahead, 100, block=block)
    found = relate.stable_groups(draws, relate.groups_from_affinity)
    return {"probability": found.probability, "agreement": found.agreement, "together": lists(found.co_assignment)}
