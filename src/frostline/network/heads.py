"""The final layers of a network, and new ones in their place."""

from __future__ import annotations

from torch import nn

from frostline.errors import UsageError
from frostline.network.tracing import Trace


def pooled_head(shape: tuple[int, ...], classes: int) -> nn.Module:
    """A linear layer on the maximum over the positions of a (flattened) map (C, H, W), or on a vector (D,).

    The maximum tells whether a feature is anywhere in the image, which is easier to learn from a small data set.
    """
    if len(shape) == 1:
        return nn.Linear(shape[0], classes)
    return nn.Sequential(
        nn.Flatten(), nn.Unflatten(1, shape), nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(shape[0], classes)
    )


def new_head(old: nn.Module, classes: int) -> nn.Module:
    """A freshly initialised layer with the old one's input and `classes` outputs."""
    like = next(old.parameters())
    if isinstance(old, nn.Linear):
        new: nn.Module = nn.Linear(old.in_features, classes)
    elif isinstance(old, nn.Conv2d) and old.groups == 1:
        stride, padding = tuple(old.stride), old.padding if isinstance(old.padding, str) else tuple(old.padding)
        new = nn.Conv2d(old.in_channels, classes, tuple(old.kernel_size), stride, padding)  # type: ignore[arg-type]
    else:
        raise UsageError(
            f"the network's last layer is a {type(old).__name__}; a head can only replace a Linear or Conv2d"
        )
    return new.to(like.device, like.dtype)


def final_layers(model: nn.Module, trace: Trace) -> tuple[str, ...]:
    """The last layers with parameters: no other such layer lies between them and the output."""
    layers: dict[str, None] = {}
    output = next(node for node in trace.evaluation.nodes if node.op == "output")
    queue, seen = list(output.all_input_nodes), set()
    while queue:
        node = queue.pop(0)
        if node in seen:
            continue
        seen.add(node)
        target = str(node.target)
        if node.op == "call_module" and any(True for _ in model.get_submodule(target).parameters()):
            layers[target] = None
        elif node.op == "get_attr":
            raise UsageError(f"no final layer to replace: the network's output depends directly on {target!r}")
        else:
            queue.extend(node.all_input_nodes)
    if not layers:
        raise UsageError("no final layer to replace: the network's output comes from no layer with parameters")
    return tuple(layers)
