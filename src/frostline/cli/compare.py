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
@click.option("--plan", multiple=True, default=["gradual"], help="probe, gradual, full or a YAML file; several times.")
@click.option("--out", help="The folder to make; by default runs/compare-DATA-NUMBER.")
@flags_of(Options, skip=("data", "backbone", "weights", "plan", "out"))
@json_option
def command(data: str, as_json: bool, **options: Any) -> None:
    """Fit every --backbone with every --plan on DATA and compare them on its validation images.

    Each run is kept, with one table and one picture beside them. With --plan probe each backbone takes one pass over
    the images.
    """
    from frostline.verbs.compare import compare

    rows = compare(data, **options)
    if as_json:
        print_json(rows)
    else:
        _table(rows)
    failed = [row for row in rows if "error" in row]
    if failed:
        raise InputsFailedError(f"{len(failed)} of {len(rows)} could not be fitted: {failed[0]['error']}")


def _table(rows: list[dict[str, Any]]) -> None:
    from frostline.terminal import human_bytes, human_count, printable

    width = max(len(printable(row["name"])) for row in rows)
    click.echo(f"{'':<{width}}  accuracy  95 % interval       loss  seconds  parameters     size  images/s")
    for row in rows:
        if "error" in row:
            click.echo(f"{printable(row['name']):<{width}}  failed")
            continue
        low, high = row["interval"]
        click.echo(
            f"{printable(row['name']):<{width}}  {row['accuracy']:>8.4f}  {low:.4f} … {high:.4f}  {row['loss']:>7.4f}"
            f"  {row['seconds']:>7.1f}  {human_count(row['parameters']):>10}  {human_bytes(row['bytes']):>7}"
            f"  {row['images_per_second']:>8.0f}"
        )
