"""Python code that uses a classifier without Frostline: it builds the network, prepares an image and predicts.

The code is text for people to copy; Frostline never runs it.
"""

from __future__ import annotations

from torch import nn

from frostline.classifier.description import Description
from frostline.network.network import Network
from frostline.preprocessing import Preprocessing
from frostline.tasks.multilabel import THRESHOLD

TOLD = ("aux_logits", "transform_input")  # arguments of torchvision's Inception and GoogLeNet, and their attributes


def building(backbone: str, network: Network, classes: int, task: str) -> str:
    """Python code that builds `model`, the bare network with the head that fits the weights of a classifier.

    backbone: as in `Description`. "" for segmentation, whose network ends inside the backbone: only Frostline can
    build it.
    """
    if task == "segmentation":
        return ""
    source, _, name = backbone.rpartition(":")
    heads = [line for path in network.pooled or network.heads if (line := _replaced(network.model, path))]
    if source == "bundled" and not network.pooled:
        return f'import timm\n\nmodel = timm.create_model("{of_timm(name)}", num_classes={classes})'
    if source == "torchvision":
        how = {key: getattr(network.model, key) for key in TOLD if hasattr(network.model, key)}
        told = "".join(f", {key}={value}" for key, value in how.items())
        lines = ["import torchvision\n", f'model = torchvision.models.get_model("{name}"{told})']
    elif source:
        lines = ["import timm\n", f'model = timm.create_model("{of_timm(name) if source == "bundled" else name}")']
        if source == "timm":
            lines += _as_timm_changed_it(network)
    else:
        lines = [
            f"from my_code import {name}  # your own class\n",
            f"model = {name}()  # with the arguments of the fit",
        ]
    return "\n".join([*lines, *heads])


def of_timm(bundled: str) -> str:
    """timm's name of a bundled network; `efficientnet_lite0` without `tf_` has another padding."""
    return f"tf_{bundled.replace('-', '_')}"


def _as_timm_changed_it(network: Network) -> list[str]:
    """The changes to a model of timm before its head was replaced."""
    size, lines = network.preprocessing.size, []
    if getattr(network.model, "pretrained_cfg", {}).get("num_classes") == 0:
        lines.append("model.reset_classifier(2)")
    if callable(getattr(network.model, "set_input_size", None)):
        lines.append(f"model.set_input_size(({size}, {size}))")
    return lines


def _replaced(model: nn.Module, path: str) -> str:
    """The line that replaces a head like Frostline does; "" for a layer of another kind."""
    layer = model.get_submodule(path)
    if type(layer) not in (nn.Linear, nn.Conv2d, nn.Sequential):
        return ""
    layers = ", ".join(f"torch.nn.{each!r}" for each in (layer if isinstance(layer, nn.Sequential) else [layer]))
    made = f"torch.nn.Sequential({layers})" if isinstance(layer, nn.Sequential) else layers
    parts = path.split(".")
    if not all(part.isidentifier() or part.isdecimal() for part in parts):
        return f'model.set_submodule("{path}", {made})'
    return "model" + "".join(f"[{part}]" if part.isdecimal() else f".{part}" for part in parts) + f" = {made}"


def script(description: Description) -> str:
    """Python code that predicts new.jpg without Frostline, to be run in the folder of `model.safetensors`.

    "" if only Frostline can build the network.
    """
    if not description.code:
        return ""
    source, _, build = description.code.partition("\n\n")
    several, how = description.task == "multilabel", description.preprocessing
    by = "" if description.temperature == 1 else f" / {description.temperature!r}  # the temperature"
    return f"""import json

import numpy as np
{source}
import torch
from PIL import Image, ImageOps
from safetensors.torch import load_file

{build}
model.load_state_dict(load_file("model.safetensors"))
model.eval()

{_opening(how)}
{_resizing(how)}
{_normalising(how)}

with torch.inference_mode():
    logits = model(pixels[None]){by}
probabilities = {"torch.sigmoid(logits)" if several else "torch.softmax(logits, 1)"}[0].tolist()
with open("model.json", encoding="utf-8") as file:
    classes = json.load(file)["classes"]
print(dict(zip(classes, probabilities)))""" + (f"  # the image has all labels from {THRESHOLD} on" if several else "")


def _opening(how: Preprocessing) -> str:
    """The decoded image and, where they count, the sides of the whole one: those of a smaller one are rounded."""
    sides = turned = ""
    if how.crop == "center":
        sides = "sides = image.size\n"
        turned = "sides = sides if upright.size == image.size else sides[::-1]\n"
    return f"""image = Image.open("new.jpg")
{sides}image.draft(None, ({2 * how.resize}, {2 * how.resize}))  # a large JPEG is decoded at 1/2, 1/4 or 1/8
upright = ImageOps.exif_transpose(image)
{turned}image = upright.convert("RGB")"""


def _resizing(how: Preprocessing) -> str:
    """The part of an image that the network sees, in its size, as in `Preprocessing.box`."""
    if how.crop == "squash":
        resized = f"wide, high = {how.resize}, {how.resize}"
    else:
        resized = f"wide, high = (int(side * {how.resize} / min(sides)) for side in sides)"
    return f"""width, height = image.size  # what follows is Resize({how.resize}) and CenterCrop({how.size}) in one step
{resized}
smooth = Image.Resampling.{how.interpolation.upper()}
""" + (_padded(how.size) if how.resize < how.size else _cropped(how.size))


def _cropped(size: int) -> str:
    return f"""left, top = round((wide - {size}) / 2), round((high - {size}) / 2)
right, bottom = left + {size}, top + {size}
box = (left * width / wide, top * height / high, right * width / wide, bottom * height / high)
image = image.resize(({size}, height), smooth, (box[0], 0, box[2], height))  # first the rows, then the columns
image = image.resize(({size}, {size}), smooth, (0, box[1], {size}, box[3]))"""


def _padded(size: int) -> str:
    """For a crop that is larger than the resized image: what is beyond it is black, as in torchvision."""
    return f"""

def part(side, resized):  # begin and end of what is seen of a side, how many pixels it becomes, and black ones before
    if resized < {size}:
        return 0, side, resized, ({size} - resized) // 2
    start = round((resized - {size}) / 2)
    return start * side / resized, (start + {size}) * side / resized, {size}, 0


left, right, columns, x = part(width, wide)
top, bottom, rows, y = part(height, high)
image = image.resize((columns, height), smooth, (left, 0, right, height))  # first the rows, then the columns
image = image.resize((columns, rows), smooth, (0, top, columns, bottom))
black = Image.new("RGB", ({size}, {size}))
black.paste(image, (x, y))
image = black"""


def _normalising(how: Preprocessing) -> str:
    if how.channels == 1:
        grey = 'torch.from_numpy(np.array(image.convert("L")))[None] / 255'
        return f"pixels = ({grey} - {how.mean[0]}) / {how.std[0]}"
    return f"""mean, std = torch.tensor({how.mean}), torch.tensor({how.std})
pixels = ((torch.from_numpy(np.array(image)) / 255 - mean) / std).permute(2, 0, 1)"""
