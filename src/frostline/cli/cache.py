from __future__ import annotations

import sys
import time
from pathlib import Path

import click

from frostline.cli.options import json_option, print_json

folder_option = click.option("--cache-dir", type=click.Path(path_type=Path), help="Folder of the store.")


@click.group("cache", short_help="Show or empty the store of activations.")
def command() -> None:
    """The store of activations: the cached outputs of frozen layers, so that each is computed once."""


@command.command("ls")
@folder_option
@json_option
def ls(cache_dir: Path | None, as_json: bool) -> None:
    """List all stored activations, most recently used first."""
    from frostline.files import default_folder
    from frostline.store.shards import entries
    from frostline.terminal import human_bytes, printable

    folder = cache_dir or default_folder()
    there = entries(folder)
    if as_json:
        own = [{"key": e.folder.name, "bytes": e.bytes, "leftover": e.leftover, "used": e.used} for e in there]
        print_json([{**each, **e.about} for each, e in zip(own, there, strict=True)])
        return
    for e in there:
        shape = " × ".join(map(str, e.about.get("shape", [])))
        used = time.strftime("%Y-%m-%d %H:%M", time.localtime(e.used))
        label, precision = e.about.get("label", "unreadable"), e.about.get("precision", "")
        about = printable(f"{label}  {shape} {precision}")
        left = f"  {human_bytes(e.leftover)} left by a killed process" if e.leftover else ""
        click.echo(f"{e.folder.name[:12]}  {human_bytes(e.bytes):>8}  {used}  {about}{left}")
    click.echo(f"{human_bytes(sum(e.bytes for e in there))} in {len(there)} stores under {folder}")


@command.command("verify")
@click.option("--remove", "removes", is_flag=True, help="Remove damaged files; they are recomputed when needed.")
@folder_option
@json_option
def verify_command(removes: bool, cache_dir: Path | None, as_json: bool) -> None:
    """Read every stored byte and check it against its digest; exit with code 4 if anything is damaged."""
    from frostline.files import default_folder
    from frostline.store.shards import check, entries
    from frostline.terminal import human_bytes

    folder = cache_dir or default_folder()
    checked = [check(entry.folder) for entry in entries(folder)]
    damaged = [pair for health in checked for pair in health.damaged]
    ignored = [pair for health in checked for pair in health.ignored]
    for file, _ in damaged if removes else ():
        file.unlink(missing_ok=True)
    intact, size = sum(health.intact for health in checked), sum(health.bytes for health in checked)
    if as_json:
        lists = {"damaged": damaged, "ignored": ignored}
        files = {name: [{"file": str(file), "reason": why} for file, why in each] for name, each in lists.items()}
        print_json({"intact": intact, "bytes": size, **files, "removed": len(damaged) if removes else 0})
    else:
        for word, pairs in (("damaged", damaged), ("ignored", ignored)):
            for file, why in pairs:
                click.echo(f"{word}: {file} ({why})")
        click.echo(f"{intact} shards are intact, {human_bytes(size)} in {len(checked)} stores under {folder}")
    if damaged:
        done = "removed" if removes else "remove them with: frostline cache verify --remove"
        click.echo(f"{len(damaged)} damaged: {done}", err=True)
        sys.exit(4)


@command.command("prune")
@click.option("--to", "target", default="20GB", show_default=True, help="Maximum size of the remaining stores.")
@folder_option
def prune_command(target: str, cache_dir: Path | None) -> None:
    """Remove the least recently used stores until the rest is small enough, and what killed processes left."""
    from frostline.files import default_folder
    from frostline.store.shards import prune
    from frostline.values import parse_bytes

    _say_removed(*prune(cache_dir or default_folder(), parse_bytes(target)))


@command.command("clear")
@folder_option
def clear(cache_dir: Path | None) -> None:
    """Remove all stored activations, and the remembered file digests and engine timings."""
    from frostline.data.digests import MEMORY
    from frostline.engines.choice import REMEMBERED
    from frostline.files import default_folder
    from frostline.store.shards import entries, remove, remove_leftovers

    folder = cache_dir or default_folder()
    remove_leftovers(folder)
    there = entries(folder)
    for e in there:
        remove(e)
    for name in (MEMORY, REMEMBERED):
        (folder / name).unlink(missing_ok=True)
    _say_removed(len(there), 0)


def _say_removed(count: int, left: int) -> None:
    from frostline.terminal import human_bytes

    click.echo(f"removed {count} store{'s' * (count != 1)}, {human_bytes(left)} left")
