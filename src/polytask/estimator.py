"""A multi-task network with scikit-learn manners, over the same engine as everything else."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from polytask.batch import Batch
from polytask.devices import Place
from polytask.errors import UserError
from polytask.names import make_balancer
from polytask.records import Run
from polytask.sampling import AllTasks, TensorSource
from polytask.study.rows import source
from polytask.table import Preprocessor, infer_schema, read_table
from polytask.table.predictor import TablePredictor, task_columns
from polytask.table.recipe import TableRecipe
from polytask.table.stratify import assign_rows
from polytask.table.tasks import constant_scores, make_task
from polytask.task import Task
from polytask.training import Stage, batch_size_for, fit

if TYPE_CHECKING:
    import pandas as pd

EVALUATION_BATCH = 8192


class MultiTaskEstimator:
    """One network for several targets of a table; missing labels (NaN) are normal.

    The constructor's signature is the configuration; what is learnt ends in an underscore. Works with `clone`,
    `Pipeline`, `GridSearchCV` and `cross_val_score` of scikit-learn, without needing it.

    Args:
        tasks: names of the columns of Y, a mapping to their kinds ({"buy": "binary", "dwell": None}), or Tasks whose
            names and kinds are used; None takes all columns of Y and infers their kinds.
        trunk: what is shared: "hard", "mmoe", "ple" ... (`table.recipe.TRUNKS`).
        balancer: how the tasks agree, a name of `polytask methods`.
        kinds: kinds of feature columns where inference is wrong.
        validation_fraction: share of the rows on which the best epoch is chosen.
        random_state: seed of everything random; None draws one.

    Learnt: `model_`, `tasks_`, `run_`, `preprocessor_`, `classes_` (labels of each task that has them),
    `n_features_in_`, `feature_names_in_`.

    >>> X = np.random.default_rng(0).normal(size=(200, 3))
    >>> Y = np.column_stack([X[:, 0] + X[:, 1], X[:, 0] > 0])
    >>> estimator = MultiTaskEstimator(epochs=5, random_state=0).fit(X, Y)
    >>> estimator.predict(X).shape, sorted(estimator.predict_proba(X))
    ((200, 2), ['y1'])
    """

    def __init__(
        self,
        tasks: Sequence[str | Task] | Mapping[str, str | None] | None = None,
        *,
        trunk: str = "hard",
        balancer: str = "equal",
        width: int = 128,
        depth: int = 2,
        dropout: float = 0.1,
        bins: int = 24,
        lr: float = 1e-3,
        weight_decay: float = 1e-4,
        epochs: int = 300,
        patience: int = 12,
        batch_size: int | None = None,
        kinds: Mapping[str, str] | None = None,
        validation_fraction: float = 0.2,
        device: str = "auto",
        precision: str = "auto",
        random_state: int | None = None,
    ) -> None:
        self.tasks = tasks
        self.trunk = trunk
        self.balancer = balancer
        self.width = width
        self.depth = depth
        self.dropout = dropout
        self.bins = bins
        self.lr = lr
        self.weight_decay = weight_decay
        self.epochs = epochs
        self.patience = patience
        self.batch_size = batch_size
        self.kinds = kinds
        self.validation_fraction = validation_fraction
        self.device = device
        self.precision = precision
        self.random_state = random_state

    def fit(self, X: Any, Y: Any) -> MultiTaskEstimator:
        """Train on features X (N, F) and targets Y (N, T), arrays or frames.

        Raises:
            UserError: shapes or columns that do not fit, a target that cannot be learnt.
        """
        if not 0 < self.validation_fraction < 1:
            raise UserError(f"validation_fraction must lie between 0 and 1, got {self.validation_fraction}")
        seed = int(np.random.default_rng().integers(2**31)) if self.random_state is None else self.random_state
        place = Place.find(self.device, self.precision)
        features, targets = _as_frame(X, "x"), self._targets(Y)
        train, valid, constant = self._prepare(features, targets, seed)
        names = tuple(self.tasks_)
        with torch.random.fork_rng():  # the caller's random numbers stay as they were
            torch.manual_seed(seed)
            self.model_ = self._recipe()(names)
            self.run_: Run = fit(
                self.model_,
                self.tasks_,
                AllTasks(train.to(place.device), batch_size=self.batch_size or batch_size_for(len(train)), seed=seed),
                valid,
                balancer=make_balancer(self.balancer, names, sizes=train.sizes()),
                plan=Stage(self.epochs, self.patience, self.lr, self.weight_decay),
                constant=constant,
                place=place,
            )
        self.model_.cpu()
        self.n_features_in_ = features.shape[1]
        self.feature_names_in_ = np.array(features.columns, dtype=object)
        self.classes_ = {name: np.array(t.labels) for name, t in self.tasks_.items() if t.labels is not None}
        return self

    def _recipe(self) -> TableRecipe:
        return TableRecipe(self.tasks_, self.preprocessor_.shape, self.trunk, self.width, self.depth,
                           dropout=self.dropout, bins=self.bins)  # fmt: skip

    def _targets(self, Y: Any) -> pd.DataFrame:
        """Y as a frame of the wanted targets, named as `tasks` says."""
        frame = _as_frame(Y, "y")
        if self.tasks is None:
            self._kinds: dict[str, str | None] = dict.fromkeys(frame.columns)
            return frame
        if isinstance(self.tasks, Mapping):
            self._kinds = dict(self.tasks)
        else:
            self._kinds = {t.name if isinstance(t, Task) else str(t): t.kind if isinstance(t, Task) else None
                           for t in self.tasks}  # fmt: skip
        if not _has_names(Y):
            if len(self._kinds) != frame.shape[1]:
                raise UserError(f"{len(self._kinds)} tasks need {len(self._kinds)} columns of Y, got {frame.shape[1]}")
            frame.columns = list(self._kinds)
        missing = [name for name in self._kinds if name not in frame.columns]
        if missing:
            raise UserError(f"Y has no column '{missing[0]}'; it has {', '.join(map(str, frame.columns))}")
        return frame[list(self._kinds)]

    def _prepare(
        self, features: pd.DataFrame, targets: pd.DataFrame, seed: int
    ) -> tuple[TensorSource, list[Batch], dict[str, float]]:
        """Fit the preprocessing and make the tasks; the rows to train on, to validate on, and where skill is zero."""
        import pandas as pd

        if len(features) != len(targets):
            raise UserError(f"X has {len(features)} rows and Y has {len(targets)}; they must be the same rows")
        both = set(features.columns) & set(targets.columns)
        if both:
            raise UserError(f"'{sorted(both)[0]}' is a column of X and of Y; a target cannot be a feature")
        frame = pd.concat([features.reset_index(drop=True), targets.reset_index(drop=True)], axis=1)
        schema = infer_schema(frame, self._kinds, kinds=self.kinds)
        labels = Preprocessor.fit(frame, schema).targets(frame)
        matrix = np.column_stack([labels[t.name] for t in schema.targets]).astype(np.float64)
        rows = np.flatnonzero(~np.isnan(matrix).all(1))
        share = (1 - self.validation_fraction, self.validation_fraction)
        sides = assign_rows(matrix[rows], schema.targets, share, seed)
        parts = [rows[sides == side] for side in (0, 1)]
        self.preprocessor_ = Preprocessor.fit(frame.iloc[parts[0]], schema)
        self.tasks_ = {t.name: make_task(t, labels[t.name][parts[0]]) for t in schema.targets}
        train, valid = (
            source(self.preprocessor_.inputs(frame.iloc[p]), {name: values[p] for name, values in labels.items()})
            for p in parts
        )
        known, unseen = ({n: s.targets[n].numpy() for n in self.tasks_} for s in (train, valid))
        return train, valid.batches(EVALUATION_BATCH), constant_scores(self.tasks_, known, unseen)

    def _outputs(self, X: Any) -> dict[str, torch.Tensor]:
        self._check_fitted()
        frame = _as_frame(X, "x")
        if not _has_names(X) and frame.shape[1] == self.n_features_in_:
            frame.columns = list(self.feature_names_in_)
        return TablePredictor(self.preprocessor_, self.tasks_, [], self.model_).outputs(frame)

    def predict(self, X: Any) -> np.ndarray:
        """Values, rates or labels, (N, T) in the order of `tasks_`; an object array if any task has text labels."""
        columns = [task_columns(self.tasks_[name], out)[name] for name, out in self._outputs(X).items()]
        if any(column.dtype == object for column in columns):
            numeric = all(isinstance(value, (int, float)) for t in self.tasks_.values() for value in t.labels or ())
            return np.column_stack([np.asarray(c, dtype=float if numeric else object) for c in columns])
        return np.column_stack(columns)

    def predict_proba(self, X: Any) -> dict[str, np.ndarray]:
        """Per task with classes its probabilities (N, C), in the order of `classes_[task]`."""
        found = {}
        for name, output in self._outputs(X).items():
            if self.tasks_[name].labels is not None:
                values = output.numpy()
                found[name] = np.column_stack([1 - values, values]) if values.ndim == 1 else values
        return found

    def score(self, X: Any, Y: Any) -> float:
        """Mean over tasks of the skill: 0 is the best constant prediction for these rows, 1 is perfect."""
        outputs, targets = self._outputs(X), self._targets(Y)
        labels = self.preprocessor_.targets(targets)
        constant = constant_scores(self.tasks_, labels, labels)
        skills = [
            task.score.skill(task.score(outputs[name], torch.from_numpy(labels[name])), constant[name])
            for name, task in self.tasks_.items()
        ]
        return float(np.mean(skills))

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """The configuration."""
        return {name: getattr(self, name) for name in list(inspect.signature(type(self)).parameters)}

    def set_params(self, **params: Any) -> MultiTaskEstimator:
        """Change the configuration; an unknown word raises."""
        known = self.get_params()
        for name, value in params.items():
            if name not in known:
                from polytask.errors import nearest

                raise UserError(f"MultiTaskEstimator has no parameter '{name}'{nearest(name, known)}")
            setattr(self, name, value)
        return self

    def _check_fitted(self) -> None:
        if not self.__sklearn_is_fitted__():
            raise UserError("this MultiTaskEstimator is not fitted yet: call fit(X, Y) first")

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "model_")

    def __sklearn_tags__(self) -> Any:
        from sklearn.utils import InputTags, Tags, TargetTags

        return Tags(
            estimator_type=None,
            target_tags=TargetTags(required=True, multi_output=True),
            input_tags=InputTags(allow_nan=True, string=True, categorical=True),
        )

    def __repr__(self) -> str:
        defaults = {name: p.default for name, p in inspect.signature(type(self)).parameters.items()}
        changed = {name: value for name, value in self.get_params().items() if value is not defaults[name]}
        return f"MultiTaskEstimator({', '.join(f'{name}={value!r}' for name, value in changed.items())})"


def _has_names(data: Any) -> bool:
    return hasattr(data, "columns") or hasattr(data, "column_names") or isinstance(data, Mapping)


def _as_frame(data: Any, letter: str) -> pd.DataFrame:
    """A frame of anything two-dimensional; columns of an array are called x0, x1, ... or y0, y1, ..."""
    import pandas as pd

    if isinstance(data, Mapping):
        return pd.DataFrame({str(name): np.asarray(values) for name, values in data.items()})
    if isinstance(data, pd.Series):
        return data.to_frame(str(data.name) if data.name is not None else f"{letter}0")
    if _has_names(data):
        return read_table(data)
    array = np.asarray(data)
    array = array[:, None] if array.ndim == 1 else array
    if array.ndim != 2:
        raise UserError(f"expected a table of two dimensions, got the shape {array.shape}")
    return pd.DataFrame(array, columns=[f"{letter}{i}" for i in range(array.shape[1])])
