from __future__ import annotations

from typing import Any

import click

from frostline.cli.options import COMPLETE, complete_data, flags_of, json_option, print_json
from frostline.fitting.options import Options

FLAGS = (
    "plan", "epochs", "lr", "batch_size", "optimizer", "momentum", "weight_decay", "schedule", "clip", "mixup", "views",
    "augment", "image_size", "seed", "download",
)  # fmt: skip
EXAMPLES = """
\b
Examples:
  frostline plan torchvision:resnet50 > plan.yaml
  frostline fit photos/ --backbone torchvision:resnet50 --plan plan.yaml
"""


@click.command("plan", short_help="Print the plan that a fit would run, to edit.", epilog=EXAMPLES)
@click.argument("backbone", shell_complete=COMPLETE["backbone"])
@click.option(
    "--data", help="Labelled images, as in fit: their number decides views and epochs.", shell_complete=complete_data
)
@flags_of(Options, only=FLAGS)
@json_option
def command(backbone: str, data: str | None, as_json: bool, **options: Any) -> None:
    """Print the plan that `frostline fit` would run with BACKBONE, as YAML for --plan."""
    from frostline.plan import plan_as_yaml
    from frostline.verbs.plan import as_yaml, plan_and_flags

    phases, flags = plan_and_flags(backbone, data, **options)
    if as_json:
        print_json({"phases": plan_as_yaml(phases), **flags})
    else:
        click.echo(as_yaml(phases, backbone, **flags), nl=False)
