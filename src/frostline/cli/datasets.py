from __future__ import annotations

import click

from frostline.cli.options import json_option, print_json


@click.command("datasets", short_help="List the data sets that have a name.")
@json_option
def command(as_json: bool) -> None:
    """List the data sets that have a name, their number of classes, and whether they are on this machine.

    Use NAME:ROOT for a data set in another folder, and --download to download one.
    """
    from frostline.data.readers.named import NAMED, default_root, is_here
    from frostline.terminal import printable

    sets = [{"name": name, "classes": known.classes, "found": is_here(name)} for name, known in NAMED.items()]
    if as_json:
        print_json(sets)
        return
    width = max(map(len, NAMED))
    for one in sets:
        click.echo(f"{one['name']:<{width}}  {one['classes']:>3} classes{'  found' * bool(one['found'])}")
    click.echo(f"searched {printable(str(default_root()))}; use NAME:ROOT for another folder, --download to download")
