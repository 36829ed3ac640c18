"""A network that cannot be traced: taken as a whole, with two cuts, at the image and right below its head."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from frostline.errors import UsageError
from frostline.network.part import Part
from frostline.network.stages import Stage
from frostline.preprocessing import Preprocessing


@torch.no_grad()
def output_layer(model: nn.Module, size: int) -> str:
    """The Linear layer whose output is that of a network that cannot be traced."""
    made: dict[str, Tensor] = {}
    hooks = [
        module.register_forward_hook(lambda _module, _args, output, name=name: made.update({name: output}))
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear)
    ]
    like = next(model.parameters())
    try:
        result = model.eval()(torch.zeros(1, 3, size, size, device=like.device, dtype=like.dtype))
    finally:
        for hook in hooks:
            hook.remove()
    found = [name for name, output in made.items() if output is result]
    if not found:
        raise UsageError("the network cannot be traced and its output is not that of a Linear layer, so it has no head")
    return found[0]


def two_stages(model: nn.Module, head: str) -> tuple[Stage, ...]:
    top = sum(p.numel() for p in model.get_submodule(head).parameters())
    whole = sum(p.numel() for p in model.parameters())
    return Stage("stem", None, whole - top, (), ()), Stage("head", None, top, (), ())


def split_whole(model: nn.Module, head: str, preprocessing: Preprocessing) -> tuple[Part, Part]:
    """The two cuts of a network that cannot be traced: at the image (`head` = "") or right below its head."""

    def set_containers(training: bool, held: tuple[str, ...] = ()) -> None:
        asleep = tuple(f"{name}." for name in held)
        for name, module in model.named_modules():
            if any(True for _ in module.children()):  # they belong to no part; their flags follow it
                module.training = training and not f"{name}.".startswith(asleep)

    def everything(part: Part, x: Tensor) -> Tensor:
        set_containers(part.training, part.held)
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
    if head:
        lower = Part(model, [*leaves, *direct], {False: body}, preprocessing)
        upper = Part(model, [head], {False: top, True: top}, preprocessing)
    else:
        lower = Part(model, [], {False: identity}, preprocessing)
        upper = Part(model, [*leaves, *direct], {False: everything, True: everything}, preprocessing)
    lower.is_image = not head
    like = next(model.parameters())
    image = torch.zeros(1, 3, preprocessing.size, preprocessing.size, device=like.device, dtype=like.dtype)
    with torch.no_grad():
        lower.output_shape = tuple(lower.eval()(image).shape[1:])
    return lower, upper
