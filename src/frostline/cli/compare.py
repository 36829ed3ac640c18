from __future__ import annotations

from typing import Any

import click

from frostline.cli.options import COMPLETE, complete_data, flags_of, json_option, print_json
from frostline.errors import InputsFailedError
from frostline.fitting.options import Options

EXAMPLES = """
\b
Examples:
  frostline compare photos/
  frostline compare photos/ --backbone efficientnet-lite0 --backbone torchvision:resnet18 --plan probe
  frostline compare photos/ --backbone torchvision:vgg16@vgg16.safetensors --backbone efficientnet-lite0
  frostline compare photos/ --backbone efficientnet-lite0 --plan probe --plan gradual --plan full
"""
BACKBONES = "NAME or NAME@WEIGHTS; may be repeated. By default auto: try those whose weights are on this machine."
PLANS = "auto, probe, gradual, full or a YAML file; may be repeated. By default auto, or probe without --backbone."


@click.command("compare", short_help="Fit several backbones or plans and compare them.", epilog=EXAMPLES)
@click.argument("data", shell_complete=complete_data)
@click.option("--backbone", multiple=True, default=["auto"], help=BACKBONES, shell_complete=COMPLETE["backbone"])
@click.option("--plan", multiple=True, help=PLANS, shell_complete=COMPLETE["plan"])
@click.option("--out", help="Folder to create; by default runs/compare-DATA-NUMBER.")
@flags_of(Options, skip=("data", "backbone", "plan", "out"))
@json_option
def command(data: str, as_json: bool, **options: Any) -> None:
    """Fit every --backbone with every --plan on DATA and compare them on its validation images.

    Without --backbone, each backbone whose pretrained weights are on this machine gets a solved head, first on part of
    the images, and the weak drop out. All runs are kept, next to a page and a picture of the comparison. "to the best"
    is the difference in accuracy on the same images, with its 95 % interval. The last line recommends a run and says
    why. The test split stays closed; `frostline evaluate` opens it. With --plan probe each backbone takes one pass over
    the images.
    """
    from frostline.verbs.compare import compare

    results = compare(data, **{**options, "plan": options["plan"] or None})
    if as_json:
        print_json(results)
    else:
        _table(results)
    failed = [result for result in results if "error" in result]
    if failed:
        raise InputsFailedError(f"{len(failed)} of {len(results)} could not be fitted: {failed[0]['error']}")


def _table(results: list[dict[str, Any]]) -> None:
    from frostline.terminal import human_bytes, human_count, printable

    names, licences = ([printable(str(result.get(key, ""))) for result in results] for key in ("name", "licence"))
    width, licence = max(map(len, names)), max(7, *map(len, licences))
    click.echo(
        f"{'':<{width}}  accuracy  {'95 % interval':<15}  {'to the best':<28}     loss  seconds  parameters     size"
        f"  images/s  {'licence':<{licence}}  {'SHA-256':<12}"
    )
    for name, stated, result in zip(names, licences, results, strict=True):
        if "error" in result:
            click.echo(f"{name:<{width}}  failed")
            continue
        low, high = result["interval"]
        click.echo(
            f"{name:<{width}}  {result['accuracy']:>8.4f}  {low:.4f} … {high:.4f}"
            f"  {_difference(result['to_best']):<28}  {result['loss']:>7.4f}  {result['seconds']:>7.1f}"
            f"  {human_count(result['parameters']):>10}  {human_bytes(result['bytes']):>7}"
            f"  {result['images_per_second']:>8.0f}  {stated:<{licence}}  {(result['sha256'] or '')[:12]:<12}"
            f"{_left(result)}"
        )
    taken = [result for result in results if result.get("recommended")]
    if taken and sum("error" not in result for result in results) > 1:
        click.echo(f"recommended: {printable(taken[0]['reason'])}")


def _left(result: dict[str, Any]) -> str:
    """When a backbone dropped out; its figures are those of that round."""
    dropped = result["dropped"]
    return f"  dropped in round {dropped['round']}, of {dropped['images']} images" if dropped else ""


def _difference(paired: dict[str, float] | None) -> str:
    """ "-0.0131 (-0.0400 … 0.0090)"; empty for the best one."""
    return f"{paired['difference']:.4f} ({paired['low']:.4f} … {paired['high']:.4f})" if paired else ""
