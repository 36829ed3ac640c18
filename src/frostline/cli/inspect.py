from __future__ import annotations

from typing import Any

import click

from frostline.cli.options import json_option, print_json


@click.command("inspect", short_help="Show the stages at which a backbone can be cut.")
@click.argument("backbone")
@click.option("--weights", default="none", show_default=True, help="Not needed to see the stages; as in fit.")
@click.option("--image-size", type=int, help="Network input in pixels.")
@json_option
def command(backbone: str, weights: str, image_size: int | None, as_json: bool) -> None:
    """Show the stages of BACKBONE from the image to the head.

    Each stage is a place for the frostline: what trains above it, and how much is stored an image in bf16.
    """
    from frostline.inspection import inspect

    about = inspect(backbone, weights=weights, image_size=image_size)
    if as_json:
        print_json(about)
        return
    click.echo(f"{about['backbone']} · {about['image_size']} × {about['image_size']} pixels · {about['cuts']} cuts")
    if about["untraceable"]:
        click.echo(f"taken as a whole, two cuts only: {about['untraceable']}")
    _table(about["stages"])


def _table(stages: list[dict[str, Any]]) -> None:
    from frostline.terminal import human_bytes, human_count

    width = max(len(stage["name"]) for stage in stages)
    click.echo(f"{'stage':<{width}}  {'parameters':>10}  {'trains from here':>16}  {'stored an image':>15}  output")
    for stage in stages:
        shape = " × ".join(map(str, stage["output_shape"]))
        click.echo(
            f"{stage['name']:<{width}}  {human_count(stage['parameters']):>10}  {human_count(stage['trains']):>16}"
            f"  {human_bytes(stage['stored_bytes']):>15}  {shape}"
        )
