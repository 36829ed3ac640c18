from __future__ import annotations

from typing import Any

import click

from frostline.cli.options import complete_data, complete_run, flags_of, json_option, print_json
from frostline.errors import UsageError
from frostline.fitting.options import Options

EXAMPLES = """
\b
Examples:
  frostline evaluate runs/pets more_photos/
  frostline evaluate runs/pets photos/ --split test
  frostline evaluate runs/small runs/large photos/
"""


@click.command("evaluate", short_help="Measure a run's classifier on labelled images.", epilog=EXAMPLES)
@click.argument("runs", nargs=-1, required=True, metavar="RUN [RUN]", shell_complete=complete_run)
@click.argument("data", shell_complete=complete_data)
@click.option("--split", type=click.Choice(["train", "valid", "test", "all"]), help="Which images to measure.")
@click.option("--group", help="Which images belong together: a column of the manifest, or names for series of files.")
@flags_of(Options, only=("path_column", "label_column", "images"))
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:N or mps.")
@click.option("--download", is_flag=True, help="Let torchvision download a known data set that is not on this machine.")
@click.option("--quiet", is_flag=True, help="Print only errors.")
@json_option
def command(
    runs: tuple[str, ...],
    data: str,
    split: str | None,
    group: str | None,
    device: str,
    download: bool,
    quiet: bool,
    as_json: bool,
    **manifest: Any,
) -> None:
    """Measure RUN on DATA: accuracy with its 95 % interval, log-loss, and metrics per class.

    For a plain folder it measures all images; for data with splits the test split, else validation. It matches classes
    by name. With two runs it measures their difference, image by image.
    """
    from frostline import terminal
    from frostline.verbs.evaluate import evaluate, evaluate_paired

    if len(runs) > 2:
        raise UsageError(f"{len(runs)} runs are too many; give one to measure it, or two to compare them")
    options: dict[str, Any] = {
        "split": split or "",
        "group": group,
        "wanted": Options(data, **manifest).wanted,
        "device": device,
        "download": download,
    }
    with terminal.quiet(quiet):
        if len(runs) == 2:
            result = evaluate_paired(runs[0], runs[1], data, **options)
        else:
            result = evaluate(runs[0], data, **options)
        several = len(runs) > 1
        for run, one in zip(runs, result.get("runs", [result]), strict=True):
            _say_unreadable(one)
            _say_checks(one, f"{run}: " if several else "")
    if as_json:
        print_json(result)
    elif len(runs) == 2:
        _difference(runs, result)
    else:
        _table(result)


def _say_unreadable(result: dict[str, Any]) -> None:
    from frostline import terminal
    from frostline.data.unreadable import named

    unreadable = [(image["path"], image["error"]) for image in result["unreadable"]]
    if unreadable:
        terminal.say(f"skipped {len(unreadable)} unreadable: {named(unreadable)}")


def _say_checks(result: dict[str, Any], run: str) -> None:
    from frostline import terminal
    from frostline.checks.findings import in_words

    found = result["checks"] | {"leak": 0}  # a note already says that the run was trained on them
    if any(found.values()):
        terminal.say(f"{run}checks: {in_words(found)}")


def _table(result: dict[str, Any]) -> None:
    from frostline.tasks.classwise import row_of
    from frostline.tasks.summary import in_words, summary
    from frostline.terminal import printable

    click.echo(f"{result['split']}: {summary(result)}")
    width = max(len(printable(name)) for name in result["per_class"])
    measures = list(row_of(next(iter(result["per_class"].values()))))
    click.echo(
        f"{'class':<{width}}  {'n':>8}" + "".join(f"  {key:<{_width(key, result)}}" for key in measures).rstrip()
    )
    for name, measured in result["per_class"].items():
        cells = "".join(f"  {_cell(measured, key):<{_width(key, result)}}" for key in measures)
        click.echo(f"{printable(name):<{width}}  {measured['n']:>8}{cells}".rstrip())
    if "without_leaks" in result:
        click.echo(f"on images new to the run: {in_words(result['without_leaks'])}")


def _width(key: str, result: dict[str, Any]) -> int:
    return max(len(key), *(len(_cell(measured, key)) for measured in result["per_class"].values()))


def _cell(measured: dict[str, Any], key: str) -> str:
    """A metric of a class, with its interval if it has one."""
    if measured[key] is None:
        return "–"
    interval = measured.get(f"{key}_interval")
    return f"{measured[key]:.4f}" + (f" ({interval[0]:.4f} … {interval[1]:.4f})" if interval else "")


def _difference(runs: tuple[str, ...], result: dict[str, Any]) -> None:
    from frostline.tasks.summary import summary
    from frostline.terminal import printable

    for run, own in zip(runs, result["runs"], strict=True):
        click.echo(f"{printable(run)}: {own['split']}: {summary(own)}")
    paired = result["paired"]
    click.echo(f"first minus second, on the same {paired['n']} images: accuracy {_points(paired)}")
    low, high = paired["loss_interval"] or (None, None)
    interval = f" (95 %: {low:+.4f} … {high:+.4f})" if low is not None else ""
    click.echo(f"log-loss {paired['loss_difference']:+.4f}{interval}")
    rows = result.get("per_class", {})
    width = max((len(printable(name)) for name in rows), default=0)
    for name, row in rows.items():
        click.echo(f"  {printable(name):<{width}}  {row['n']:>6} images  {_points(row)}")


def _points(row: dict[str, Any]) -> str:
    """ "+1.3 points (95 %: -0.7 … +3.4), p = 0.5; only the first is right on 3, only the second on 1"."""
    from frostline.tasks.summary import in_points

    only = ""
    if row["only_first"] is not None:
        only = f"; only the first is right on {row['only_first']}, only the second on {row['only_second']}"
    return f"{in_points(row['difference'], row['low'], row['high'])}, p = {row['p_value']:.2g}{only}"
