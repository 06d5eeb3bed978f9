"""The arms of a study and the networks that they are made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from polytask import files
from polytask.errors import UserError, nearest
from polytask.names import canonical, split_sampler

Role = Literal["baseline", "joint", "groups", "branched", "distilled", "merged", "reference"]
Tree = tuple[tuple[tuple[str, ...], ...], ...]

DEFAULT_ARMS = ("single", "hard+equal", "hard+uncertainty", "hard+pcgrad", "mmoe+equal", "groups", "trees")
LATER = ("groups", "branched")
"""Arms that are decided by what the others show."""
FOLLOWING = ("distil", "merge")
"""Arms that are made of networks that others have trained."""

CANDIDATES: tuple[dict[str, Any], ...] = (
    {"width": 128, "depth": 2, "dropout": 0.1, "bins": 24, "lr": 1e-3, "weight_decay": 1e-4},
    {"width": 256, "depth": 2, "dropout": 0.0, "bins": 0, "lr": 1e-3, "weight_decay": 1e-2},
    {"width": 256, "depth": 2, "dropout": 0.3, "bins": 8, "lr": 1e-3, "weight_decay": 1e-1},
    {"width": 384, "depth": 3, "dropout": 0.1, "bins": 16, "lr": 5e-4, "weight_decay": 1e-2},
)
"""What tuning tries, the same for every arm, in this order."""

TREE_CANDIDATES: tuple[dict[str, Any], ...] = (
    {"learning_rate": 0.1, "max_leaf_nodes": 31, "l2_regularization": 0.0},
    {"learning_rate": 0.05, "max_leaf_nodes": 15, "l2_regularization": 1.0},
    {"learning_rate": 0.1, "max_leaf_nodes": 7, "l2_regularization": 0.1},
    {"learning_rate": 0.05, "max_leaf_nodes": 63, "l2_regularization": 1.0},
)


@dataclass(frozen=True)
class Network:
    """One thing that is trained: a trunk, a balancer, a sampler and the tasks it serves. Arms may share networks.

    `tree`: of a branched trunk, the groups of tasks that share each hidden layer. `after`: the finished networks that
    it is made from, where it is.
    """

    trunk: str
    balancer: str
    tasks: tuple[str, ...]
    sampler: str = "all"
    tree: Tree = ()
    after: After | None = None

    @property
    def slug(self) -> str:
        """A file name that no other network has."""
        sampler = "" if self.sampler == "all" else f"{files.slug(self.sampler)}-"
        tree = f"{files.slug(repr(self.tree))[-6:]}-" if self.tree else ""
        after = f"{self.after.how}-{files.slug(repr(self.after))[-6:]}-" if self.after else ""
        return f"{self.trunk}-{self.balancer}-{sampler}{tree}{after}{files.slug(chr(31).join(self.tasks))}"

    @property
    def structure(self) -> dict[str, Any]:
        """What every candidate is built with."""
        return {"trunk": self.trunk} | ({"tree": self.tree} if self.tree else {})

    @property
    def is_trees(self) -> bool:
        """Whether this is the outside reference, which is no network at all."""
        return self.trunk == "trees"

    @property
    def candidates(self) -> tuple[dict[str, Any], ...]:
        """The settings that tuning may choose from."""
        if self.after is not None and self.after.fixed:
            return (CANDIDATES[self.after.networks[0][1]],)
        return TREE_CANDIDATES if self.is_trees else CANDIDATES


@dataclass(frozen=True)
class After:
    """Finished networks that another one is made from, each with the candidate that tuning chose for it.

    Args:
        how: a key of `following.WAYS`.
        fixed: the new network has the settings of the first of them, and is not tuned.
    """

    how: str
    networks: tuple[tuple[Network, int], ...]
    fixed: bool = False


@dataclass(frozen=True)
class Arm:
    """One way to serve all tasks: a partition of the tasks into networks.

    Args:
        why: a sentence, for an arm that nobody asked for by name.
        signal: that proposed it.
        cures: the tasks whose losses it is to cure.
    """

    name: str
    role: Role
    networks: tuple[Network, ...]
    why: str = ""
    signal: str = ""
    cures: tuple[str, ...] = ()

    @property
    def groups(self) -> list[list[str]]:
        """Which tasks share a network."""
        return [list(network.tasks) for network in self.networks]


def single_network(task: str) -> Network:
    """The baseline of one task: one task has nothing to balance."""
    return Network("hard", "equal", (task,))


def is_later(name: str) -> bool:
    """Whether the arm of that name needs what the others show, or their networks.

    >>> is_later("groups:features"), is_later("distil"), is_later("hard+equal")
    (True, True, False)
    """
    return name in (*LATER, *FOLLOWING) or name.startswith(f"{LATER[0]}:")


def joint_network(tasks: Sequence[str]) -> Network:
    """All of these tasks share everything, with equal weights: what others are measured against, and watched."""
    return Network("hard", "equal", tuple(tasks))


def make_arm(name: str, tasks: Sequence[str], trunks: Sequence[str], balancers: Sequence[str]) -> Arm:
    """The arm of that name: "single", "trees", or "<trunk>+<balancer>", and what is drawn: "+<sampler>".

    >>> make_arm("hard+pcgrad", ["a", "b"], ["hard"], ["equal", "pcgrad"]).groups
    [['a', 'b']]
    >>> make_arm("hard+equal+temperature:5", ["a", "b"], ["hard"], ["equal"]).networks[0].sampler
    'temperature:5'
    """
    if name == "single":
        return Arm(name, "baseline", tuple(single_network(task) for task in tasks))
    if name == "trees":
        return Arm(name, "reference", tuple(Network("trees", "none", (task,)) for task in tasks))
    trunk, plus, rest = name.partition("+")
    word, also, sampler = rest.partition("+")
    balancer = canonical(word)
    if not plus or trunk not in trunks or balancer not in balancers:
        known = ["single", *LATER, *FOLLOWING, "trees", *(f"{t}+{b}" for t in trunks for b in balancers)]
        raise UserError(f"unknown arm '{name}'{nearest(name, known)}")
    if also:
        split_sampler(sampler)
    network = Network(trunk, balancer, tuple(tasks), sampler or "all")
    return Arm(f"{trunk}+{balancer}{also}{sampler}", "joint", (network,))


def groups_arm(groups: Sequence[Sequence[str]], name: str = "groups", **about: Any) -> Arm:
    """Hard sharing within groups of tasks; a group of one is that task's baseline."""
    networks = [single_network(g[0]) if len(g) == 1 else joint_network(g) for g in groups]
    return Arm(name, "groups", tuple(networks), **about)


def branched_arm(tree: Sequence[Sequence[Sequence[str]]], tasks: Sequence[str], **about: Any) -> Arm:
    """One network whose tasks part ways at some hidden layer."""
    levels = tuple(tuple(tuple(group) for group in level) for level in tree)
    return Arm("branched", "branched", (Network("branched", "equal", tuple(tasks), tree=levels),), **about)
