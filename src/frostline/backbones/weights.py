"""Weights from a file: read without running code from it, unwrapped, matched by name, reported."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from frostline.backbones.provenance import NOT_STATED
from frostline.errors import UsageError, WeightsError, reason, several

PICKLED = (".pth", ".pt", ".bin", ".ckpt")
PROGRAMS = (".pt2", ".pkl", ".pickle", ".joblib", ".keras", ".h5", ".hdf5", ".mar", ".dill", ".torchscript")
WRAPPERS = ("state_dict", "model_state_dict", "model", "model_ema", "state_dict_ema", "ema", "net")
PREFIXES = ("module.", "_orig_mod.", "model.", "backbone.", "net.")
LEAST_MATCHED = 0.5
SAVE_WEIGHTS = "save only the weights: torch.save(model.state_dict(), …), or as safetensors"
ANSI = re.compile(r"\x1b\[[\d;]*m")


@dataclass(frozen=True)
class Match:
    """How a weights file matched a network: names of parameters and buffers."""

    loaded: tuple[str, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]

    def __str__(self) -> str:
        text = f"{len(self.loaded)} of {len(self.loaded) + len(self.missing)} tensors of the network matched"
        if self.missing:
            text += f"; not in the file: {several(self.missing, 6)}"
        if self.unexpected:
            text += f"; not in the network: {several(self.unexpected, 6)}"
        return text


def read_state_dict(file: Path) -> dict[str, Tensor]:
    """The tensors of a `.safetensors` or pickled weights file. Nothing in the file is ever executed.

    Raises UsageError if the file does not exist, WeightsError if it is corrupt or holds more than tensors.
    """
    if not file.is_file():
        raise UsageError(f"there is no weights file {file}; give a .safetensors or .pth file, or --weights none")
    if file.suffix == ".safetensors":
        try:
            return dict(load_file(file))
        except (SafetensorError, OSError) as error:
            raise WeightsError(f"{file} is corrupt or not a safetensors file: {error}") from error
    if file.suffix.lower() in PROGRAMS:
        raise WeightsError(f"{file} is of a kind that can run code, and is not opened; {SAVE_WEIGHTS}")
    if file.suffix not in PICKLED:
        known = ", ".join((".safetensors", *PICKLED))
        raise UsageError(f"{file} has no known extension of a weights file; known: {known}")
    try:
        content = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:
        raise WeightsError(
            f"{file} is corrupt, or holds more than tensors (a pickle can run code, so nothing in it was run); "
            f"{SAVE_WEIGHTS}. Found: {_found(error)}"
        ) from error
    return _unwrap(content, file)


def _found(error: Exception) -> str:
    """What a file holds that is not data. Torch's own text advises to load it all the same, which runs its code."""
    text = str(error)
    if name := re.search(r"(?:GLOBAL|[Gg]lobal:?|class) ([\w.]+\.\w+)", text):
        return name[1]
    return "a TorchScript program" if "TorchScript" in text else ANSI.sub("", reason(error)).partition(". ")[0]


def licence_of(file: Path) -> str:
    """The licence in the metadata of a `.safetensors` file, in either spelling; "unknown" for all others."""
    if file.suffix != ".safetensors":
        return NOT_STATED
    with safe_open(file, "pt") as content:
        metadata = content.metadata() or {}
    return metadata.get("license") or metadata.get("licence") or NOT_STATED


def _unwrap(content: Any, file: Path) -> dict[str, Tensor]:
    while isinstance(content, Mapping):
        tensors = {str(name): value for name, value in content.items() if isinstance(value, Tensor)}
        if tensors:
            return tensors
        content = next((content[key] for key in WRAPPERS if key in content), None)
    raise WeightsError(f"{file} holds no tensors under any usual name ({', '.join(WRAPPERS)})")


def _without_prefix(state: dict[str, Tensor], names: set[str]) -> dict[str, Tensor]:
    """The state without wrappers' prefixes ("module.") that keep names from matching."""
    while True:
        hits = len(names & state.keys())
        for prefix in PREFIXES:
            shorter = {name.removeprefix(prefix): value for name, value in state.items()}
            if len(shorter) == len(state) and len(names & shorter.keys()) > hits:
                state = shorter
                break
            if all(name.startswith(prefix) for name in state) and hits == 0:
                state = shorter
                break
        else:
            return state


def load_weights(model: nn.Module, file: Path, heads: tuple[str, ...]) -> Match:
    """Load the weights of a file into `model`, except the final layers `heads`, which are replaced anyway.

    Raises WeightsError if a tensor has another shape or is not finite, or if less than half of the network matches.
    """
    own = {
        name: value
        for name, value in model.state_dict().items()
        if not name.startswith(tuple(f"{head}." for head in heads)) and not name.endswith("num_batches_tracked")
    }
    state = _without_prefix(read_state_dict(file), set(own))
    differing = [name for name in own if name in state and state[name].shape != own[name].shape]
    if differing:
        name = differing[0]
        raise WeightsError(
            f"{file} is for another architecture: {name} is {tuple(state[name].shape)} in the file and "
            f"{tuple(own[name].shape)} in the network ({len(differing)} differ); name the file's backbone"
        )
    loaded = tuple(name for name in own if name in state)
    known = set(model.state_dict())
    match = Match(loaded, tuple(n for n in own if n not in state), tuple(n for n in state if n not in known))
    if len(loaded) < LEAST_MATCHED * len(own):
        raise WeightsError(f"{file} is for another architecture: {match}; name the file's backbone")
    model.load_state_dict({name: _fitting(file, name, state[name], own[name]) for name in loaded}, strict=False)
    return match


def _fitting(file: Path, name: str, value: Tensor, own: Tensor) -> Tensor:
    """The tensor in the type of the network's own; raises WeightsError where that would not be the same numbers."""
    kind = str(value.dtype).removeprefix("torch.")
    if value.is_quantized or value.layout != torch.strided or value.is_meta:
        kind = "quantised" if value.is_quantized else "without numbers" if value.is_meta else "sparse"
    elif value.is_floating_point() == own.is_floating_point() and not value.is_complex():
        value = value.to(own.dtype)
        if value.is_floating_point() and not bool(value.isfinite().all()):
            raise WeightsError(f"{file} is damaged: {name} holds values that are not finite")
        if name.endswith("running_var") and bool((value < 0).any()):
            raise WeightsError(f"{file} is damaged: {name} holds variances below 0")
        return value
    raise WeightsError(
        f"{file} holds other numbers than the network: {name} is {kind}, and the network has "
        f"{str(own.dtype).removeprefix('torch.')}; save the weights as floats, before any quantisation"
    )
