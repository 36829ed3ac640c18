"""VGG16 and ResNet-50 on CIFAR-10: the same steps for both, compared by loss and accuracy.

python examples/tutorial_5.py cifar10:ROOT
"""

import argparse

import frostline

arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
arguments.add_argument("images", nargs="?", default="cifar10")
arguments.add_argument("--backbone", action="append", help="NAME or NAME@WEIGHTS; several times")
arguments.add_argument("--plan", default="probe")
arguments.add_argument("--image-size", type=int)
arguments.add_argument("--download", action="store_true")
asked = arguments.parse_args()

rows = frostline.compare(
    asked.images,
    backbone=asked.backbone or ["torchvision:vgg16", "torchvision:resnet50"],
    plan=[asked.plan],
    image_size=asked.image_size,
    download=asked.download,
)
for row in rows:
    if "error" in row:  # its weights are not here, perhaps; the others went on
        print(f"{row['name']:<24} {row['error']}")
        continue
    low, high = row["interval"]
    print(f"{row['name']:<24} accuracy {row['accuracy']:.4f} ({low:.4f} … {high:.4f}), loss {row['loss']:.4f}")
    print(f"{'':<24} {row['parameters']:,} parameters, {row['seconds']:.1f} s, {row['run']}")
