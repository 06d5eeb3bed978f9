"""What would convert if it were clicked? Naive, ESMM and ESCM2 on a log whose true answer is known.

python examples/recommend_conversion.py
"""

import torch

from polytask import AllTasks, Stage, Task, fit
from polytask.domains.recommend import InversePropensity, click_log, metrics, recommender
from polytask.training import Objective

CONVERSION = "buy|click"  # labelled on clicked rows only
log = click_log(20_000, users=150, items=30, seed=0)
train, valid, test = (log.frame.iloc[rows] for rows in log.split())
features = log.features.fit(train)  # vocabularies and scales of the training rows
tasks = {name: Task.binary(name) for name in ("click", "buy", CONVERSION)}
arms = {
    "naive: conversions of clicked rows": (["click", CONVERSION], Objective()),
    "ESMM: click, and click x conversion": (["click", "buy"], Objective()),
    "ESCM2: and conversions by 1 / p(click)": (["click", "buy", CONVERSION], InversePropensity(floor=0.02)),
}
true = log.truth[CONVERSION][log.split()[2]]
print("one log, one seed; docs/recommend.md has intervals")
print(f"conversion rate if everything were clicked: {true.mean():.3f}, among clicks: {test[CONVERSION].mean():.3f}")
for name, (asked, objective) in arms.items():
    torch.manual_seed(0)
    model = recommender("esmm", features, {event: tasks[event] for event in ("click", "buy")}, width=32, depth=1)
    mine = {event: tasks[event] for event in asked}
    fit(
        model,
        mine,
        AllTasks(features.source(train, mine), batch_size=512),
        features.source(valid, mine).batches(5000),
        objective=objective,
        plan=Stage(epochs=6, lr=5e-3),
    )
    said = model.predict(features.tensors(test), {CONVERSION: tasks[CONVERSION]})[CONVERSION].numpy()
    print(f"{name}: predicted {said.mean():.3f} on all rows, AUC on all rows {metrics.auc(said, true):.3f}")
