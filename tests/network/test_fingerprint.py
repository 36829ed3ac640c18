"""Law 4, the network's share: what can compute something else has another digest, or none."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import enum
import functools
import logging
import os
import random
import re
import subprocess
import sys
import threading
import warnings
from collections import OrderedDict, deque, namedtuple
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import timm.layers
import torch
import torchvision.ops
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional
from torch.nn.utils import parametrizations, parametrize

from conftest import SIZE, draw_images, small_model
from frostline.network import fingerprint
from frostline.network.fingerprint import IGNORED, NotCoveredError, digest, unchanged
from frostline.network.network import Network
from frostline.preprocessing import Preprocessing
from frostline.store.activations import computed_once
from frostline.store.shards import Cache

HOW = Preprocessing(size=SIZE, resize=36)
TESTS = Path(__file__).parents[1]
Settings = namedtuple("Settings", "scale")

ARGUMENTS = [(), (8,), (8, 8), (8, 8, 3), (3,), (2,), (8, 2), (1, 8), (8, 16, 3), (0.5,)]


def layers() -> Iterator[tuple[str, nn.Module]]:
    """One of each kind of layer that one of the lists of arguments builds."""
    for library in (nn, torchvision.ops, timm.layers):
        for name, kind in sorted(vars(library).items()):
            if isinstance(kind, type) and issubclass(kind, nn.Module) and "Lazy" not in name and kind is not nn.Module:
                for arguments in ARGUMENTS:
                    layer = built(kind, arguments)
                    if layer is not None:
                        yield f"{library.__name__}.{name}", layer
                        break


def built(kind: type[nn.Module], arguments: tuple[float, ...]) -> nn.Module | None:
    """The layer, or None where it wants other arguments."""
    with warnings.catch_warnings(), contextlib.suppress(Exception):
        warnings.simplefilter("ignore")
        return kind(*arguments)
    return None


LAYERS = dict(layers())


def another(value: object) -> object:
    """A value of the same type where there is one."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, (int, float)):
        return value + 1
    if isinstance(value, str):
        return f"{value}x"
    if isinstance(value, (tuple, list)):
        return value + type(value)([1])
    return {**value, "more": 1} if type(value) is dict else "another"


def test_nearly_all_layers_are_tried():
    counts = {library: sum(name.startswith(library) for name in LAYERS) for library in ("torch", "torchvision", "timm")}
    assert counts["torch"] > 130
    assert counts["timm"] > 100
    assert sum(len(vars(layer).keys() - IGNORED) for layer in LAYERS.values()) > 800


@pytest.mark.filterwarnings("ignore:.*deprecated:FutureWarning")
@pytest.mark.parametrize("name", LAYERS)
def test_every_attribute_of_every_layer_is_covered(name):
    layer = LAYERS[name]
    before = digest(layer)
    assert digest(copy.deepcopy(layer)) == before
    for attribute, value in list(vars(layer).items()):
        if attribute not in IGNORED:
            vars(layer)[attribute] = another(value)
            try:
                assert digest(layer) != before, attribute
            except NotCoveredError:
                pass
            finally:
                vars(layer)[attribute] = value
    assert digest(layer) == before


class Around(nn.Module):
    """Patches as tokens (B, 64, 16), a layer on them, and a head."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.patches, self.layer, self.head = nn.Conv2d(3, 16, 4, 4), layer, nn.Linear(16, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.layer(self.patches(x).flatten(2).transpose(1, 2)).mean(1))


class Attending(nn.Module):
    def __init__(self, heads: int) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(16, heads, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.attention(x, x, x, need_weights=False)[0]


class Scaled(nn.Linear):
    def __init__(self, scale: float) -> None:
        super().__init__(16, 16)
        self.scale = scale

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.scale * super().forward(x)


def named_alike(double: bool) -> nn.Module:
    class Alike(nn.Linear):
        if double:

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                return 2 * super().forward(x)

        else:

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                return 3 * super().forward(x)

    return Alike(16, 16)


def hooked(hook: Callable[..., torch.Tensor] | None) -> nn.Module:
    layer = nn.Linear(16, 16)
    if hook is not None:
        layer.register_forward_hook(hook)
    return layer


def encoder(**options: object) -> nn.Module:
    return nn.TransformerEncoderLayer(16, **{"nhead": 2, "dim_feedforward": 16, "batch_first": True, **options})


PAIRS = {
    "norm_first": (encoder, lambda: encoder(norm_first=True)),
    "heads": (encoder, lambda: encoder(nhead=4)),
    "activation": (encoder, lambda: encoder(activation="gelu")),
    "heads of attention": (lambda: Attending(2), lambda: Attending(4)),
    "own number": (lambda: Scaled(1.0), lambda: Scaled(2.0)),
    "own code": (lambda: named_alike(True), lambda: named_alike(False)),
    "hook": (lambda: hooked(None), lambda: hooked(lambda _layer, _inputs, output: 2 * output)),
    "count_include_pad": (lambda: nn.AvgPool1d(3, 1, 1), lambda: nn.AvgPool1d(3, 1, 1, count_include_pad=False)),
    "slope": (nn.LeakyReLU, lambda: nn.LeakyReLU(0.5)),
    "approximate": (nn.GELU, lambda: nn.GELU("tanh")),
    "eps": (lambda: nn.LayerNorm(16), lambda: nn.LayerNorm(16, 0.5)),
}


@pytest.mark.parametrize("stored", [True, False])
@pytest.mark.parametrize("name", PAIRS)
def test_no_network_gets_the_rows_of_another(name, stored, tmp_path, fp32):
    cache, rows, right = Cache(tmp_path) if stored else None, [], []
    for build in PAIRS[name]:
        torch.manual_seed(0)
        lower, _ = Network(Around(build()).eval(), HOW).cut("head")
        inputs = computed_once(lower, draw_images(4), machine=fp32, cache=cache)
        assert inputs.filled.found == 0
        rows.append(inputs.fetch(torch.arange(4)))
        alone = computed_once(lower, draw_images(4), machine=fp32, keep=False)
        right.append(alone.fetch(torch.arange(4)))
    assert not torch.allclose(rows[0], rows[1], rtol=1e-4, atol=1e-4) or name == "approximate"
    torch.testing.assert_close(rows, right, rtol=1e-4, atol=1e-4)


plain = (
    st.none() | st.booleans() | st.integers(-3, 3) | st.sampled_from([0.0, -0.0, 1.0, 0.5]) | st.text("ab", max_size=2)
)
keys = st.integers(-2, 2) | st.text("ab", max_size=1)
nested = st.recursive(
    plain | st.binary(max_size=1) | st.frozensets(keys, max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.tuples(inner, inner)
        | st.dictionaries(keys, inner, max_size=3)
        | st.builds(Settings, inner)
    ),
    max_leaves=6,
)


def spelled(value: object) -> str:
    """A value and its types as text; equal for values that are the same."""
    kind = type(value).__name__
    if isinstance(value, frozenset):
        return f"{kind}({sorted(map(spelled, value))})"
    if isinstance(value, (list, tuple)):
        return f"{kind}({[spelled(item) for item in value]})"
    if isinstance(value, dict):
        return f"{kind}({[(spelled(key), spelled(item)) for key, item in value.items()]})"
    return f"{kind} {value!r}"


@settings(max_examples=400, deadline=None)
@given(nested, nested)
def test_values_have_one_digest_exactly_if_they_are_the_same(one, other):
    assert (digest(one) == digest(other)) == (spelled(one) == spelled(other))
    assert digest(one) == digest(copy.deepcopy(one))


class Colour(enum.Enum):
    RED, BLUE = 1, 2


@dataclasses.dataclass
class Options:
    scale: float = 1.0
    inner: object = None


class Slots:
    __slots__ = ("scale",)

    def __init__(self, scale: float) -> None:
        self.scale = scale


def doubled(x: float) -> float:
    return FACTOR * x


def offset(x: float, by: float = 1.0) -> float:
    return helper(x) + by


def helper(x: float) -> float:
    return x


def adding(by: float) -> Callable[[float], float]:
    return lambda x: x + by


FACTOR = 2.0

DIFFERENT = {
    "number and flag": (1, True),
    "number and text": (1, "1"),
    "list and tuple": ([1], (1,)),
    "order": ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
    "flat and nested": ([1, [2]], [[1], 2]),
    "enum": (Colour.RED, Colour.BLUE),
    "dataclass": (Options(1.0), Options(2.0)),
    "slots": (Slots(1.0), Slots(2.0)),
    "nested object": (Options(inner=[Slots(1.0)]), Options(inner=[Slots(2.0)])),
    "dtype": (torch.float32, torch.bfloat16),
    "size": (torch.Size([1, 2]), (1, 2)),
    "tensor": (torch.zeros(3), torch.ones(3)),
    "type of tensor": (torch.zeros(3), torch.zeros(3, dtype=torch.float64)),
    "shape of tensor": (torch.zeros(3), torch.zeros(3, 1)),
    "array": (np.zeros(3), np.ones(3)),
    "type of array": (np.zeros(3, np.int32), np.zeros(3, np.float32)),
    "array of objects": (np.array([Slots(1.0)]), np.array([Slots(2.0)])),
    "number of NumPy": (np.float32(1), np.float64(1)),
    "random state": (random.Random(0), random.Random(1)),  # noqa: S311
    "generator of torch": (torch.Generator().manual_seed(0), torch.Generator().manual_seed(1)),
    "deque": (deque([1], 2), deque([1], 3)),
    "ordered": (OrderedDict(a=1), {"a": 1}),
    "partial": (functools.partial(offset, by=1), functools.partial(offset, by=2)),
    "code": (lambda x: x + 1, lambda x: x + 2),
    "two on one line": ((lambda x: x, 0)[0], (lambda x: -x, 0)[0]),
    "default": (lambda x, by=1: x + by, lambda x, by=2: x + by),
    "closure": (adding(1), adding(2)),
    "method of an object": (Slots(1.0).__init__, Slots(2.0).__init__),
    "function of torch": (torch.relu, torch.tanh),
    "method of a tensor": (torch.Tensor.relu, torch.Tensor.tanh),
    "operator": (torch.ops.aten.relu.default, torch.ops.aten.tanh.default),
    "pattern": (re.compile("a"), re.compile("b")),
    "memory": (bytearray(b"a"), bytearray(b"b")),
}


@pytest.mark.parametrize("name", DIFFERENT)
def test_what_differs_has_another_digest(name):
    one, other = DIFFERENT[name]
    assert digest(one) != digest(other)
    assert digest(one) == digest(one)


def test_globals_that_a_function_names_count(monkeypatch):
    before = digest(doubled), digest(offset)
    monkeypatch.setitem(globals(), "FACTOR", 3.0)
    assert (digest(doubled) != before[0], digest(offset) == before[1]) == (True, True)
    monkeypatch.setitem(globals(), "helper", lambda x: 2 * x)
    assert digest(offset) != before[1]


def test_a_function_of_torch_that_somebody_exchanged_counts(monkeypatch):
    class Own(nn.ReLU):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return functional.relu(x)

    own, plain_one = digest(Own()), digest(nn.ReLU())
    monkeypatch.setattr(functional, "relu", lambda x: x)
    assert digest(Own()) != own
    assert digest(nn.ReLU()) == plain_one  # which names it too, but is known by its name
    monkeypatch.setattr(nn.ReLU, "forward", lambda _self, x: x)
    assert digest(nn.ReLU()) != plain_one


def test_cycles_end():
    layer = nn.ReLU()
    layer.me, layer.rows = layer, []
    layer.rows.append(layer.rows)
    other = copy.deepcopy(layer)
    assert digest(layer) == digest(other)
    other.rows.append(1)
    assert digest(layer) != digest(other)


def test_nesting_without_end_is_refused():
    deep: list[object] = []
    for _ in range(100_000):
        deep = [deep]
    layer = nn.ReLU()
    layer.deep = deep
    with pytest.raises(NotCoveredError, match="nested too deeply"):
        digest(layer)
    while deep:  # Python's own way to free it would nest as deeply
        deep = deep[0]


def add_hook(layer: nn.Module) -> None:
    layer.register_forward_hook(lambda _layer, _inputs, output: output + 1)


def add_other_hook(layer: nn.Module) -> None:
    layer.register_forward_hook(lambda _layer, _inputs, output: output + 2)


def add_two_hooks(layer: nn.Module) -> None:
    add_hook(layer)
    add_other_hook(layer)


def add_two_hooks_the_other_way_round(layer: nn.Module) -> None:
    add_other_hook(layer)
    add_hook(layer)


def add_prepended_hook(layer: nn.Module) -> None:
    layer.register_forward_pre_hook(lambda _layer, inputs: (inputs[0] + 1,))


def add_hook_with_kwargs(layer: nn.Module) -> None:
    layer.register_forward_pre_hook(lambda _layer, inputs, kwargs: ((inputs[0] + 1,), kwargs), with_kwargs=True)


def override_forward(layer: nn.Module) -> None:
    layer.forward = lambda x: x + 1


def bind_forward(layer: nn.Module) -> None:
    layer.forward = (lambda self, x: x * self.in_features).__get__(layer)


def parametrise(layer: nn.Module) -> None:
    parametrize.register_parametrization(layer, "weight", nn.Tanh())


def parametrise_otherwise(layer: nn.Module) -> None:
    parametrize.register_parametrization(layer, "weight", nn.Sigmoid())


def normalise_weight(layer: nn.Module) -> None:
    parametrizations.weight_norm(layer)


def normalise_weight_of_rows(layer: nn.Module) -> None:
    parametrizations.weight_norm(layer, dim=1)


def change_weight(layer: nn.Linear) -> None:
    layer.weight.data[0, 0] += 1


def change_type(layer: nn.Linear) -> None:
    layer.to(torch.bfloat16)


def drop_bias(layer: nn.Linear) -> None:
    layer.bias = None


def hold_a_tensor(layer: nn.Linear) -> None:
    layer.table = torch.zeros(2)


def hold_another_tensor(layer: nn.Linear) -> None:
    layer.table = torch.ones(2)


def have_a_buffer(layer: nn.Linear) -> None:
    layer.register_buffer("table", torch.zeros(2))


def have_a_module(layer: nn.Linear) -> None:
    layer.inner = nn.Dropout(0.1)


def have_another_module(layer: nn.Linear) -> None:
    layer.inner = nn.Dropout(0.2)


ACTS = [
    add_hook,
    add_other_hook,
    add_two_hooks,
    add_two_hooks_the_other_way_round,
    add_prepended_hook,
    add_hook_with_kwargs,
    override_forward,
    bind_forward,
    parametrise,
    parametrise_otherwise,
    normalise_weight,
    normalise_weight_of_rows,
    change_weight,
    change_type,
    drop_bias,
    hold_a_tensor,
    hold_another_tensor,
    have_a_buffer,
    have_a_module,
    have_another_module,
]


def test_whatever_is_done_to_a_layer_gives_another_digest():
    layer = nn.Linear(3, 3)
    digests = {"nothing": digest(layer)}
    for act in ACTS:
        changed = copy.deepcopy(layer)
        act(changed)
        digests[act.__name__] = digest(changed)
    assert len(set(digests.values())) == len(ACTS) + 1


def test_hooks_of_all_modules_count():
    before = digest(nn.ReLU())
    with nn.modules.module.register_module_forward_hook(lambda _module, _inputs, output: output + 1):
        assert digest(nn.ReLU()) != before
    assert digest(nn.ReLU()) == before


def test_what_decides_nothing_in_evaluation_does_not_count():
    layer = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
    before = digest(layer)
    layer.eval().requires_grad_(False)
    layer[0].register_full_backward_hook(lambda *_: None)
    layer[0].train = lambda mode=True: layer[0]
    assert digest(layer) == before


class Bent(nn.Conv2d):
    """A layer with something of its own."""

    own: object = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x)


class Held:
    """Lets a network be copied that holds what cannot be."""

    def __init__(self, value: object) -> None:
        self.value = value

    def __deepcopy__(self, _: object) -> Held:
        return self


def network_with(own: object) -> Network:
    model = small_model()
    bent = Bent(8, 8, 1)
    bent.own = Held(own)
    model.block1 = nn.Sequential(bent, model.block1)
    return Network(model, HOW)


UNCOVERED = {
    "file": (lambda: sys.__stderr__, "_io.TextIOWrapper"),
    "generator": (lambda: (i for i in range(3)), "builtins.generator"),
    "iterator": (lambda: iter([1]), "builtins.list_iterator"),
    "lock": (threading.Lock, "_thread.lock"),
    "sparse tensor": (lambda: torch.eye(2).to_sparse(), "torch.Tensor with torch.sparse_coo on cpu"),
    "tensor without numbers": (lambda: torch.empty(2, device="meta"), "torch.Tensor with torch.strided on meta"),
    "random state of NumPy": (lambda: np.random.default_rng(0), "_cython_"),
    "inside": (lambda: Options(inner={"a": [threading.Lock()]}), "_thread.lock"),
}


@pytest.mark.parametrize("name", UNCOVERED)
def test_what_cannot_be_covered_is_not_stored_and_one_line_says_why(name, tmp_path, fp32, capsys):
    build, kind = UNCOVERED[name]
    rows = []
    for _ in range(2):
        torch.manual_seed(0)
        network = network_with(build())
        lower, _ = network.cut("head")
        with pytest.raises(NotCoveredError, match=rf"block1\.0\.own.* is a {re.escape(kind)}"):
            lower.fingerprint()
        inputs = computed_once(lower, draw_images(4), machine=fp32, cache=Cache(tmp_path))
        (line,) = capsys.readouterr().err.splitlines()
        assert re.search(rf"not caching .*: block1\.0\.own.* is a {re.escape(kind)}", line)
        assert (inputs.filled.found, inputs.filled.kept) == (0, "memory")
        rows.append(inputs.fetch(torch.arange(4)))
    assert torch.equal(*rows)
    assert not list(tmp_path.rglob("*.shard"))
    network.below(network.find("block1")).fingerprint()  # what lies below it can be told apart


def test_two_networks_that_cannot_be_covered_do_not_share_an_engine(fp32):
    rows = []
    for scale in (1.0, 2.0):
        torch.manual_seed(0)
        network = network_with(threading.Lock())
        network.model.conv.weight.data *= scale
        inputs = computed_once(network.cut("head")[0], draw_images(4), machine=fp32)
        rows.append(inputs.fetch(torch.arange(4)))
    assert not torch.allclose(*rows)


def double(x: torch.Tensor) -> torch.Tensor:
    return SCALE * x


SCALE = 2.0


class Calling(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(3, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(double(x).mean((2, 3)))


def test_a_function_that_is_a_step_of_the_graph_is_covered_with_its_code(monkeypatch):
    model = Calling()

    def fingerprint() -> str:
        return Network(model, HOW, leaves=[globals()["double"]]).cut("head")[0].fingerprint()

    before = fingerprint()
    assert fingerprint() == before
    monkeypatch.setitem(globals(), "SCALE", 3.0)
    assert fingerprint() != before


def test_weights_can_be_left_out():
    one, other = (Network(small_model(seed), HOW).cut("head")[0] for seed in (0, 1))
    assert one.fingerprint() != other.fingerprint()
    assert one.fingerprint(weights=False) == other.fingerprint(weights=False)
    other.norm.eps = 0.5
    assert one.fingerprint(weights=False) != other.fingerprint(weights=False)


def test_decoded_images_are_those_of_every_network():
    lower = [Network(small_model(seed), HOW).cut("stem")[0] for seed in (0, 1)]
    assert lower[0].fingerprint() == lower[1].fingerprint()


def test_a_frozen_part_has_one_fingerprint_whoever_asks():
    network = Network(small_model(), HOW)
    before = network.below(network.find("block2")).fingerprint()
    lower, _ = network.cut("block2")
    assert lower.fingerprint() == before
    lower(torch.randn(2, 3, SIZE, SIZE))
    network.model.train()
    assert lower.fingerprint() == network.below(network.find("block2")).fingerprint() == before


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_fingerprint_is_the_same_on_every_device():
    before = Network(small_model(), HOW).cut("block2")[0].fingerprint()
    assert Network(small_model().cuda(), HOW).cut("block2")[0].fingerprint() == before


PROGRAM = """
import sys
sys.path.insert(0, {tests!r})
import timm
from conftest import small_model
from frostline.network.network import Network
from frostline.preprocessing import Preprocessing
from network import test_fingerprint as here

print(Network(small_model(), here.HOW).cut("block2")[0].fingerprint())
print(here.digest(here.VALUES))
print(here.digest(timm.layers.LayerNorm2d(3)), here.digest(here.Scaled), here.digest(here.add_two_hooks))
"""
VALUES = [{"a", "b", "c"}, frozenset({"x", "y", 1}), {"k": [1, (2.5, None)]}, Settings(1), Colour.BLUE, Options()]


@pytest.mark.long
def test_digests_are_the_same_in_every_process():
    outputs = []
    for seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(sys.path)}
        command = [sys.executable, "-c", PROGRAM.format(tests=str(TESTS))]
        outputs.append(subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout)
    assert outputs[0] == outputs[1]
    assert outputs[0].split()[0] == Network(small_model(), HOW).cut("block2")[0].fingerprint()


def test_a_logger_is_known_by_its_name():
    assert digest(logging.getLogger("a")) == digest(logging.getLogger("a"))
    assert digest(logging.getLogger("a")) != digest(logging.getLogger("b"))


def test_a_logger_of_another_class_is_the_same(monkeypatch):
    """absl, which other packages import, replaces the class of all later loggers."""

    class Other(logging.Logger):
        def __init__(self, name: str) -> None:
            super().__init__(name)
            self.process = object()

    monkeypatch.setattr(logging.Logger.manager, "loggerClass", Other)
    other = logging.getLogger("frostline.tests.other")
    assert isinstance(other, Other)
    assert digest(other) == digest(logging.Logger("frostline.tests.other"))


def test_inside_unchanged_every_tensor_is_read_once(monkeypatch):
    network = Network(small_model(), HOW)
    reads = []
    original = fingerprint.tensor_digest
    monkeypatch.setattr(fingerprint, "tensor_digest", lambda tensor: reads.append(tensor.shape) or original(tensor))
    parts = [network.below(network.find(name)) for name in ("block1", "block2", "head")]
    alone = [part.fingerprint() for part in parts]
    often = len(reads)
    reads.clear()
    with unchanged():
        assert [part.fingerprint() for part in parts for _ in range(2)][::2] == alone
        assert len(reads) == len([*parts[2].parameters(), *parts[2].buffers()]) < often
    with torch.no_grad():
        network.model.conv.weight.data *= 2  # which torch does not count as a change
    assert parts[0].fingerprint() != alone[0]


def test_what_a_function_reads_through_modules_counts_however_deep(monkeypatch):
    import sys
    import types

    outer, inner = types.ModuleType("outer_of_mine"), types.ModuleType("outer_of_mine.inner")
    outer.inner, inner.MODE = inner, 1.0
    monkeypatch.setitem(sys.modules, "outer_of_mine", outer)
    space = {"outer_of_mine": outer}
    exec("def scaled(x):\n    return x * outer_of_mine.inner.MODE", space)  # noqa: S102
    before = fingerprint.digest(space["scaled"])
    inner.MODE = 2.0
    assert fingerprint.digest(space["scaled"]) != before


def test_a_module_that_is_held_as_a_value_cannot_be_covered():
    import types

    held = types.ModuleType("somebodys_own")

    def scaled(x, settings=held):
        return x * settings.MODE

    with pytest.raises(fingerprint.NotCoveredError, match="somebodys_own"):
        fingerprint.digest(scaled)


def test_a_compiled_method_is_covered_with_the_object_that_it_is_bound_to():
    assert digest("abc".startswith) == digest("abc".startswith)
    assert len({digest(each) for each in ("abc".startswith, "abd".startswith, "abc".endswith, str.startswith)}) == 4
