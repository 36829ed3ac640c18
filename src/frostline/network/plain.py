"""The plain network inside one that a loop trained: not compiled, and in float32, in which everything predicts."""

from __future__ import annotations

import copy

import torch
from torch import nn

INSIDE = "_orig_mod"  # where torch.compile keeps the module that it compiles; the names of its weights begin with it


def uncompiled(model: nn.Module) -> nn.Module:
    """The module inside a compiled one; any other module unchanged. They share their weights."""
    return model.get_submodule(INSIDE) if is_compiled(model) else model


def is_compiled(model: nn.Module) -> bool:
    return INSIDE in model._modules


def other_types(model: nn.Module) -> set[torch.dtype]:
    """The types of a model's floating-point weights, other than float32."""
    types = {tensor.dtype for tensor in model.state_dict().values() if tensor.is_floating_point()}
    return types - {torch.float32}


def plain_copy(model: nn.Module) -> nn.Module:
    """A copy of a model in float32, in which no module is compiled."""
    plain = copy.deepcopy(uncompiled(model)).float()
    for path, module in list(plain.named_modules()):
        if is_compiled(module):
            plain.set_submodule(path.replace(f".{INSIDE}", ""), uncompiled(module))
    return plain
