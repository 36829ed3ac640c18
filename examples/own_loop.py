"""A training loop of your own on stored activations: python examples/own_loop.py PHOTOS"""

import sys

import torch
from torch.utils.data import DataLoader

import frostline

data = frostline.read_data(sys.argv[1] if len(sys.argv) > 1 else "digits")
backbone = frostline.load_backbone("efficientnet-lite0")
network = backbone.network(classes=len(data.classes))
lower, upper = network.cut("blocks.6")  # frozen below, trains above

train = frostline.activations(lower, data.train, frostline.Views(count=2))
valid = frostline.activations(lower, data.valid)
optimizer = torch.optim.AdamW(frostline.parameter_groups(network, lr=1e-3, lr_decay=0.5))
for epoch in range(3):
    upper.train()
    for activations, targets in DataLoader(train, batch_size=64, shuffle=True):
        loss = torch.nn.functional.cross_entropy(upper(activations), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    upper.eval()
    with torch.no_grad():
        correct = sum(int((upper(x).argmax(1) == y).sum()) for x, y in valid.batches(128))
    print(f"epoch {epoch + 1}: validation accuracy {correct / len(valid):.4f}")
run = frostline.save_run(network, data.classes, "runs/own-loop", data=data)
print(run.path, "predicts with", f"frostline predict {run.path} IMAGES…")
