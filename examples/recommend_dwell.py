"""Clicks and dwell time in one model (MMoE): what is shown first, how long it is read, and is it calibrated?

python examples/recommend_dwell.py
"""

import torch

from polytask import AllTasks, Stage, Task, fit
from polytask.domains.recommend import click_log, metrics, recommender
from polytask.domains.recommend.dwell import zero_inflated

log = click_log(20_000, users=200, items=40, click_rate=0.2, seed=0)
train, valid, test = (log.frame.iloc[rows] for rows in log.split())
features = log.features.fit(train)
tasks = {
    "click": Task.binary("click"),
    "dwell": zero_inflated("dwell", train["dwell"], needs=["click"]),  # seconds; 0 is a bounce
}
torch.manual_seed(0)
model = recommender("mmoe", features, tasks, width=32, depth=1, experts=3)
run = fit(
    model,
    tasks,
    AllTasks(features.source(train, tasks), batch_size=512),
    features.source(valid, tasks).batches(5000),
    plan=Stage(epochs=4, lr=3e-3),
)
said = {name: values.numpy() for name, values in model.predict(features.tensors(test), tasks).items()}
click, clicked = test["click"].to_numpy(), test["click"].to_numpy() == 1
print(f"best epoch {run.best}; click AUC {metrics.auc(said['click'], click):.3f},", end=" ")
print(f"best possible {log.bayes_auc('click', log.split()[2]):.3f}")
print(f"within users (GAUC) {metrics.gauc(said['click'], click, test['user']):.3f}")
print(f"of each request, NDCG at 3: {metrics.ndcg(said['click'], click, test['request'], k=3):.3f}")
print(f"predicted over observed clicks {metrics.calibration(said['click'], click):.2f}", end=" ")
print(f"(calibration error {metrics.calibration_curve(said['click'], click).error:.3f})")
dwell = test["dwell"].to_numpy()[clicked]
print(f"dwell time after a click: XAUC {metrics.xauc(said['dwell'][clicked], dwell):.3f},", end=" ")
print(f"mean {said['dwell'][clicked].mean():.0f} s predicted, {dwell.mean():.0f} s observed")
best = test.assign(value=said["click"] * said["dwell"]).sort_values("value", ascending=False)
print("most seconds to be expected:", best[["user", "item", "value"]].head(3).round(1).values.tolist())
