"""The fuzzer's targets (`make fuzz`) hold for their seeds and for a few mutations of each, without a fuzzer."""

from __future__ import annotations

import importlib
import random
import warnings
from pathlib import Path
from types import ModuleType

import pytest

from frostline import terminal

ROUNDS = {"decoding": 1, "tables": 8, "stored": 12}  # mutations of each seed


def mutated(content: bytes, chance: random.Random, words: tuple[bytes, ...]) -> bytes:
    """Other bytes at some places, a word or a piece of itself put in, or a piece left out."""
    changed = bytearray(content)
    for _ in range(chance.randint(1, 4)):
        start = chance.randrange(len(changed) + 1)
        end = min(len(changed), start + chance.choice((0, 0, 1, 2, 8, 64)))
        changed[start:end] = chance.choice((chance.randbytes(end - start), chance.choice(words), changed[:8], b""))
    return bytes(changed)


@pytest.fixture(params=ROUNDS)
def target(request: pytest.FixtureRequest) -> ModuleType:
    return importlib.import_module(f"fuzz.{request.param}")


def test_seeds_and_what_is_like_them_are_read_or_refused(target: ModuleType, tmp_path: Path) -> None:
    chance = random.Random(0)  # noqa: S311
    with terminal.quiet(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="PIL")
        target.attempt(b"", tmp_path)
        for seed in target.seeds():
            assert len(seed) <= target.MOST
            target.attempt(seed, tmp_path)
            for _ in range(ROUNDS[target.__name__.removeprefix("fuzz.")]):
                target.attempt(mutated(seed, chance, target.WORDS), tmp_path)
