from __future__ import annotations

from typing import Any

import click

from frostline.cli.options import flags_of, json_option, print_json
from frostline.errors import InputsFailedError
from frostline.fitting.options import Options

EXAMPLES = """
\b
Examples:
  frostline compare photos/ --backbone efficientnet-lite0 --backbone torchvision:resnet18 --plan probe
  frostline compare photos/ --backbone torchvision:vgg16@vgg16.safetensors --backbone efficientnet-lite0
  frostline compare photos/ --plan probe --plan gradual --plan full
"""


@click.command("compare", short_help="Fit several backbones or plans and compare them.", epilog=EXAMPLES)
@click.argument("data")
@click.option("--backbone", multiple=True, default=["efficientnet-lite0"], help="NAME or NAME@WEIGHTS; several times.")
@click.option("--plan", multiple=True, default=["auto"], help="auto, probe, gradual, full or a YAML file, each.")
@click.option("--out", help="The folder to make; by default runs/compare-DATA-NUMBER.")
@flags_of(Options, skip=("data", "backbone", "weights", "plan", "out"))
@json_option
def command(data: str, as_json: bool, **options: Any) -> None:
    """Fit every --backbone with every --plan on DATA and compare them on its validation images.

    Each run is kept, with one table and one picture beside them. "to the best" is the difference of accuracy on the
    same images, with its 95 % interval. The test split stays closed; `frostline evaluate` opens it. With --plan probe
    each backbone takes one pass over the images.
    """
    from frostline.verbs.compare import compare

    results = compare(data, **options)
    if as_json:
        print_json(results)
    else:
        _table(results)
    failed = [result for result in results if "error" in result]
    if failed:
        raise InputsFailedError(f"{len(failed)} of {len(results)} could not be fitted: {failed[0]['error']}")


def _table(results: list[dict[str, Any]]) -> None:
    from frostline.terminal import human_bytes, human_count, printable

    width = max(len(printable(result["name"])) for result in results)
    click.echo(
        f"{'':<{width}}  accuracy  {'95 % interval':<15}  {'to the best':<28}     loss  seconds  parameters     size"
        "  images/s"
    )
    for result in results:
        if "error" in result:
            click.echo(f"{printable(result['name']):<{width}}  failed")
            continue
        low, high = result["interval"]
        click.echo(
            f"{printable(result['name']):<{width}}  {result['accuracy']:>8.4f}  {low:.4f} … {high:.4f}"
            f"  {_difference(result['to_best']):<28}  {result['loss']:>7.4f}  {result['seconds']:>7.1f}"
            f"  {human_count(result['parameters']):>10}  {human_bytes(result['bytes']):>7}"
            f"  {result['images_per_second']:>8.0f}"
        )


def _difference(paired: dict[str, float] | None) -> str:
    """ "-0.0131 (-0.0400 … 0.0090)"; empty of the best one."""
    return f"{paired['difference']:.4f} ({paired['low']:.4f} … {paired['high']:.4f})" if paired else ""
