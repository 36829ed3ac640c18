from __future__ import annotations

import pytest
import torch
from torch import nn

from conftest import small_model
from frostline.backbones import load_backbone
from frostline.network import tracing
from frostline.network.network import Network
from frostline.network.tracing import Cut, DoesNotRunError, NotTraceableError, trace
from frostline.preprocessing import Preprocessing

IMAGE = (3, 32, 32)


def names(model: nn.Module, shape: tuple[int, int, int] = IMAGE) -> list[str]:
    found = trace(model, shape)
    nodes = {node.name: node for node in found.evaluation.nodes}
    return [tracing.path(nodes[cut.node]) for cut in found.cuts]


class Idle(nn.Module):
    """Computes something that nobody asks for."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Conv2d(3, 8, 3), nn.Linear(8, 5)

    def forward(self, x):
        x = self.body(x)
        x.abs()
        return self.head(x.mean((2, 3)))


def test_what_is_not_needed_is_not_computed():
    lower, _ = Network(Idle(), Preprocessing(size=32, resize=32)).cut("head")
    assert [node.op for node in lower.graphs[False].nodes] == ["placeholder", "call_module", "call_method", "output"]


def test_a_chain_is_cut_between_its_layers():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(4 * 30 * 30, 5))
    assert names(model) == ["", "0", "1", "2", "3"]


def test_what_is_overwritten_in_place_is_no_cut():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(4 * 30 * 30, 5))
    assert names(model) == ["", "1", "2", "3"]


def test_what_is_overwritten_through_a_view_is_no_cut():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.ReLU(inplace=True), nn.Linear(4 * 30 * 30, 5))
    assert names(model) == ["", "2", "3"]


def test_dropout_and_identity_are_no_cuts_of_their_own():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Identity(), nn.Dropout(), nn.Flatten(), nn.Linear(4 * 30 * 30, 5))
    assert names(model) == ["", "0", "3", "4"]


def test_a_layer_used_on_both_sides_forbids_the_cuts_between():
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.shared, self.head = nn.Linear(3, 4), nn.Linear(4, 4), nn.Linear(4, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.first(x.mean((2, 3))).tanh()
            return self.head(self.shared(self.shared(x).tanh()))

    found = trace(Twice().eval(), IMAGE)
    nodes = {node.name: node.target for node in found.evaluation.nodes}
    assert [nodes[cut.node] for cut in found.cuts][-2:] == ["shared", "head"]
    assert [nodes[cut.node] for cut in found.cuts].count("shared") == 1


def test_training_flags_are_those_of_each_graph():
    class Functional(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(3, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(nn.functional.dropout(x.mean((2, 3)), 0.5, training=self.training))

    model = Functional().eval()
    found = trace(model, IMAGE)
    assert not model.training
    for graph, training in ((found.evaluation, False), (found.training, True)):
        (dropout,) = [node for node in graph.nodes if node.target is nn.functional.dropout]
        assert dropout.kwargs["training"] is training


def test_optional_arguments_are_constants():
    class Optional(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(3, 2)

        def forward(self, x: torch.Tensor, mask: torch.Tensor | None = None, scale: float = 1.0) -> torch.Tensor:
            x = x.mean((2, 3)) * scale
            return self.head(x if mask is None else x * mask)

    assert names(Optional().eval())[-1] == "head"


@pytest.mark.parametrize("branch", ["sum", "shape"])
def test_control_flow_on_the_image_is_not_traceable(branch):
    class Branching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(3, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            wide = x.sum() > 0 if branch == "sum" else range(x.shape[0])
            return self.head(x.mean((2, 3))) if wide else self.head(x.amax((2, 3)))

    with pytest.raises(NotTraceableError):
        trace(Branching().eval(), IMAGE)


def test_tracing_leaves_no_trace():
    model = small_model()
    model.block1.train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    trace(model, IMAGE)
    assert model.block1.norm1.training
    assert not model.norm.training
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize(
    ("shape", "positions"), [((64, 7, 7), 49), ((7, 7, 64), 49), ((197, 192), 197), ((512,), 1), ((3, 224, 224), 50176)]
)
def test_positions_of_maps_tokens_and_vectors(shape, positions):
    assert Cut("n", 0, ("", "", "", 0), shape).positions == positions


def test_a_map_as_output_is_followed_too():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Tanh(), nn.Conv2d(4, 5, 1)).eval()
    found = trace(model, IMAGE)
    assert found.output_shape == (5, 30, 30)
    assert [cut.shape for cut in found.cuts] == [(3, 32, 32), (4, 30, 30), (4, 30, 30), (5, 30, 30)]


def test_an_auxiliary_head_of_training_is_left_out():
    class Auxiliary(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.head, self.beside = nn.Linear(3, 4), nn.Linear(4, 2), nn.Linear(4, 7)

        def forward(self, x: torch.Tensor) -> object:
            x = self.first(x.mean((2, 3))).tanh()
            return (self.head(x), self.beside(x)) if self.training else self.head(x)

    used = [node.target for node in trace(Auxiliary().eval(), IMAGE).training.nodes]
    assert "head" in used
    assert "beside" not in used


def test_what_is_neither_logits_nor_a_map_is_not_followed():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(2))
    with pytest.raises(NotTraceableError, match="neither one row of logits per image nor a map"):
        trace(model.eval(), IMAGE)


def test_bottlenecks_are_computed_once_for_each_graph(monkeypatch):
    graphs = []
    bottlenecks = tracing._bottlenecks
    monkeypatch.setattr(tracing, "_bottlenecks", lambda graph: graphs.append(graph) or bottlenecks(graph))
    trace(small_model(), IMAGE)
    assert len(graphs) == 2


def test_an_error_of_the_network_is_told_as_that():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(7, 5))
    with pytest.raises(DoesNotRunError, match="mat1 and mat2 shapes cannot be multiplied"):
        trace(model.eval(), IMAGE)


def test_an_error_of_tracing_keeps_its_own_text(monkeypatch):
    def fail(*_: object) -> None:
        raise KeyError("a mistake of ours")

    monkeypatch.setattr(tracing, "parameter_spans", fail)
    with pytest.raises(KeyError, match="a mistake of ours"):
        Network(small_model(), Preprocessing(size=32, resize=32))


class Branching(nn.Module):
    """A block whose Python cannot be followed."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(8, 8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(x) if x.sum() > 0 else branch(x)


def branch(x: torch.Tensor) -> torch.Tensor:
    return x if x.sum() > 0 else -x


class Calling(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return branch(x)


@pytest.mark.parametrize(("block", "leaf"), [(Branching, Branching), (Calling, branch)])
def test_what_cannot_be_followed_can_be_named_as_one_step(block, leaf):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 8), block())
    model = nn.Sequential(*model, nn.Linear(8, 8), nn.Linear(8, 2)).eval()
    preprocessing = Preprocessing(size=32, resize=32)
    assert Network(model, preprocessing).untraceable
    network = load_backbone(model, preprocessing=preprocessing, leaves=[leaf]).network(3)
    assert not network.untraceable
    lower, upper = network.cut("5")
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(upper(lower(x)), network.model(x))
    assert lower.fingerprint() == network.cut("5")[0].fingerprint()
