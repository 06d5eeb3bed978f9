"""Balancing in one's own PyTorch loop: one line changes.

python examples/own_loop.py
"""

import torch
from torch import nn

from polytask import PCGrad

torch.manual_seed(0)
inputs = torch.randn(512, 8)
depth, edge = inputs[:, :1] * 2 + inputs[:, 1:2], (inputs[:, :1] - inputs[:, 2:3] > 0).float()

trunk = nn.Sequential(nn.Linear(8, 64), nn.ReLU())
heads = nn.ModuleDict({"depth": nn.Linear(64, 1), "edge": nn.Linear(64, 1)})
optimizer = torch.optim.Adam([*trunk.parameters(), *heads.parameters()], lr=1e-2)
balancer = PCGrad()

for number in range(200):
    features = trunk(inputs)
    losses = {
        "depth": nn.functional.mse_loss(heads["depth"](features), depth),
        "edge": nn.functional.binary_cross_entropy_with_logits(heads["edge"](features), edge),
    }
    optimizer.zero_grad()
    step = balancer.backward(losses)  # was: sum(losses.values()).backward()
    optimizer.step()
    if number % 50 == 0 and step.gram is not None:
        cosine = step.gram[0, 1] / (step.gram[0, 0] * step.gram[1, 1]).sqrt()
        losses_now = [round(float(loss), 3) for loss in step.losses]
        print(f"step {number}: losses {losses_now}, gradient cosine {float(cosine):+.2f}")
