"""A network that cannot be traced: it has only two cuts, at the image and right below its head."""

from __future__ import annotations

import functools

import torch
from torch import Tensor, nn

from frostline.errors import UsageError
from frostline.network.part import Part
from frostline.network.stages import Stage
from frostline.network.tracing import in_mode
from frostline.preprocessing import Preprocessing


@torch.no_grad()
def output_layer(model: nn.Module, preprocessing: Preprocessing) -> str:
    """The Linear layer whose output is the network's output, for a network that cannot be traced."""
    outputs: dict[str, Tensor] = {}
    hooks = [
        module.register_forward_hook(lambda _module, _args, output, name=name: outputs.update({name: output}))
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear)
    ]
    try:
        with in_mode(model, training=False):
            result = model(_image(model, preprocessing))
    finally:
        for hook in hooks:
            hook.remove()
    layers = [name for name, output in outputs.items() if output is result]
    if not layers:
        raise UsageError("the network cannot be traced, and its output is not that of a Linear layer: it has no head")
    return layers[0]


def two_stages(model: nn.Module, head: str) -> tuple[Stage, ...]:
    top = sum(p.numel() for p in model.get_submodule(head).parameters())
    whole = sum(p.numel() for p in model.parameters())
    return Stage("stem", None, whole - top, (), ()), Stage("head", None, top, (), ())


def split_whole(model: nn.Module, head: str, preprocessing: Preprocessing, frostline: str = "") -> tuple[Part, Part]:
    """The two cuts of a network that cannot be traced: at the image (`head` = "") or right below its head.

    frostline: the name of the cut.
    """

    def set_containers(training: bool, frozen: tuple[str, ...] = ()) -> None:
        inside = tuple(f"{name}." for name in frozen)
        for name, module in model.named_modules():
            if any(True for _ in module.children()):  # containers belong to no part, so their mode follows the part's
                module.training = training and not f"{name}.".startswith(inside)

    def everything(part: Part, x: Tensor) -> Tensor:
        set_containers(part.training, part.frozen_modules)
        result: Tensor = model(x)
        return result

    def body(_: Part, x: Tensor) -> Tensor:
        set_containers(False)
        caught: list[Tensor] = []
        hook = model.get_submodule(head).register_forward_pre_hook(lambda _module, args: caught.append(args[0]))
        try:
            model(x)
        finally:
            hook.remove()
        return caught[0]

    def top(_: Part, x: Tensor) -> Tensor:
        result: Tensor = model.get_submodule(head)(x)
        return result

    def identity(_: Part, x: Tensor) -> Tensor:
        return x

    leaves = [n for n, m in model.named_modules() if n and not [*m.children()] and n != head]
    direct = [n for n, _ in model.named_parameters() if n.rpartition(".")[0] not in {*leaves, head}]
    shared = [*leaves, *direct]
    frozen = functools.partial(Part, model, preprocessing, frozen=True, frostline=frostline)
    if not head:
        shape = (preprocessing.channels, preprocessing.size, preprocessing.size)
        lower = frozen(forwards={False: identity}, output_shape=shape, is_image=True)
        return lower, Part(model, preprocessing, forwards={False: everything, True: everything}, targets=shared)
    lower = frozen(forwards={False: body}, targets=shared)
    shape = tuple(lower(_image(model, preprocessing)).shape[1:])
    lower = frozen(forwards={False: body}, targets=shared, output_shape=shape)
    return lower, Part(model, preprocessing, forwards={False: top, True: top}, targets=[head])


def _image(model: nn.Module, preprocessing: Preprocessing) -> Tensor:
    """A black image in a batch of one, with the model's channels, size, device and dtype."""
    like = next(model.parameters())
    return torch.zeros(
        1, preprocessing.channels, preprocessing.size, preprocessing.size, device=like.device, dtype=like.dtype
    )
