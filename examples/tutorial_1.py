"""ResNet-50 with a new head: freeze all, train the head, then layer4 too. Incremental fine-tuning with SGD.

python examples/tutorial_1.py PHOTOS        a folder of class folders
"""

import argparse

import torch
from torch.utils.data import DataLoader

import frostline

arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
arguments.add_argument("photos")
arguments.add_argument("--weights", default="pretrained", help="pretrained, none or a file")
arguments.add_argument("--image-size", type=int)
arguments.add_argument("--epochs", type=int, default=5)
asked = arguments.parse_args()

# In one call. lr_decay=1: the same learning rate everywhere, as the tutorial has it.
sgd = {"optimizer": "sgd", "momentum": 0.9, "lr": 0.001, "lr_decay": 1.0, "schedule": "constant"}
run = frostline.fit(
    asked.photos,
    backbone="torchvision:resnet50",
    weights=asked.weights,
    image_size=asked.image_size,
    plan=[
        frostline.Phase("head", epochs=asked.epochs, **sgd),
        frostline.Phase("layer4", epochs=asked.epochs, **sgd),
    ],
)
for phase in run.metrics["phases"]:
    print(f"{phase['frostline']}: validation accuracy {phase['valid']['accuracy']:.4f}, {phase['seconds']:.1f} s")

# The same in a loop of your own: what is frozen below layer4 is computed once, not in every epoch.
data = frostline.read_data(asked.photos)
backbone = frostline.load_backbone("torchvision:resnet50", asked.weights, image_size=asked.image_size)
network = backbone.network(classes=len(data.classes))
for frostline_at in ("head", "layer4"):
    lower, upper = network.cut(frostline_at)
    train, valid = frostline.activations(lower, data.train), frostline.activations(lower, data.valid)
    optimizer = torch.optim.SGD(frostline.parameter_groups(network, lr=0.001), lr=0.001, momentum=0.9)
    for _ in range(asked.epochs):
        upper.train()
        for activations, targets in DataLoader(train, batch_size=32, shuffle=True, drop_last=True):
            loss = torch.nn.functional.cross_entropy(upper(activations), targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    upper.eval()
    with torch.inference_mode():
        correct = sum(int((upper(x).argmax(1) == y).sum()) for x, y in valid.batches(32))
    print(f"own loop, above {frostline_at}: {correct / len(valid):.4f}")
