from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from frostline.cli.options import complete_data, flags_of
from frostline.files import refuse_overwriting, write_atomically
from frostline.fitting.options import Options
from frostline.settings import as_yaml

HEAD = """\
# Options for `frostline fit --config FILE`. Each option follows its description, commented out at its default: remove
# the "# " to set it. Flags on the command line of fit override this file.

"""
EXAMPLES = """
\b
Examples:
  frostline init
  frostline init pets.yaml --data photos/ --epochs 5
  frostline fit --config pets.yaml
"""


@click.command("init", short_help="Write a commented config for fit.", epilog=EXAMPLES)
@click.argument("file", default="frostline.yaml", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--data", default="photos/", show_default=True, help="As in fit.", shell_complete=complete_data)
@flags_of(Options, skip=("data",))
def command(file: Path, **options: Any) -> None:
    """Write FILE, a config with every option of fit, its description and its default.

    Flags of fit on this command line are set in it, uncommented. An existing file is never overwritten.
    """
    context = click.get_current_context()
    given = {n: v for n, v in options.items() if context.get_parameter_source(n) is not ParameterSource.DEFAULT}
    Options(**options)  # raises what fit would raise
    refuse_overwriting(file, "another name: frostline init FILE")
    plain = {name: list(value) if isinstance(value, tuple) else value for name, value in given.items()}
    text = HEAD + as_yaml(Options, {"data": options["data"], **plain})
    write_atomically(file, text.encode())
    click.echo(f"wrote {file}; next: frostline fit --config {file}")
