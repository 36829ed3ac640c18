"""Handwritten digits: a model summary, turned training images, Adam, curves, the test accuracy; then other digits.

python examples/tutorial_4.py mnist:ROOT [qmnist:ROOT] [--backbone torchvision:resnet50 --frostline layer4]
"""

import argparse

import frostline

arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
arguments.add_argument("digits", nargs="?", default="digits")
arguments.add_argument("others", nargs="?", help="other images of the same classes, as qmnist:ROOT")
arguments.add_argument("--backbone", default="efficientnet-lite0")
arguments.add_argument("--weights", default="pretrained", help="pretrained, none or a file")
arguments.add_argument("--frostline", default="blocks.5", help="the lowest stage that trains: layer4 of a ResNet")
arguments.add_argument("--image-size", type=int, default=128)
arguments.add_argument("--epochs", type=int, default=8)
arguments.add_argument("--download", action="store_true")
asked = arguments.parse_args()

summary = frostline.inspect(asked.backbone, image_size=asked.image_size, frostline=asked.frostline)
for stage in summary["stages"]:
    state = "frozen" if stage["frozen"] else "trains"
    print(f"{stage['name']:<12} {stage['output_shape']!s:<18} {stage['parameters']:>10} {state}")
print(f"{summary['trained_parameters']:,} of {summary['total_parameters']:,} parameters train")

# Grey images become RGB as the weights want it. "digits" turns and shifts them, and never mirrors them.
run = frostline.fit(
    asked.digits,
    backbone=asked.backbone,
    weights=asked.weights,
    image_size=asked.image_size,
    augment="digits",
    views=2,  # the image as it is, and one that is turned and shifted
    plan=[
        frostline.Phase("head", epochs=0),  # solved
        frostline.Phase(asked.frostline, epochs=asked.epochs, optimizer="adam", lr=0.001, batch_size=64),
    ],
    download=asked.download,
)
print(f"validation {run.metrics['valid']['accuracy']:.4f}, test {run.metrics['test']['accuracy']:.4f}")
print(f"curves, confusion and mistakes: {run.path / 'plots'}")

if asked.others:
    measured = frostline.evaluate(run, asked.others, download=asked.download)
    print(f"{asked.others}: accuracy {measured['accuracy']:.4f} of {measured['n']} images")
