from __future__ import annotations

import time
from pathlib import Path

import click

from frostline.cli.options import json_option, print_json

folder_option = click.option("--cache-dir", type=click.Path(path_type=Path), help="Folder of the store.")


@click.group("cache", short_help="Show or empty the store of activations.")
def command() -> None:
    """The store of activations: what frozen networks made of images, kept so that it is computed once."""


@command.command("ls")
@folder_option
@json_option
def ls(cache_dir: Path | None, as_json: bool) -> None:
    """List what is stored, the most recently used first."""
    from frostline.files import default_folder
    from frostline.store.shards import entries
    from frostline.terminal import human_bytes

    folder = cache_dir or default_folder()
    there = entries(folder)
    if as_json:
        print_json([{"key": e.folder.name, "bytes": e.bytes, "used": e.used, **e.about} for e in there])
        return
    for e in there:
        shape = " × ".join(map(str, e.about.get("shape", [])))
        used = time.strftime("%Y-%m-%d %H:%M", time.localtime(e.used))
        label, precision = e.about.get("label", "unreadable"), e.about.get("precision", "")
        click.echo(f"{e.folder.name[:12]}  {human_bytes(e.bytes):>8}  {used}  {label}  {shape} {precision}")
    click.echo(f"{human_bytes(sum(e.bytes for e in there))} in {len(there)} stores under {folder}")


@command.command("prune")
@click.option("--to", "target", default="20GB", show_default=True, help="Remove the least recently used beyond this.")
@folder_option
def prune_command(target: str, cache_dir: Path | None) -> None:
    """Remove the least recently used stores until the rest is small enough."""
    from frostline.files import default_folder, parse_bytes
    from frostline.store.shards import prune

    _say_removed(*prune(cache_dir or default_folder(), parse_bytes(target)))


@command.command("clear")
@folder_option
def clear(cache_dir: Path | None) -> None:
    """Remove everything that is stored, and what is remembered of files and engines."""
    from frostline.data.digests import MEMORY
    from frostline.engines.choice import REMEMBERED
    from frostline.files import default_folder
    from frostline.store.shards import entries, remove

    folder = cache_dir or default_folder()
    there = entries(folder)
    for e in there:
        remove(e)
    for name in (MEMORY, REMEMBERED):
        (folder / name).unlink(missing_ok=True)
    _say_removed(len(there), 0)


def _say_removed(count: int, left: int) -> None:
    from frostline.terminal import human_bytes

    click.echo(f"removed {count} store{'s' * (count != 1)}, {human_bytes(left)} left")
