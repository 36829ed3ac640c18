from __future__ import annotations

from typing import Any

import click

from frostline.cli.options import complete_data, flags_of, json_option, print_json
from frostline.fitting.options import Options

OPTIONS = (
    *("backbone", "weights", "image_size", "augment", "seed", "download"),
    *("group", "path_column", "label_column", "images", "skip_unreadable"),
    *("device", "on", "precision", "workers", "store", "cache_budget", "quiet"),
)
EXAMPLES = """
\b
Examples:
  frostline features photos/ --backbone torchvision:resnet50
  frostline features photos/ --views 4 --frostline layer4 --part 3/64
  frostline features photos/ --to photos.parquet
"""


@click.command("features", short_help="Fill the store with the activations of a data set.", epilog=EXAMPLES)
@click.argument("data", shell_complete=complete_data)
@click.option("--frostline", default="head", show_default=True, help="The lowest layer that would train.")
@click.option("--part", help="Compute one of several equal parts of the images, as in 3/64.")
@click.option("--to", type=click.Path(), help="Also write the rows to a .parquet file, for other tools.")
@click.option("--views", type=int, default=1, show_default=True, help="Views of each training image; 1: plain.")
@flags_of(Options, only=OPTIONS)
@json_option
def command(data: str, frostline: str, part: str | None, to: str | None, as_json: bool, **options: Any) -> None:
    """Compute what a backbone gives below a frostline for every image of DATA, once, and store it.

    A fit with the same backbone, frostline and views finds its activations. The command says first what it will cost.
    What is stored is not computed again, so it goes on after an interruption, and several may fill one store.
    """
    from frostline.terminal import human_bytes, human_seconds
    from frostline.verbs.features import features

    if str(options["store"]).startswith("memory://") and to is None:
        raise click.UsageError(f"{options['store']} is in the memory of this command, and would be gone at its end")
    result = features(data, frostline=frostline, part=part, to=to, **options)
    if as_json:
        print_json(result.as_json())
        return
    click.echo(
        f"{result.rows} rows of {result.images} images below {result.frostline}: {human_bytes(result.bytes)}, "
        f"{result.computed} computed in {human_seconds(result.seconds)}"
    )
    click.echo(f"store: {result.store}")
    if result.to:
        click.echo(f"rows: {result.to}")
