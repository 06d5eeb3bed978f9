"""Transforms of a batch's rows: noise, mixup, swapped features, and whatever a library has for images and text."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor

from polytask.batch import Batch, map_tensors
from polytask.errors import UserError
from polytask.sampling.augment import row_weights


class GaussianNoise:
    """Every number plus noise of `scale` deviations of its column; categories and missing numbers stay as they are.

    Args:
        scale: share of the deviation, >= 0.
        of: the training inputs, from which the columns' deviations are taken (NaN left out).

    >>> x = torch.tensor([[0.0, 5.0], [2.0, 5.0]])
    >>> noisy = GaussianNoise(0.1, of=x)(Batch(x, {}), Generator().manual_seed(0)).inputs
    >>> bool((noisy[:, 0] != x[:, 0]).all()), noisy[:, 1].tolist()
    (True, [5.0, 5.0])
    """

    def __init__(self, scale: float, of: Any) -> None:
        if not 0 <= scale < float("inf"):
            raise UserError(f"the scale of the noise must be a finite number of at least 0, got {scale}")
        self.scale = scale
        self.deviations: list[Tensor] = []
        map_tensors(self._measure, of)

    def _measure(self, tensor: Tensor) -> Tensor:
        if tensor.is_floating_point():
            centred = tensor.double() - tensor.double().nanmean(dim=0)
            self.deviations.append(centred.square().nanmean(dim=0).sqrt().nan_to_num().to(tensor))
        return tensor

    def __call__(self, batch: Batch, generator: Generator) -> Batch:
        deviations = iter(self.deviations)

        def disturb(tensor: Tensor) -> Tensor:
            if not tensor.is_floating_point():
                return tensor
            deviation, noise = next(deviations), torch.randn(tensor.shape, generator=generator)
            return tensor + self.scale * deviation.to(tensor) * noise.to(tensor)

        return Batch(map_tensors(disturb, batch.inputs), batch.targets, batch.weights)


class Mixup:
    """Rows between pairs of rows: l a + (1 - l) b with l ~ Beta(alpha, alpha) (Zhang et al., ICLR 2018).

    Each mixed row stands in the batch twice, with the label of a and the weight l, and with the label of b and the
    weight 1 - l. So the loss is l L(a) + (1 - l) L(b), as the paper has it, for every kind of task, with class weights
    or focal loss, and where one of the two has no label. Categories cannot be mixed: each is that of a with probability
    l. A batch of one row stays as it is.

    Args:
        alpha: > 0; small values stay near one of the two (paper: .1 to .4).

    >>> batch = Batch(torch.tensor([[0.0], [1.0]]), {"y": torch.tensor([0.0, 1.0])})
    >>> mixed = Mixup(0.4)(batch, Generator().manual_seed(0))
    >>> mixed.inputs.shape, mixed.targets["y"].shape, mixed.weights["y"].sum()
    (torch.Size([4, 1]), torch.Size([4]), tensor(2.))
    """

    def __init__(self, alpha: float = 0.2) -> None:
        if not 0 < alpha < float("inf"):
            raise UserError(f"alpha of mixup must be a finite number above 0, got {alpha}")
        self.alpha = alpha

    def __call__(self, batch: Batch, generator: Generator) -> Batch:
        rows = len(next(iter(batch.targets.values())))
        if rows < 2:
            return batch
        order = torch.randperm(rows, generator=generator)
        partner = order[torch.argsort(order).add(1) % rows]  # a circle: nobody is mixed with itself
        seed = int(torch.randint(2**62, (1,), generator=generator))
        drawn = torch.from_numpy(np.random.default_rng(seed).beta(self.alpha, self.alpha, rows)).float()
        share = drawn.to(next(iter(batch.targets.values())).device)

        def mix(tensor: Tensor) -> Tensor:
            mine = share.to(tensor.device).reshape(rows, *[1] * (tensor.ndim - 1))
            if tensor.is_floating_point():
                mixed = mine.to(tensor) * tensor + (1 - mine).to(tensor) * tensor[partner]
            else:
                kept = torch.rand(tensor.shape, generator=generator).to(mine) < mine
                mixed = torch.where(kept, tensor, tensor[partner])
            return torch.cat([mixed, mixed])

        targets = {name: torch.cat([target, target[partner]]) for name, target in batch.targets.items()}
        weights = {}
        for name in targets:
            weight = row_weights(batch, name, like=share)
            weights[name] = torch.cat([share * weight, (1 - share) * weight[partner]])
        return Batch(map_tensors(mix, batch.inputs), targets, weights)


class FeatureSwap:
    """Each cell with some probability that of another row of the batch, column by column (Bahri et al., ICLR 2022).

    Numbers and categories alike keep the values that their columns have; the labels stay.

    Args:
        share: probability of a cell to be swapped, 0 to 1.

    >>> x = torch.arange(8.0).reshape(4, 2)
    >>> swapped = FeatureSwap(0.5)(Batch(x, {"y": torch.ones(4)}), Generator().manual_seed(0)).inputs
    >>> [set(swapped[:, c].tolist()) <= set(x[:, c].tolist()) for c in (0, 1)]
    [True, True]
    """

    def __init__(self, share: float = 0.1) -> None:
        if not 0 <= share <= 1:
            raise UserError(f"the share of swapped cells must lie between 0 and 1, got {share}")
        self.share = share

    def __call__(self, batch: Batch, generator: Generator) -> Batch:
        def swap(tensor: Tensor) -> Tensor:
            donors = torch.randint(max(len(tensor), 1), tensor.shape, generator=generator)
            swapped = torch.rand(tensor.shape, generator=generator) < self.share
            return torch.where(swapped.to(tensor.device), tensor.gather(0, donors.to(tensor.device)), tensor)

        return Batch(map_tensors(swap, batch.inputs), batch.targets, batch.weights)


class FromLibrary:
    """A function of the inputs that draws from Python's, NumPy's or PyTorch's own random numbers, made repeatable.

    For images and texts: `FromLibrary(v2.RandomHorizontalFlip())` of torchvision takes a batch of images as it is;
    for a function of one image or text (albumentations, nlpaug) give one that goes over the rows. The global random
    numbers are set for the call and put back afterwards. For data sets that are read item by item, transform the items
    instead (`DatasetSource(transform=)`): the workers then do it.

    >>> flip = FromLibrary(lambda images: images.flip(-1) if torch.rand(()) < 0.5 else images)
    >>> flip(Batch(torch.tensor([[1, 2]]), {}), Generator().manual_seed(0)).inputs.shape
    torch.Size([1, 2])
    """

    def __init__(self, function: Callable[[Any], Any]) -> None:
        self.function = function

    def __call__(self, batch: Batch, generator: Generator) -> Batch:
        seed = int(torch.randint(2**32, (1,), generator=generator))
        before = random.getstate(), np.random.get_state()
        try:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                np.random.seed(seed)
                random.seed(seed)
                return Batch(self.function(batch.inputs), batch.targets, batch.weights)
        finally:
            random.setstate(before[0])
            np.random.set_state(before[1])
