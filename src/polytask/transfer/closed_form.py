"""Linear heads computed from features without training: class means, and ridge regression that chooses lambda."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from polytask.errors import UserError
from polytask.task import Task

STRENGTHS = torch.logspace(-4, 4, 33, dtype=torch.float64)  # lambda, as a factor of the mean eigenvalue of X'X
SCALES = torch.logspace(-2, 2, 121, dtype=torch.float64)  # of a head's scores, among which calibration chooses


def prototypes(task: Task, features: Tensor, targets: Tensor) -> nn.Linear:
    """Prototypical networks (Snell et al., NeurIPS 2017): softmax over -||h - c_k||^2, c_k the mean of class k.

    It is a linear head, 2 c_k h - ||c_k||^2, because ||h||^2 is the same for all classes. A binary task has the
    difference of the two as its logit. One labelled row of each class is enough.

    Args:
        task: binary or classes.
        features: (N, d).
        targets: (N,), NaN where there is no label.

    Raises:
        UserError: another kind of task, a class without a labelled row, class weights or a focal loss.

    >>> head = prototypes(Task.binary("b"), torch.tensor([[0.0, 1.0], [0.0, 3.0]]), torch.tensor([0.0, 1.0]))
    >>> head(torch.tensor([[5.0, 2.0], [5.0, 3.0]])).tolist()
    [[0.0], [4.0]]
    """
    x, y = _labelled(task, features, targets, ("binary", "classes"), "prototypes")
    means = torch.stack([x[y == k].mean(0) for k in range(len(task.labels or ()))])
    weight, bias = 2 * means, -means.square().sum(1)
    if task.kind == "binary":
        weight, bias = weight[1:] - weight[:1], bias[1:] - bias[:1]
    return _linear(weight, bias, features)


def ridge(task: Task, features: Tensor, targets: Tensor) -> nn.Linear:
    """Ridge regression in closed form (as a head: Bertinetto et al., ICLR 2019): W = (X'X + lambda I)^-1 X'Y, centred.

    lambda is the one of 33 with the smallest squared error of leaving one row out, which needs no second fit: the
    residual is (y_i - f_i) / (1 - H_ii) with the hat matrix H. Classes are fitted as targets of +1 and -1; the scores
    are then scaled (a binary one shifted too, Platt 1999) so that the scores of the rows that were left out have the
    smallest cross-entropy against (n_k + 1) / (n_k + K) for their class.

    Args:
        task: regression, binary or classes.
        features: (N, d).
        targets: (N,), NaN where there is no label; at least two.

    Raises:
        UserError: another kind of task, too few labelled rows, a class without one, class weights or a focal loss.

    >>> x = torch.arange(6.0)[:, None]
    >>> head = ridge(Task.regression("r"), x, 2 * x[:, 0] + 1)
    >>> round(head(torch.tensor([[10.0]])).item(), 2)
    21.0
    """
    x, y = _labelled(task, features, targets, ("regression", "binary", "classes"), "ridge")
    if len(y) < 2:
        raise UserError(
            f"task '{task.name}': ridge leaves one row out, it needs at least 2 labelled rows, got {len(y)}"
        )
    if task.kind == "regression":
        wanted = (y - task.options["center"]) / task.options["scale"]
        weight, bias, _ = ridge_fit(x, wanted[:, None])
        return _linear(weight, bias, features)
    classes = torch.nn.functional.one_hot(y.long(), len(task.labels or ())).to(x)
    signs = 2 * classes - 1
    if task.kind == "binary":
        signs = signs[:, 1:]
    weight, bias, left_out = ridge_fit(x, signs)
    scale, shift = _calibration(left_out, classes)
    return _linear(scale * weight, scale * bias + shift, features)


def ridge_fit(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Weights (k, d), intercepts (k,) and predictions of each row by a fit without it (N, k), with the best lambda.

    Args:
        x: (N, d), double precision.
        y: (N, k).
    """
    center, mean = x.mean(0), y.mean(0)
    u, s, vh = torch.linalg.svd(x - center, full_matrices=False)
    turned, power = u.T @ (y - mean), s.square()
    scale = power.sum() / max(int((power > 0).sum()), 1)
    strengths = STRENGTHS.to(x.device) * (scale if scale > 0 else 1.0)
    kept = power / (power + strengths[:, None])  # (strengths, singular values)
    fitted = mean + torch.einsum("nj,lj,jk->lnk", u, kept, turned)
    hat = 1 / len(x) + torch.einsum("nj,lj->ln", u.square(), kept)
    left_out = y - (y - fitted) / (1 - hat)[..., None]
    best = int((left_out - y).square().mean((1, 2)).argmin())
    inverse = s / (power + strengths[best])
    weight = (vh.T @ (inverse[:, None] * turned)).T
    return weight, mean - weight @ center, left_out[best]


def _calibration(scores: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
    """Scale and shift of scores (N, K), or (N, 1) for two classes, with the smallest cross-entropy.

    The scale is above 0: an order of rows is never turned round.
    """
    own = (classes @ classes.sum(0))[:, None]  # rows of the same class
    wanted = torch.where(classes.bool(), own + 1, 1.0) / (own + classes.shape[1])
    scaled = SCALES.to(scores)[:, None, None] * scores  # (scales, N, K)
    shift = torch.zeros(len(SCALES)).to(scores)
    if scores.shape[1] == 1:
        positive = wanted[:, 1]
        for _ in range(60):  # Newton, for every scale at once; damped, because far out the curve is flat
            p = (scaled[..., 0] + shift[:, None]).sigmoid()
            slope, bend = (p - positive).sum(1), (p * (1 - p)).sum(1)
            shift = shift - (slope / bend.clamp_min(1e-6)).clamp(-1.0, 1.0)
        logit = scaled[..., 0] + shift[:, None]
        scaled = torch.stack([torch.zeros_like(logit), logit], dim=-1)
    best = int((-(wanted * scaled.log_softmax(-1)).sum(-1)).mean(1).argmin())
    return SCALES.to(scores)[best], shift[best]


def _labelled(
    task: Task, features: Tensor, targets: Tensor, kinds: tuple[str, ...], what: str
) -> tuple[Tensor, Tensor]:
    """Labelled rows in double precision, of a task that the head can be computed for."""
    if task.kind not in kinds:
        raise UserError(f"task '{task.name}' ({task.kind}): {what} serve {', '.join(kinds)}; train a head instead")
    if task.class_weights is not None or task.focal:
        raise UserError(f"task '{task.name}': {what} know no class weights and no focal loss; train a head instead")
    if features.ndim != 2 or targets.shape != features.shape[:1]:
        shapes = tuple(features.shape), tuple(targets.shape)
        raise UserError(
            f"task '{task.name}': {what} need features (N, d) and targets (N,), got {shapes[0]}, {shapes[1]}"
        )
    y = targets.double()
    known = ~y.isnan()
    if not known.any():
        raise UserError(f"task '{task.name}' has no labelled row")
    x, y = features.detach().double()[known], y[known]
    for place, label in enumerate(task.labels or ()):
        if not (y == place).any():
            raise UserError(f"task '{task.name}': no labelled row of class '{label}'; {what} need one of each class")
    return x, y


def _linear(weight: Tensor, bias: Tensor, like: Tensor) -> nn.Linear:
    """A head with these numbers."""
    head = nn.Linear(weight.shape[1], len(weight)).to(like)
    with torch.no_grad():
        head.weight.copy_(weight)
        head.bias.copy_(bias)
    return head
