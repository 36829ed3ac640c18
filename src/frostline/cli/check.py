from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from frostline.cli.options import complete_data, flags_of, json_option, print_json
from frostline.errors import DataError
from frostline.fitting.options import Options

if TYPE_CHECKING:
    from frostline.checks.findings import Checks

SHOWN = 5  # findings per kind
OPTIONS = (
    *("backbone", "weights", "image_size", "download", "group", "path_column", "label_column", "images"),
    *("seed", "device", "precision", "workers"),
    *("cache", "store", "cache_budget", "quiet"),
)


@click.command("check", short_help="Look for leaks, copies, wrong labels and other faults of a data set.")
@click.argument("data", shell_complete=complete_data)
@click.option("--fix", type=click.Path(path_type=Path), help="Write a manifest of the good images to this .csv file.")
@click.option("--strict", is_flag=True, help="Exit with code 3 if anything is found.")
@click.option("--format", "layout", type=click.Choice(["table", "csv", "json"]), default="table", show_default=True)
@flags_of(Options, only=OPTIONS)
@json_option
def command(data: str, fix: Path | None, strict: bool, layout: str, as_json: bool, **options: Any) -> None:
    """Check all images of DATA for faults that make results misleading.

    It finds the same image in two splits, even if saved again; one image with two labels; labels that all other images
    contradict; copies; unreadable files; images unlike all others; classes that are missing from a split, are rare, or
    differ only in case; frames of one series in several splits. It trains nothing and changes no image. Its features
    are cached: the next check reuses them, and so does `frostline fit --plan probe`.
    """
    from frostline.terminal import printable
    from frostline.verbs.check import check

    checks = check(data, fix=fix, **options)
    layout = "json" if as_json else layout
    if layout == "json":
        print_json(checks.as_json())
    elif layout == "csv":
        click.echo(checks.as_csv().encode("utf-8", "surrogateescape"), nl=False)
    else:
        click.echo("\n".join(printable(line) for line in _table(checks)))
    if strict and checks.findings:
        raise DataError(f"{len(checks.findings)} findings in {data}, and --strict allows none")


def _table(checks: Checks) -> list[str]:
    from frostline.checks.findings import KINDS

    lines = []
    for kind, count in checks.counts.items():
        if not count:
            continue
        lines.append(f"{count} {KINDS[kind][count > 1]}")
        found = checks.of(kind)
        lines += [
            f"  {finding.paths[0]}: {finding.detail}" if finding.paths else f"  {finding.detail}"
            for finding in found[:SHOWN]
        ]
        if count > SHOWN:
            lines.append(f"  and {count - SHOWN} more: --format csv shows all")
    return [*lines, f"{checks.n} images checked" + ("" if lines else ": nothing found")]
