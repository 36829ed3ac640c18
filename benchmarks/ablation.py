"""What each part of plan `auto` brings: the recipe with one thing changed at a time, on any labelled images.

    python benchmarks/ablation.py photos/ --seeds 0 1 2 --out ablation.json
    python benchmarks/ablation.py digits --image-size 128      (what auto takes for tiny images, here for all variants)

Prints a Markdown table: accuracy on test images (validation where there are none), log-loss, seconds of the training
alone; the median over the seeds. All runs share one store, so what is frozen is computed once for the whole table.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import frostline
from frostline import Phase
from frostline.plan import SOLVED

UPDATED = Phase("stem", lr=3e-3, lr_decay=0.8, patience=99, batchnorm="updated")
FROZEN = replace(UPDATED, lr=6e-4, batchnorm="frozen")


def variants(frostline_of_auto: str, last: str, epochs: int, views: int) -> dict[str, dict[str, Any]]:
    """Options of `fit` by what they change; the head alone first, then the first phase of `auto`.

    last: the last stage below the head.
    """
    updated, frozen = (
        replace(phase, frostline=frostline_of_auto, epochs=epochs, views=views) for phase in (UPDATED, FROZEN)
    )
    smoothed = {"label_smoothing": 0.1}
    head = Phase("head", epochs=25, lr=3e-3, patience=99)
    return {
        "head solved": {"plan": "probe"},
        "head solved on 4 views": {"plan": [replace(SOLVED, views=4)]},
        "head trained, 25 epochs": {"plan": [head]},
        "head, then deeper: statistics updated": {"plan": [SOLVED, updated], **smoothed},
        "… statistics frozen": {"plan": [SOLVED, frozen], **smoothed},
        "… without solving the head first": {"plan": [frozen], **smoothed},
        "… without smoothed labels": {"plan": [SOLVED, updated], "label_smoothing": 0.0},
        "… the same view in every epoch": {"plan": [SOLVED, replace(updated, views=1)], **smoothed},
        "… a third of the learning rate": {"plan": [SOLVED, replace(updated, lr=1e-3)], **smoothed},
        "… only the last stage": {"plan": [SOLVED, replace(updated, frostline=last)], **smoothed},
        "… everything trains": {"plan": [SOLVED, replace(updated, frostline="stem")], **smoothed},
        "plan auto": {"plan": "auto"},
    }


def measured(data: str, options: dict[str, Any], folder: Path, store: Path) -> dict[str, float]:
    run = frostline.fit(data, out=folder / "run", cache_dir=store, quiet=True, **options)
    metrics = run.metrics
    part = metrics["test"] or metrics["valid"]
    seconds = sum(float(row["seconds"]) for row in run.history)
    return {"accuracy": part["accuracy"], "loss": part["loss"], "n": part["n"], "seconds": seconds}


def new(folder: str) -> Path:
    return Path(tempfile.mkdtemp(dir=folder))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", nargs="+")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--out", type=Path, default=Path("ablation.json"))
    parser.add_argument("--image-size", type=int)
    parser.add_argument("--only", nargs="*", help="words that the names of variants hold")
    args = parser.parse_args()
    results: list[dict[str, Any]] = []
    common = {"image_size": args.image_size}
    with tempfile.TemporaryDirectory() as scratch:
        for data in args.data:
            _, deeper, *_ = frostline.make_plan(data=data, plan="auto")
            print(f"\n{Path(data).name}: {deeper.frostline}, {deeper.epochs} epochs, {deeper.views} views\n")
            print("| | accuracy | log-loss | seconds of training |\n|---|---|---|---|", flush=True)
            last = frostline.make_plan(data=data, plan="gradual")[1].frostline
            for name, options in variants(deeper.frostline, last, deeper.epochs, deeper.views or 4).items():
                if args.only and not any(word in name for word in args.only):
                    continue
                found = [
                    measured(data, {**options, **common, "seed": seed}, new(scratch), Path(scratch, "store"))
                    for seed in args.seeds
                ]
                row = {key: statistics.median(each[key] for each in found) for key in found[0]}
                results.append({"data": Path(data).name, "variant": name, "seeds": args.seeds, **row})
                print(f"| {name} | {row['accuracy']:.4f} | {row['loss']:.4f} | {row['seconds']:.0f} |", flush=True)
    args.out.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
