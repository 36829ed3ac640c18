"""A network for segmentation: a convolution and upsampling replace the pooling and the head."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch import fx, nn
from torch.nn import functional

from frostline.errors import UsageError
from frostline.network import tracing
from frostline.network.network import Network
from frostline.network.part import Part
from frostline.network.stages import Stage
from frostline.network.tracing import Cut, Leaf, Trace
from frostline.preprocessing import Preprocessing

HEAD = "segmentation"
WIDTH = 128
COARSEST = 16  # most input pixels per position of the map; the last map of a classifier is coarser


def dense_network(model: nn.Module, preprocessing: Preprocessing, classes: int, leaves: Sequence[Leaf] = ()) -> Network:
    """The lower end of a network with a convolutional head: images (B, 3, S, S) to logits (B, classes, S, S).

    The head takes the input of the last stage that has a position per 16 pixels, else the last map.
    It sees the whole image, whatever its shape: nothing is cropped.
    Raises UsageError for a network without feature maps, such as a plain vision transformer.
    """
    whole = replace(preprocessing, crop="squash", resize=preprocessing.size)
    network = Network(model, whole, leaves=leaves)
    stage = _stage_above_map(network)
    if network.trace is None or stage is None or stage.start is None:
        raise UsageError("the network has no feature map to segment from; use a convolutional backbone")
    like = next(model.parameters())
    head = _map_head(stage.start.shape[2 if _is_channels_last(stage.start) else 0], classes).to(like.device, like.dtype)
    model.add_module(HEAD, head)
    trace = _with_head(network.trace, stage.start, head, (classes, whole.size, whole.size))
    dense = Part(model, whole, graphs={False: trace.evaluation, True: trace.training}).eval()
    layers = tuple(f"{HEAD}.{name}" for name, layer in head.named_children() if any(True for _ in layer.parameters()))
    return Network(dense, whole, (trace, layers))


def _stage_above_map(network: Network) -> Stage | None:
    maps = [stage for stage in network.stages[1:] if len(stage.input_shape) == 3]
    fine = [stage for stage in maps if stage.input_shape[1] * COARSEST >= network.preprocessing.size]
    return fine[-1] if fine else maps[-1] if maps else None


def _is_channels_last(cut: Cut) -> bool:
    """Whether the map is (H, W, C), as in Swin."""
    first, second, third = cut.shape
    return first == second != third


def _map_head(channels: int, classes: int) -> nn.Sequential:
    """A 3 × 3 and a 1 × 1 convolution, with group norm between them because it keeps no statistics."""
    return nn.Sequential(
        nn.Conv2d(channels, WIDTH, 3, padding=1, bias=False),
        nn.GroupNorm(16, WIDTH),
        nn.ReLU(),
        nn.Conv2d(WIDTH, classes, 1),
    )


def _with_head(trace: Trace, cut: Cut, head: nn.Module, shape: tuple[int, ...]) -> Trace:
    """The trace of a network up to a cut, followed by the head and upsampling."""
    evaluation, training = (_ended(graph, cut, head, shape[1:]) for graph in (trace.evaluation, trace.training))
    position = {node: i for i, node in enumerate(evaluation.nodes)}
    below = [other for other in trace.cuts if other.position <= cut.position]
    cuts = tuple(replace(other, position=position[tracing.node_at(evaluation, other)]) for other in below)
    return Trace(evaluation, training, cuts, shape)


def _ended(graph: fx.Graph, cut: Cut, head: nn.Module, size: tuple[int, ...]) -> fx.Graph:
    body = tracing.below(graph, [tracing.node_at(graph, cut)])
    output = next(node for node in body.nodes if node.op == "output")
    value = output.args[0]
    with body.inserting_before(output):
        if _is_channels_last(cut):
            value = body.call_method("permute", (value, 0, 3, 1, 2))
        for name in dict(head.named_children()):
            value = body.call_module(f"{HEAD}.{name}", (value,))
            value.meta["nn_module_stack"] = {f"{HEAD}.{name}": None}
        value = body.call_function(
            functional.interpolate, (value,), {"size": size, "mode": "bilinear", "align_corners": False}
        )
    output.args = (value,)
    return body
