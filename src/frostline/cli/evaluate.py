from __future__ import annotations

import click

from frostline.cli.options import json_option, print_json


@click.command("evaluate", short_help="Measure a run's classifier on labelled images.")
@click.argument("run")
@click.argument("data")
@click.option("--split", type=click.Choice(["train", "valid", "test", "all"]), help="Which images to measure.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:N or mps.")
@click.option("--download", is_flag=True, help="Let torchvision fetch a known data set that is not on this machine.")
@click.option("--quiet", is_flag=True, help="Print errors only.")
@json_option
def command(run: str, data: str, split: str | None, device: str, download: bool, quiet: bool, as_json: bool) -> None:
    """Measure RUN on DATA: accuracy with its 95 % interval, log-loss, and every class.

    All images of a plain folder are measured; of data with splits the test split, else validation. Classes are
    matched by name.
    """
    from frostline import terminal
    from frostline.data.unreadable import named
    from frostline.tasks.classwise import row_of
    from frostline.tasks.summary import in_words, summary
    from frostline.verbs.evaluate import evaluate

    with terminal.quiet(quiet):
        result = evaluate(run, data, split=split or "", device=device, download=download)
        unreadable = [(image["path"], image["error"]) for image in result["unreadable"]]
        if unreadable:
            terminal.say(f"{len(unreadable)} unreadable, skipped: {named(unreadable)}")
    if as_json:
        print_json(result)
        return
    click.echo(f"{result['split']}: {summary(result)}")
    width = max(len(terminal.printable(name)) for name in result["per_class"])
    measures = list(row_of(next(iter(result["per_class"].values()))))
    click.echo(f"{'class':<{width}}  {'n':>8}" + "".join(f"  {key:>9}" for key in measures))
    for name, measured in result["per_class"].items():
        cells = [f"{measured[key]:.4f}" if measured[key] is not None else "–" for key in measures]
        click.echo(
            f"{terminal.printable(name):<{width}}  {measured['n']:>8}" + "".join(f"  {cell:>9}" for cell in cells)
        )
    if "without_leaks" in result:
        click.echo(f"on images new to the run: {in_words(result['without_leaks'])}")
