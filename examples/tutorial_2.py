"""ResNet-18: freeze by name, a new head for ten classes, training on tensors; then segmentation.

python examples/tutorial_2.py
"""

import argparse
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from PIL import Image
from torch.utils.data import TensorDataset

import frostline

arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
arguments.add_argument("--weights", default="pretrained", help="pretrained, none or a file")
arguments.add_argument("--image-size", type=int, default=64)
arguments.add_argument("--epochs", type=int, default=3)
asked = arguments.parse_args()
resnet = {"backbone": "torchvision:resnet18", "weights": asked.weights, "image_size": asked.image_size}

# Random tensors: values 0 … 1, because the backbone's own normalisation follows.
torch.manual_seed(0)
tensors = TensorDataset(torch.rand(100, 3, 64, 64), torch.arange(100) % 10)
run = frostline.fit(tensors, plan="probe", **resnet)
print(f"ten classes of noise: {run.metrics['valid']['accuracy']:.2f}")

# Freezing by stage, module path or glob: layer3 and above train, but for the first block of layer4.
some = frostline.Phase("layer3", epochs=asked.epochs, freeze=("layer4.0*",))
run = frostline.fit(tensors, plan=[some], **resnet)
weights = frostline.load(run).model.state_dict()
start = frostline.load_backbone("torchvision:resnet18", asked.weights, image_size=asked.image_size).model.state_dict()
changed = [name for name in start if name in weights and not torch.equal(start[name], weights[name])]
print("trained:", ", ".join(sorted({".".join(name.split(".")[:2]) for name in changed})))

# Segmentation: a convolution in place of the last layer. Images and masks lie in folders of the same names.
chance = np.random.default_rng(0)
with TemporaryDirectory() as folder:
    for name in ("images", "masks"):
        Path(folder, name).mkdir()
    for i in range(60):
        picture, mask = chance.integers(0, 90, (64, 64, 3), dtype=np.uint8), np.zeros((64, 64), np.uint8)
        top, left = chance.integers(0, 32, 2)
        picture[top : top + 32, left : left + 32, 0] += 150
        mask[top : top + 32, left : left + 32] = 1
        Image.fromarray(picture).save(Path(folder, "images", f"{i:02}.png"))
        Image.fromarray(mask).save(Path(folder, "masks", f"{i:02}.png"))
    run = frostline.fit(folder, plan="probe", **resnet)
    print(f"segmentation: mean IoU {run.metrics['valid']['mean_iou']:.2f}")
    (answer,) = frostline.predict(run, [Path(folder, "images", "00.png")])
    print(f"mask {answer.mask.shape}, {answer.mask.mean():.0%} foreground")
