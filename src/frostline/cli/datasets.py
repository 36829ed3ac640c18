from __future__ import annotations

import click

from frostline.cli.options import json_option, print_json


@click.command("datasets", short_help="List the data sets that have a name.")
@json_option
def command(as_json: bool) -> None:
    """List the data sets that have a name, how many classes each has, and whether it is on this machine.

    A set that lies elsewhere is given as NAME:ROOT, and --download fetches one.
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
    click.echo(f"looked for under {printable(str(default_root()))}; elsewhere: NAME:ROOT; --download fetches")
