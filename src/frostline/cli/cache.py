from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from frostline.cli.options import json_option, print_json

if TYPE_CHECKING:
    from frostline.remote import Remote
    from frostline.store.shards import Health

store_option = click.option("--store", "--cache-dir", "store", help="Folder of the store, or its URL.")
folder_option = click.option("--store", "--cache-dir", "store", help="Folder of the store.")


@click.group("cache", short_help="Show or empty the store of activations.")
def command() -> None:
    """The store of activations: the cached outputs of frozen layers, so that each is computed once."""


@command.command("ls")
@store_option
@json_option
def ls(store: str | None, as_json: bool) -> None:
    """List all stored activations, most recently used first; those at a URL in order of their keys."""
    from frostline.store.shards import cache_at, entries
    from frostline.terminal import human_bytes, printable

    cache = cache_at(store)
    _refuse_none(store)
    if cache.remote:
        _list_shared(cache.remote, as_json)
        return
    there = entries(cache.folder)
    if as_json:
        own = [{"key": e.folder.name, "bytes": e.bytes, "leftover": e.leftover, "used": e.used} for e in there]
        print_json([{**each, **e.about} for each, e in zip(own, there, strict=True)])
        return
    for e in there:
        used = time.strftime("%Y-%m-%d %H:%M", time.localtime(e.used))
        left = f"  {human_bytes(e.leftover)} left by a killed process" if e.leftover else ""
        click.echo(f"{e.folder.name[:12]}  {human_bytes(e.bytes):>8}  {used}  {printable(_about(e.about))}{left}")
    click.echo(f"{human_bytes(sum(e.bytes for e in there))} in {_stores(len(there))} under {cache.folder}")


def _list_shared(remote: Remote, as_json: bool) -> None:
    from frostline.store.sharing import shared_entries
    from frostline.terminal import human_bytes, printable

    there = shared_entries(remote)
    if as_json:
        print_json([{"key": e.name, "bytes": e.bytes, "shards": len(e.files), **e.about} for e in there])
        return
    for e in there:
        click.echo(f"{e.name[:12]}  {human_bytes(e.bytes):>8}  {len(e.files)} shards  {printable(_about(e.about))}")
    click.echo(f"{human_bytes(sum(e.bytes for e in there))} in {_stores(len(there))} under {remote}")


def _about(about: dict[str, object]) -> str:
    """What an entry says about its rows: the place, the shape and the precision."""
    shape = about.get("shape", [])
    sizes = " × ".join(map(str, shape if isinstance(shape, list) else []))
    return f"{about.get('label', 'unreadable')}  {sizes} {about.get('precision', '')}"


@command.command("verify")
@click.option("--remove", "removes", is_flag=True, help="Remove damaged files; they are recomputed when needed.")
@store_option
@json_option
def verify_command(removes: bool, store: str | None, as_json: bool) -> None:
    """Read every stored byte and check it against its digest; exit with code 4 if anything is damaged."""
    from frostline.remote import at, is_address
    from frostline.store.shards import check, entries
    from frostline.store.sharing import check_shared, shared_entries

    if is_address(store) and not removes:
        remote = at(str(store))
        checked = [check_shared(remote, entry) for entry in shared_entries(remote)]
        _tell_health(checked, str(remote), as_json, None)
        return
    _refuse_none(store)
    folder = _own_folder(store, "verify --remove")
    checked = [check(entry.folder) for entry in entries(folder)]
    for file, _ in [pair for health in checked for pair in health.damaged] if removes else ():
        file.unlink(missing_ok=True)
    _tell_health(checked, str(folder), as_json, removes)


def _tell_health(checked: Sequence[Health], where: str, as_json: bool, removes: bool | None) -> None:
    """Print what was found; exits with code 4 if anything is damaged. removes: None where nothing may be removed."""
    from frostline.terminal import human_bytes

    damaged = [pair for health in checked for pair in health.damaged]
    ignored = [pair for health in checked for pair in health.ignored]
    intact, size = sum(health.intact for health in checked), sum(health.bytes for health in checked)
    if as_json:
        lists = {"damaged": damaged, "ignored": ignored}
        files = {name: [{"file": str(file), "reason": why} for file, why in each] for name, each in lists.items()}
        print_json({"intact": intact, "bytes": size, **files, "removed": len(damaged) if removes else 0})
    else:
        for word, pairs in (("damaged", damaged), ("ignored", ignored)):
            for file, why in pairs:
                click.echo(f"{word}: {file} ({why})")
        click.echo(f"{intact} shards are intact, {human_bytes(size)} in {_stores(len(checked))} under {where}")
    if damaged:
        done = "removed" if removes else "remove them with: frostline cache verify --remove"
        done = "they are not used; remove them with the tools of the bucket" if removes is None else done
        click.echo(f"{len(damaged)} damaged: {done}", err=True)
        sys.exit(4)


@command.command("prune")
@click.option("--to", "target", default="20GB", show_default=True, help="Maximum size of the remaining stores.")
@folder_option
def prune_command(target: str, store: str | None) -> None:
    """Remove the least recently used stores until the rest is small enough, and what killed processes left."""
    from frostline.store.shards import prune
    from frostline.values import parse_bytes

    _say_removed(*prune(_own_folder(store, "prune"), parse_bytes(target)))


@command.command("clear")
@folder_option
def clear(store: str | None) -> None:
    """Remove all stored activations, and the remembered file digests and engine timings."""
    from frostline.data.digests import MEMORY
    from frostline.engines.choice import REMEMBERED
    from frostline.store.shards import entries, remove, remove_leftovers

    folder = _own_folder(store, "clear")
    remove_leftovers(folder)
    there = entries(folder)
    for e in there:
        remove(e)
    for name in (MEMORY, REMEMBERED):
        (folder / name).unlink(missing_ok=True)
    _say_removed(len(there), 0)


def _refuse_none(store: str | None) -> None:
    """Raises UsageError for a folder that was named and does not exist."""
    from frostline.errors import UsageError
    from frostline.remote import is_address

    if store and not is_address(store) and not Path(store).is_dir():
        raise UsageError(f"there is no store at {store}; frostline cache ls without --store shows that of this machine")


def _stores(count: int) -> str:
    return f"{count} store{'s' * (count != 1)}"


def _own_folder(store: str | None, verb: str) -> Path:
    """The folder of a store on this machine; raises UsageError for a URL."""
    from frostline.errors import UsageError
    from frostline.remote import at, is_address, local_folder

    if is_address(store):
        raise UsageError(
            f"cache {verb} removes nothing from a store that others share; leave out --store {at(str(store))} for that "
            "of this machine, or use the tools of the bucket"
        )
    return local_folder(store)


def _say_removed(count: int, left: int) -> None:
    from frostline.terminal import human_bytes

    click.echo(f"removed {count} store{'s' * (count != 1)}, {human_bytes(left)} left")
