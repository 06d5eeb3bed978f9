"""The rating head: a factorisation machine, and the offsets of users and items that it starts from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from polytask.domains.recommend.caml.loaders import Review


class FactorisationMachine(nn.Module):
    """w_0 + <w, x> + sum_(i<j) <v_i, v_j> x_i x_j (Rendle, ICDM 2010), in linear time.

    Args:
        features: width of x.
        factors: k, length of each v_i.

    >>> FactorisationMachine(6, factors=3)(torch.zeros(2, 6)).shape
    torch.Size([2, 1])
    """

    def __init__(self, features: int, factors: int = 10) -> None:
        super().__init__()
        self.linear = nn.Linear(features, 1)
        self.factors = nn.Parameter(torch.randn(features, factors) * 0.01)

    def forward(self, x: Tensor) -> Tensor:
        pairs = (x @ self.factors).square() - x.square() @ self.factors.square()
        return self.linear(x) + 0.5 * pairs.sum(-1, keepdim=True)


def rating_offsets(
    reviews: Sequence[Review], users: Mapping[str, int], items: Mapping[str, int], shrink: float = 10.0
) -> tuple[Tensor, Tensor]:
    """b_u (users + 1, 1) and b_i (items + 1, 1), in stars around the mean mu of these ratings; 0 for unknown ones.

    b_i = sum_u (r - mu) / (n_i + shrink), then b_u = sum_i (r - mu - b_i) / (n_u + shrink): a mean of few ratings is
    drawn to the mean of all (Koren, KDD 2008).

    >>> said = [Review("a", "x", 5.0, (), ()), Review("b", "x", 4.0, (), ()), Review("a", "y", 3.0, (), ())]
    >>> rating_offsets(said, {"a": 1, "b": 2}, {"x": 1, "y": 2}, shrink=0.0)[1].squeeze(1)
    tensor([ 0.0000,  0.5000, -1.0000])
    """
    rest = torch.tensor([review.rating for review in reviews])
    rest = rest - rest.mean()
    found = []
    for numbers, names in ((items, [one.item for one in reviews]), (users, [one.user for one in reviews])):
        of = torch.tensor([numbers[name] for name in names])
        total = torch.zeros(len(numbers) + 1).index_add(0, of, rest)
        mean = total / (of.bincount(minlength=len(numbers) + 1) + shrink).clamp(min=1e-12)
        rest = rest - mean[of]
        found.append(mean.unsqueeze(1))
    return found[1], found[0]
