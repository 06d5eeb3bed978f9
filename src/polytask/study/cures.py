"""Negative transfer on the validation rows, and what is tried against it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from polytask.study.arms import Arm, Tree, branched_arm, groups_arm, make_arm
from polytask.study.validation import Gains, clearly_below_zero

LEAST = 0.5  # percent; a smaller loss is not worth another arm
MOST_CURES = 3
SOFTER = ("crossstitch", "softsharing")
MOST_SOFT = 12  # tasks; each has a network of its own there
OTHERWISE = ("uncertainty", "cagrad", "imtll")
"""Balancers that are tried, the first that is not among the arms."""


@dataclass(frozen=True)
class Harm:
    """A task that loses in every arm in which all tasks share: `arm` is where it loses least, by `percent` (< 0)."""

    task: str
    arm: str
    percent: float


def harmed(gains: Mapping[str, Gains], confidence: float) -> list[Harm]:
    """Tasks that clearly lose on the validation rows even where they lose least, those that lose most first.

    Args:
        gains: of each joint arm.

    >>> import numpy as np
    >>> loses, gains = np.array([[-4.0], [-5.0], [-4.5]]), np.array([[1.0], [2.0], [1.5]])
    >>> harmed({"hard+equal": {"a": loses, "b": gains}, "mmoe+equal": {"a": loses - 1, "b": loses}}, 0.95)
    [Harm(task='a', arm='hard+equal', percent=-4.5)]
    """
    found = []
    for task in next(iter(gains.values()), {}):
        mine = {arm: of[task] for arm, of in gains.items() if task in of}
        best = max(mine, key=lambda arm: float(mine[arm].mean()))
        percent = float(mine[best].mean())
        if percent <= -LEAST and clearly_below_zero(mine[best], confidence):
            found.append(Harm(task, best, percent))
    return sorted(found, key=lambda harm: harm.percent)


def remedies(harms: Sequence[Harm], tasks: Sequence[str], arms: Sequence[Arm], tree: Tree) -> list[Arm]:
    """Arms against these losses that are not there yet: left out, parted at some layer, weighed otherwise, softer.

    Args:
        tree: from the gradients of the layers; empty where it is not known or does not part anything.
    """
    if not harms:
        return []
    lost = tuple(harm.task for harm in harms)
    seen = "; ".join(f"{h.task} lost {-h.percent:.2g} % even in {h.arm}" for h in harms[:4])
    because = f"Cure: on the validation rows {seen}{' and others too' if len(harms) > 4 else ''}; "
    trunks = {network.trunk for arm in arms for network in arm.networks}
    balancers = {network.balancer for arm in arms for network in arm.networks if len(network.tasks) > 1}
    rest = [task for task in tasks if task not in lost]
    found: list[Arm] = []
    if len(rest) > 1:
        why = because + "here " + ("it learns" if len(lost) == 1 else "they learn") + " alone and the others together."
        found.append(groups_arm([rest, *([task] for task in lost)], "groups:apart", why=why))
    if tree:
        found.append(branched_arm(tree, tasks, why=because + "here the tasks part where the layers' gradients do."))
    other = next((word for word in OTHERWISE if word not in balancers), None)
    if other is not None:
        found.append(replace(_joint(f"hard+{other}", tasks), why=because + "here the losses are weighed otherwise."))
    if not trunks & set(SOFTER) and len(tasks) <= MOST_SOFT:
        soft = _joint(f"{SOFTER[0]}+equal", tasks)
        found.append(replace(soft, why=because + "here every task has its own layers and takes from the others'."))
    there = {frozenset(arm.networks) for arm in arms}
    new = [replace(arm, cures=lost) for arm in found if frozenset(arm.networks) not in there]
    return new[:MOST_CURES]


def _joint(name: str, tasks: Sequence[str]) -> Arm:
    trunk, _, balancer = name.partition("+")
    return make_arm(name, tasks, [trunk], [balancer])
