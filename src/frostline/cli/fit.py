from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from frostline.cli.options import complete_data, complete_run, flags_of, json_option, print_json
from frostline.errors import DataError
from frostline.fitting.options import Options
from frostline.verbs.fit import fit, resume

if TYPE_CHECKING:
    from frostline.runs.run import Run

EXAMPLES = """
\b
Examples:
  frostline fit digits
  frostline fit photos/ --out runs/pets
  frostline fit photos/ --backbone torchvision:resnet50 --plan full --epochs 5
  frostline fit photos/ --plan probe --folds 5
  frostline fit --resume runs/pets
  frostline fit mnist:data/ --augment digits --optimizer sgd --lr 0.01
  frostline fit photos/ --backbone torchvision:vgg16 --weights vgg16.safetensors --plan plan.yaml

\b
A plan in YAML is a list of phases; each trains the layers above its frostline:
  phases:
    - frostline: head       # epochs 0: solved, not trained
      epochs: 0
    - frostline: layer4
      epochs: 10
      lr: 0.0003
"""


@click.command("fit", short_help="Train a classifier on labelled images.", epilog=EXAMPLES)
@click.argument("data", required=False, shell_complete=complete_data)
@flags_of(Options, skip=("data",))
@click.option(
    "--config",
    type=click.Path(exists=True, dir_okay=False),
    help="File of options: the config.yaml of a run to repeat, or a file from `frostline init`.",
)
@click.option(
    "--folds",
    type=int,
    help="Cross-validate with this many folds: one run per fold, their mean and standard deviation.",
)
@click.option(
    "--resume",
    "resumed",
    type=click.Path(),
    metavar="RUN",
    shell_complete=complete_run,
    help="Go on with an interrupted fit, with its own options; the result is the same.",
)
@click.option(
    "--stop-here", is_flag=True, help="With --resume: train no further, make a classifier of what it has learnt."
)
@json_option
def command(
    data: str | None,
    config: str | None,
    folds: int | None,
    resumed: str | None,
    stop_here: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Train a classifier on DATA and write a run.

    DATA is a folder with train/ and val/ (and test/) of class folders, or one folder of class folders (a stratified
    part becomes the validation split; with fewer than 200 images only a head is solved, and cross-validation measures
    it); a folder of images/ and masks/; a CSV, TSV, JSONL or Parquet manifest; COCO's JSON or YOLO's labels, or a
    folder with them; WebDataset's tars (train-{000..063}.tar); a folder, manifest or tars at a URL (s3://bucket/photos);
    or the name of a known data set: digits, mnist:ROOT (`frostline datasets` lists them).
    """
    named = data is not None
    if resumed is not None:
        run = _gone_on(resumed, data, config=config, folds=folds, stop_here=stop_here, **options)
        _print(run, as_json, options["quiet"])
        return
    if stop_here:
        raise click.UsageError("--stop-here ends an interrupted fit: give --resume RUN as well")
    if config:
        data, options = _repeated(config, data, options)
    if not data:
        raise click.UsageError("DATA is missing: give a folder of class folders, a manifest, or a name such as digits")
    with contextlib.nullcontext() if named else _data_of(config):
        if folds is not None:
            _cross_validated(data, folds, as_json, options)
            return
        run = fit(data, **options)
    _print(run, as_json, options["quiet"])


def _print(run: Run, as_json: bool, quiet: bool) -> None:
    if as_json:
        print_json(run.metrics)
    elif not quiet:
        click.echo(f"predict with: frostline predict {run.path} IMAGES…")


def _gone_on(run: str, data: str | None, *, config: str | None, folds: int | None, stop_here: bool, **all_: Any) -> Run:
    for name, value in {"config": config, "folds": folds}.items():
        if value is not None:
            raise click.UsageError(f"--resume goes on with a fit as it began; leave out --{name}")
    return resume(run, data, stop_here=stop_here, **{name: all_[name] for name in _typed(all_)})


def _typed(options: dict[str, Any]) -> list[str]:
    """The names of the options that the command line gives."""
    from click.core import ParameterSource

    source = click.get_current_context().get_parameter_source
    return [name for name in options if source(name) is not ParameterSource.DEFAULT]


def _cross_validated(data: str, folds: int, as_json: bool, options: dict[str, Any]) -> None:
    from frostline.tasks.summary import SHOWN, UNEQUAL, between
    from frostline.verbs.cross_validate import cross_validate

    result = cross_validate(data, folds, **options)
    if as_json:
        print_json(result)
        return
    for name, words in {
        "accuracy": "accuracy",
        **UNEQUAL,
        **SHOWN,
        "loss": "log-loss",
        "ece": "calibration error",
    }.items():
        if name in result["mean"]:
            click.echo(f"{words:<18} {result['mean'][name]:.4f} ± {result['sd'][name]:.4f}")
    pooled = result["pooled"]
    click.echo(
        f"all images, each predicted by the network that had not seen it: accuracy {pooled['accuracy']:.4f}"
        f"{between(pooled['interval'])}, n = {pooled['n']}"
    )


@contextlib.contextmanager
def _data_of(config: str | None) -> Iterator[None]:
    """Say of data that is not there that a file named it, maybe as it is called in another folder."""
    try:
        yield
    except DataError as error:
        raise DataError(f"{error} ({config} names this data; if it lies elsewhere, give it as DATA, too)") from error


def _repeated(config: str, data: str | None, options: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """The options of a file, overridden by the command line; without `out` if the file is a run's own config.yaml."""
    from pathlib import Path

    from frostline.runs.config import read_config

    earlier = read_config(Path(config), [*options, "data"])
    now = {name: options[name] for name in _typed(options)}
    of_a_run = (Path(config).parent / "classes.json").exists()
    kept = {n: v for n, v in earlier.items() if n != "data" and not (n == "out" and of_a_run)}
    return data or str(earlier.get("data") or ""), {**options, **kept, **now}
