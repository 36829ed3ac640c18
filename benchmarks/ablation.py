"""What each part of plan `auto` brings: the recipe with one thing changed at a time, on any labelled images.

    python benchmarks/ablation.py photos/ --seeds 0 1 2 --out ablation.json
    python benchmarks/ablation.py digits --image-size 128      (what auto takes for tiny images, here for all variants)

Prints a Markdown table: accuracy on test images (validation where there are none), log-loss, seconds of the training
alone; the median over the seeds. What did not pay is undone, as in a fit. All runs share one store, so what is frozen
is computed once for the whole table.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import frostline
from frostline import Phase
from frostline.plan import SOLVED
from frostline.training import probe

UNSOFTENED = "… the head as sure as it was solved"

TRAINED = Phase("stem", lr=1.5e-3, lr_decay=0.8, patience=99, race=True)
UPDATED = replace(TRAINED, lr=3e-3, batchnorm="updated")


def variants(frostline_of_auto: str, last: str, epochs: int, views: int) -> dict[str, dict[str, Any]]:
    """Options of `fit` by what they change; the head alone first, then the first phase of `auto`.

    last: the last stage below the head.
    """
    trained, updated = (
        replace(phase, frostline=frostline_of_auto, epochs=epochs, views=views) for phase in (TRAINED, UPDATED)
    )
    head, four = Phase("head", epochs=25, lr=3e-3, patience=99), replace(SOLVED, views=4)

    def after_head(phase: Phase) -> dict[str, Any]:
        return {"plan": [four, phase]}

    return {
        "head solved": {"plan": "probe"},
        "head solved on 4 views": {"plan": [four]},
        "head trained, 25 epochs": {"plan": [head]},
        "head, then deeper": after_head(trained),
        UNSOFTENED: after_head(trained),
        "… statistics of BatchNorm updated, learning rate 0.003": after_head(updated),
        "… a fifth of the learning rate": after_head(replace(trained, lr=3e-4)),
        "… without solving the head first": {"plan": [replace(trained, race=False)], "label_smoothing": 0.1},
        "… without smoothed labels": {**after_head(trained), "label_smoothing": 0.0},
        "… the same view in every epoch": after_head(replace(trained, views=1)),
        "… mixup of 0.2": after_head(replace(trained, mixup=0.2)),
        "… only the last stage": after_head(replace(trained, frostline=last)),
        "… everything trains": after_head(replace(trained, frostline="stem")),
        "plan auto": {"plan": "auto"},
    }


def measured(data: str, options: dict[str, Any], folder: Path, store: Path) -> dict[str, float]:
    run = frostline.fit(data, out=folder / "run", store=store, quiet=True, **options)
    metrics = run.metrics
    part = metrics["test"] or metrics["valid"]
    seconds = sum(row["seconds"] for row in run.history)
    first = [heat["accuracies"][0] for made in metrics["decisions"] for heat in made["tried"] if heat["accuracies"]]
    undone = sum(not made["kept"] for made in metrics["decisions"])
    found = {"accuracy": part["accuracy"], "loss": part["loss"], "n": part["n"], "seconds": seconds, "undone": undone}
    return found | {"after_one": first[0] if first else math.nan}


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
            print("| | accuracy | log-loss | validation after one epoch | seconds of training |", flush=True)
            print("|---|---|---|---|---|", flush=True)
            last = frostline.make_plan(data=data, plan="gradual")[1].frostline
            for name, options in variants(deeper.frostline, last, deeper.epochs, deeper.views or 4).items():
                if args.only and not any(word in name for word in args.only):
                    continue
                with patch.object(probe, "SOFTER", 1.0 if name == UNSOFTENED else probe.SOFTER):
                    found = [
                        measured(data, {**options, **common, "seed": seed}, new(scratch), Path(scratch, "store"))
                        for seed in args.seeds
                    ]
                row = {key: statistics.median(each[key] for each in found) for key in found[0]}
                results.append({"data": Path(data).name, "variant": name, "seeds": args.seeds, **row})
                first = "" if math.isnan(row["after_one"]) else f"{row['after_one']:.4f}"
                undone = ", undone" if row["undone"] else ""
                columns = f"{row['accuracy']:.4f} | {row['loss']:.4f} | {first} | {row['seconds']:.0f}"
                print(f"| {name}{undone} | {columns} |", flush=True)
    args.out.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
