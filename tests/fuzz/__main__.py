"""Fuzz one target with atheris: PYTHONPATH=tests python -m fuzz decoding --seconds 600

Bytes that were found to reach new lines are kept in build/fuzz, and the next call goes on from there. So are bytes that
broke a promise (crash-…), took too long (timeout-…) or too much memory (oom-…). The fuzzer ends at the first of them.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

TARGETS = ("decoding", "tables", "stored")
FOUND = Path(__file__).parents[2] / "build" / "fuzz"
MEMORY = 1000  # MB of the whole process, torch included
SLOWEST = 10  # seconds per input; instrumented code is several times as slow


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m fuzz", description=__doc__)
    parser.add_argument("target", choices=TARGETS)
    parser.add_argument("--seconds", type=int, default=600)
    arguments = parser.parse_args()
    import atheris

    with atheris.instrument_imports(
        include=["PIL", "fuzz", "frostline.data", "frostline.store", "frostline.engines.choice"]
    ):
        target = importlib.import_module(f"fuzz.{arguments.target}")
    from frostline import terminal

    warnings.simplefilter("ignore")  # Pillow's remarks about odd metadata
    with tempfile.TemporaryDirectory() as folder, terminal.quiet():
        options = _prepared(target, FOUND / arguments.target, arguments.seconds)
        atheris.Setup([sys.argv[0], *options], _tried(target, Path(folder)))
        atheris.Fuzz()  # ends the process


def _tried(target: ModuleType, folder: Path) -> Callable[[bytes], None]:
    return lambda content: target.attempt(content, folder)


def _prepared(target: ModuleType, place: Path, seconds: int) -> list[str]:
    """The options of libFuzzer, after the seeds and the words are written where it finds them."""
    (place / "corpus").mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(target.seeds()):
        (place / "corpus" / f"seed-{number}").write_bytes(seed)
    escaped = ("".join(f"\\x{byte:02x}" for byte in word) for word in target.WORDS)
    (place / "words").write_text("".join(f'"{word}"\n' for word in escaped))
    limits = [f"-max_total_time={seconds}", f"-rss_limit_mb={MEMORY}", f"-timeout={SLOWEST}", f"-max_len={target.MOST}"]
    files = [f"-dict={place / 'words'}", f"-artifact_prefix={place}{os.sep}"]
    return [str(place / "corpus"), *limits, *files, "-len_control=0", "-print_final_stats=1"]


if __name__ == "__main__":
    main()
