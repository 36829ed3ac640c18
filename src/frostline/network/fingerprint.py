"""A digest of what a frozen network computes: the same in every process, on every device, for every version of torch.

    fingerprint.digest(nn.GELU()) != fingerprint.digest(nn.GELU(approximate="tanh"))

Activations are stored under such a digest, so it covers everything that determines an output, and fails closed. It
covers, for a module, its class with the code, all attributes, parameters, buffers, hooks and inner modules; for a
function, its code, defaults, closure and the globals that it names; for an object, its class and state. Code of torch,
NumPy and Python itself is identified by name. For anything else, `NotCoveredError` names the obstacle.
"""

from __future__ import annotations

import contextlib
import copyreg
import enum
import functools
import logging
import types
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn

from frostline.network.hashing import Step, hashed, is_plain_tensor, plain_bytes, shape_bytes, tensor_digest, text_bytes
from frostline.network.sources import home, is_foreign, is_known, is_stdlib, names_in, source

# Attributes of a module that do not affect its outputs. Freezing replaces `train`, which has no effect in evaluation.
IGNORED = frozenset(vars(nn.Module())) | {"train", "_compiled_call_impl"}
GLOBAL_HOOKS = (nn.modules.module._global_forward_pre_hooks, nn.modules.module._global_forward_hooks)
HOOKS = ("_forward_pre_hooks", "_forward_hooks")
PRINTING = frozenset({"__repr__", "extra_repr", "_abc_impl"})  # class attributes that do not affect outputs
_LruCache = type(functools.cache(len))
COMPILED = (
    types.BuiltinFunctionType,
    types.MethodDescriptorType,
    types.WrapperDescriptorType,
    types.MethodWrapperType,
    types.ClassMethodDescriptorType,
    types.GetSetDescriptorType,
    np.ufunc,
)
WRAPPERS = (staticmethod, classmethod, property, functools.cached_property, functools.partial, _LruCache)
OPERATORS = ("aten", "prims", "torchvision", "mkldnn", "quantized")  # namespaces of torch.ops that packages define
LARGE = 65_536  # bytes from which a tensor is worth another thread


_read: ContextVar[dict[int, tuple[Tensor, bytes]] | None] = ContextVar("read", default=None)  # inside `unchanged`


@contextlib.contextmanager
def unchanged() -> Iterator[None]:
    """The caller promises that no tensor changes inside, so each is read only once for all digests that contain it."""
    token = _read.set({}) if _read.get() is None else None
    try:
        yield
    finally:
        if token:
            _read.reset(token)


class NotCoveredError(Exception):
    """Something that determines a network's outputs cannot be identified; the message says what."""


def digest(*values: object, tensors: Iterable[Tensor] = (), weights: bool = True) -> str:
    """A digest of modules, functions and values, of 32 hexadecimal digits.

    Two values that can compute different results have different digests. The device, `requires_grad`, training mode,
    backward hooks and state-dict hooks are left out, because they have no effect in evaluation.

    tensors: tensors among the values, to hash in several threads. weights: False leaves out the numbers of all
    tensors, which gives the digest of an architecture.

    Raises NotCoveredError for an open file, an iterator, an object of a compiled type, and other such values.

    >>> digest(nn.ReLU()) == digest(nn.ReLU().train())
    True
    """
    walk = _Walk(weights)
    walk.add_tensors(tensors)
    try:
        return hashed(*(walk.of(value) for value in [*values, *(list(hooks.values()) for hooks in GLOBAL_HOOKS)])).hex()
    except RecursionError:
        raise NotCoveredError("its attributes are nested too deeply") from None


def _named_in(
    path: str, package: types.ModuleType, names: set[str], above: set[types.ModuleType]
) -> Iterator[tuple[str, object]]:
    """The name of a module, and the values of some names in it and in the modules that it imports."""
    yield path, package.__name__
    known = is_known(package.__name__)
    for name in sorted(names & vars(package).keys()):
        value = vars(package)[name]
        if isinstance(value, types.ModuleType):
            if not known and value not in above:
                yield from _named_in(f"{path}.{name}", value, names, {*above, package})
        elif not known or is_foreign(value):
            yield f"{path}.{name}", value


class _Walk:
    """One traversal of values and everything that they refer to.

    digests: by id of an object. tensors: by id, each with its digest. met: objects, kept so that no id is reused.
    above: objects whose digest is in progress, to detect cycles. path: how the current object was reached.
    """

    def __init__(self, weights: bool) -> None:
        self.weights = weights
        read = _read.get()
        self.tensors: dict[int, tuple[Tensor, bytes]] = {} if read is None else read
        self.digests: dict[int, bytes] = {}
        self.classes: dict[tuple[type, frozenset[str]], bytes] = {}
        self.met: list[object] = []
        self.above: dict[int, int] = {}
        self.path: list[str] = []

    def of(self, value: object, label: str = "") -> bytes:
        """The digest of any value. label: how it is reached from the object that holds it."""
        plain = plain_bytes(value)
        if plain is not None:
            return plain
        if id(value) in self.digests:
            return self.digests[id(value)]
        if id(value) in self.above:
            return hashed(b"cycle", str(self.above[id(value)]).encode())
        self.met.append(value)
        self.above[id(value)] = len(self.above)
        self.path.append(label)
        result = self._content(value)
        self.path.pop()
        del self.above[id(value)]
        self.digests[id(value)] = result
        return result

    def add_tensors(self, tensors: Iterable[Tensor]) -> None:
        """Digest the large tensors in several threads, because hashing takes most of the time."""
        large = [t for t in tensors if id(t) not in self.tensors and is_plain_tensor(t) and t.nbytes >= LARGE]
        if len(large) > 1 and self.weights:
            with ThreadPoolExecutor(thread_name_prefix="fingerprint") as pool:
                for tensor, numbers in zip(large, pool.map(tensor_digest, large), strict=True):
                    self.tensors[id(tensor)] = tensor, numbers

    def refuse(self, value: object, why: str = "") -> NotCoveredError:
        kind = type(value)
        path = "".join(self.path).lstrip(".") or "what it computes"
        return NotCoveredError(f"{path} is a {kind.__module__}.{kind.__qualname__}{why}")

    def _content(self, value: object) -> bytes:
        for kinds, content in _CONTENTS:
            if isinstance(value, kinds):
                return content(self, value)
        return self._object(value)

    def _module(self, module: nn.Module) -> bytes:
        own = {name: value for name, value in vars(module).items() if name not in IGNORED}
        return hashed(
            b"module",
            self._class_of(module),
            *self._named(own),
            *self._in_order("parameter ", module._parameters),
            *self._in_order("buffer ", module._buffers),
            *self._in_order("", module._modules),
            *(piece for kind in HOOKS for piece in self._hooks(kind, vars(module))),
        )

    def _hooks(self, kind: str, attributes: Mapping[str, object]) -> Iterator[bytes]:
        """The hooks of one kind in the order in which they run; torch's numbers for them are left out."""
        hooks, with_kwargs = attributes[kind], attributes.get(f"{kind}_with_kwargs", {})
        yield text_bytes(kind)
        for number, hook in hooks.items():  # type: ignore[attr-defined]
            yield self.of(hook, f".{kind}[]")
            yield str(number in with_kwargs).encode()  # type: ignore[operator]

    def _graph(self, graph: fx.Graph) -> bytes:
        """Operations and arguments; nodes count by number, because their names do not matter."""
        numbers = {node: number for number, node in enumerate(graph.nodes)}
        pieces = [b"graph"]
        for node in graph.nodes:
            name = node.op if node.op in ("placeholder", "output") else node.target
            args, kwargs = fx.map_arg((node.args, node.kwargs), lambda other: Step(numbers[other]))  # type: ignore[arg-type, return-value]
            pieces += [text_bytes(node.op), self.of(name, f"step {node.name}"), self.of(args), self.of(dict(kwargs))]
        return hashed(*pieces)

    def _class_of(self, value: object) -> bytes:
        """The class of an object without its constructor, whose effect is in the object's state."""
        return self._classes(type(value), frozenset({"__init__"}))

    def _class(self, kind: type) -> bytes:
        return self._classes(kind, frozenset())

    def _classes(self, kind: type, without: frozenset[str]) -> bytes:
        return hashed(b"class", *(self._own_code(base, without) for base in kind.__mro__))

    def _own_code(self, kind: type, without: frozenset[str]) -> bytes:
        """What one class adds to its base classes."""
        name = f"{kind.__module__}.{kind.__qualname__}"
        if (kind, without) not in self.classes:
            self.classes[kind, without] = text_bytes(name)  # for references to itself
            own = {name: value for name, value in vars(kind).items() if _is_code(name, value)}
            if is_known(kind.__module__):  # identified by name, except for what other code put into it
                own = {name: value for name, value in own.items() if is_foreign(value)}
            self.classes[kind, without] = hashed(
                text_bytes(name), *self._named({n: own[n] for n in own.keys() - without})
            )
        return self.classes[kind, without]

    def _function(self, function: types.FunctionType) -> bytes:
        cells = zip(function.__code__.co_freevars, function.__closure__ or (), strict=False)
        pieces = [text_bytes(f"{function.__module__}.{function.__qualname__}")]
        for name, cell in cells:
            pieces += [text_bytes(name), b"" if name == "__class__" else self._cell(name, cell)]  # its own class
        if not is_known(home(function)):
            pieces += [
                self._code(function.__code__),
                self.of(function.__defaults__, ".default"),
                self.of(function.__kwdefaults__, ".default"),
                *self._named(vars(function)),
                *self._named(dict(self._globals(function))),
            ]
        return hashed(b"function", *pieces)

    def _code(self, code: types.CodeType) -> bytes:
        """The source text of code, which is the same in every version of Python; else the compiled code."""
        text = source(code)
        if text is not None:
            return hashed(b"text", text_bytes(text))
        shape = (code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags)
        names = (code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars)
        constants = [self.of(value) for value in code.co_consts]
        return hashed(b"code", code.co_code, code.co_exceptiontable, repr(shape + names).encode(), *constants)

    def _cell(self, name: str, cell: types.CellType) -> bytes:
        try:
            content = cell.cell_contents
        except ValueError:
            return b"empty"
        return self.of(content, f".{name}")

    def _globals(self, function: types.FunctionType) -> Iterator[tuple[str, object]]:
        """The globals that a function names, also through modules that it names, at any depth."""
        names = set(names_in(function.__code__))
        for name in names & function.__globals__.keys():
            value = function.__globals__[name]
            if isinstance(value, types.ModuleType):
                yield from _named_in(name, value, names, set())
            else:
                yield name, value

    def _package(self, package: types.ModuleType) -> bytes:
        """A module held as a value: anything in it may matter, so only modules identified by name are covered."""
        if not is_known(package.__name__):
            raise self.refuse(package, f" ({package.__name__}); it is unknown which parts of it are used")
        return hashed(b"package", text_bytes(package.__name__))

    def _compiled(self, function: object) -> bytes:
        owner = getattr(function, "__objclass__", getattr(function, "__self__", None))
        name = getattr(function, "__qualname__", getattr(function, "__name__", ""))
        bound = owner is not None and not isinstance(owner, (type, types.ModuleType))
        written_in = getattr(function, "__module__", None) or getattr(type(owner) if bound else owner, "__module__", "")
        if not is_known(str(written_in)):
            raise self.refuse(function, f" of the compiled module {written_in!r}")
        return hashed(b"compiled", text_bytes(f"{written_in}.{name}"), self.of(owner) if bound else b"")

    def _operator(self, operator: torch._ops.OpOverload | torch._ops.OpOverloadPacket) -> bytes:
        name = str(operator)
        if name.split(".")[0] not in OPERATORS:
            raise self.refuse(operator, f": {name} is not a known operator")
        return hashed(b"operator", text_bytes(name))

    def _wrapper(self, value: object) -> bytes:
        names = ("__func__", "fget", "fset", "func", "args", "keywords", "__wrapped__")
        inside = [getattr(value, name) for name in names if hasattr(value, name)]
        return hashed(b"wrapper", text_bytes(type(value).__name__), *(self.of(inner) for inner in inside))

    def _method(self, method: types.MethodType) -> bytes:
        return hashed(b"method", self.of(method.__func__), self.of(method.__self__))

    def _sequence(self, values: tuple[object, ...] | list[object]) -> bytes:
        return hashed(b"sequence", *self._kind(values), *(self.of(v, f"[{i}]") for i, v in enumerate(values)))

    def _mapping(self, values: Mapping[object, object]) -> bytes:
        pieces = [*self._kind(values)]
        for key, value in values.items():
            pieces += [self.of(key), self.of(value, f".{key}" if isinstance(key, str) else "")]
        return hashed(b"mapping", *pieces)

    def _set(self, values: set[object] | frozenset[object]) -> bytes:
        return hashed(b"set", *self._kind(values), *sorted(self.of(value) for value in values))

    def _kind(self, value: object) -> Iterator[bytes]:
        """The type and attributes of a container, including the factory of a `defaultdict`."""
        yield self._class_of(value)
        yield from self._named(getattr(value, "__dict__", {}))
        yield self.of(getattr(value, "default_factory", None))

    def _enum(self, member: enum.Enum) -> bytes:
        return hashed(b"enum", text_bytes(f"{type(member).__module__}.{member}"), self.of(member.value))

    def _array(self, array: np.ndarray | np.generic) -> bytes:
        about = text_bytes(f"{type(array).__name__} {array.dtype.str} {array.dtype.descr} {array.shape}")
        if array.dtype.hasobject:
            return hashed(b"array", about, self.of(array.tolist()))
        return hashed(b"array", about, array.tobytes())

    def _object(self, value: object) -> bytes:
        """An object by its class, its attributes, and what a copy would be made from (`__reduce_ex__`)."""
        if isinstance(value, logging.Logger):  # absl and others replace its class, and all handlers belong to it
            return hashed(b"logger", text_bytes(value.name))
        kind = type(value)
        if hasattr(value, "__next__"):
            raise self.refuse(value)
        try:
            reduce = copyreg.dispatch_table.get(kind)
            made_of = reduce(value) if reduce else value.__reduce_ex__(4)
        except Exception as error:
            raise self.refuse(value) from error
        if isinstance(made_of, str) and not is_known(kind.__module__):
            raise self.refuse(value)
        # other attributes of standard-library objects may belong to this process, such as a lock
        attributes = {} if is_stdlib(kind.__module__.partition(".")[0]) else getattr(value, "__dict__", {})
        pieces = [b"object", self._class_of(value), *self._named(attributes)]
        for item in (made_of,) if isinstance(made_of, str) else made_of:
            items = list(item) if hasattr(item, "__next__") else item  # the items of a list or dict subclass
            of_class = items is kind or (isinstance(items, tuple) and len(items) == 1 and items[0] is kind)
            pieces.append(b"its class" if of_class else self.of(items))
        return hashed(*pieces)

    def _named(self, values: Mapping[str, object]) -> Iterator[bytes]:
        yield str(len(values)).encode()
        for name in sorted(values, key=str):
            yield text_bytes(str(name))
            yield self.of(values[name], f".{name}")

    def _in_order(self, kind: str, values: Mapping[str, object]) -> Iterator[bytes]:
        yield text_bytes(f"{kind}{len(values)}")
        for name, value in values.items():
            yield text_bytes(name)
            yield self.of(value, f".{name}")

    def _tensor(self, tensor: Tensor) -> bytes:
        if not is_plain_tensor(tensor):
            raise self.refuse(tensor, f" with {tensor.layout} on {tensor.device.type}")
        if not self.weights:
            return hashed(b"tensor", shape_bytes(tensor))
        if id(tensor) not in self.tensors:
            self.tensors[id(tensor)] = tensor, tensor_digest(tensor)
        return self.tensors[id(tensor)][1]


_CONTENTS: tuple[tuple[type | tuple[type, ...], Callable[[_Walk, Any], bytes]], ...] = (
    (Tensor, _Walk._tensor),
    (nn.Module, _Walk._module),
    (fx.Graph, _Walk._graph),
    (type, _Walk._class),
    (types.ModuleType, lambda walk, package: walk._package(package)),
    (types.FunctionType, _Walk._function),
    (types.MethodType, _Walk._method),
    (weakref.ReferenceType, lambda walk, reference: hashed(b"reference", walk.of(reference()))),
    (types.CodeType, _Walk._code),
    (COMPILED, _Walk._compiled),
    (types.MemberDescriptorType, lambda _, slot: hashed(b"slot", text_bytes(slot.__name__))),
    (WRAPPERS, _Walk._wrapper),
    ((torch._ops.OpOverload, torch._ops.OpOverloadPacket), _Walk._operator),
    (enum.Enum, _Walk._enum),
    ((np.ndarray, np.generic), _Walk._array),
    ((tuple, list), _Walk._sequence),
    (dict, _Walk._mapping),
    ((set, frozenset), _Walk._set),
)


def _is_code(name: str, value: object) -> bool:
    """Whether a class attribute may affect outputs; `__slots__`, `__doc__`, `__annotations__` … do not."""
    special = name.startswith("__") and not isinstance(value, (types.FunctionType, *WRAPPERS))
    return not special and name not in PRINTING
