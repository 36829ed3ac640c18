from __future__ import annotations

import click

from frostline.cli.options import json_option, print_json
from frostline.errors import UsageError


@click.command("backbones", short_help="List all backbones.")
@click.argument("pattern", default="*")
@json_option
def command(pattern: str, as_json: bool) -> None:
    """List all backbones, or those that match PATTERN: part of a name, or a shell pattern such as 'timm:vit_*'."""
    from frostline.backbones import list_backbones

    names = list_backbones(pattern)
    if as_json:
        print_json(names)
    elif names:
        click.echo("\n".join(names))
    else:
        raise UsageError(f"no backbone matches {pattern!r}; `frostline backbones` lists all")
