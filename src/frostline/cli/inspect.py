from __future__ import annotations

from typing import Any

import click
from click.shell_completion import CompletionItem

from frostline.cli.options import COMPLETE, complete_data, complete_run, json_option, print_json

HEADER = ("stage", "output", "parameters", "size", "frozen", "MACs", "trains from here", "stored per image")
SIDES = "<<>>>>>>"
LAYER_HEADER = ("layer", "kind", "output", "parameters", "size", "output size", "MACs", "trains")
LAYER_SIDES = "<<<>>>>>"


def _complete(context: click.Context, parameter: click.Parameter, begun: str) -> list[CompletionItem[str]]:
    return [
        *complete_run(context, parameter, begun),
        *COMPLETE["backbone"](context, parameter, begun),
    ]


@click.command("inspect", short_help="Show the stages at which a network can be cut.")
@click.argument("backbone", metavar="BACKBONE|RUN", shell_complete=_complete)
@click.option(
    "--frostline",
    help="Stage or module path; everything below it is frozen. By default the head, or the run's own frostline.",
)
@click.option("--layers", is_flag=True, help="Also show every layer.")
@click.option("--weights", default="none", show_default=True, help="As in fit; the stages do not need any.")
@click.option("--image-size", type=int, help="Network input in pixels.")
@click.option(
    "--data",
    shell_complete=complete_data,
    help="Labelled images, as in fit: measure whether caching pays off for them on this machine.",
)
@click.option(
    "--plan",
    shell_complete=COMPLETE["plan"],
    default="auto",
    show_default=True,
    help="With --data: the phases, as in fit.",
)
@click.option("--store", "--cache-dir", "store", help="With --data: folder of the store, as in fit.")
@click.option("--cache-budget", default="20GB", show_default=True, help="With --data: maximum size of the store.")
@json_option
def command(backbone: str, as_json: bool, **options: Any) -> None:
    """Show the stages of a backbone, or of a run's network, from the image to the head, and the layers that train.

    Each stage can be the frostline: the table shows what trains from there up, and the cache per image in bf16.
    """
    from frostline.verbs.inspect import inspect

    about = inspect(backbone, **options)
    if as_json:
        print_json(about)
        return
    click.echo(f"{about['backbone']} · {about['image_size']} × {about['image_size']} pixels · {about['cuts']} cuts")
    if about["untraceable"]:
        click.echo(f"only two cuts, before the network and at its head: {about['untraceable']}")
    _table([HEADER, *map(_stage, about["stages"])], SIDES)
    if "layers" in about:
        click.echo()
        _table([LAYER_HEADER, *map(_layer, about["layers"])], LAYER_SIDES)
        click.echo()
    click.echo(_totals(about))
    for phase in about.get("storing", ()):
        _storing(phase)


def _storing(phase: dict[str, Any]) -> None:
    """The options for the activations of a phase, the chosen one marked."""
    from frostline.terminal import human_bytes

    rates = f"{1 / phase['decode']:.0f} images/s decoded"
    if phase["forward"]:
        rates += f", {1 / phase['forward']:.0f} images/s through the frozen part"
    click.echo(f"\nphase {phase['frostline']}: {rates}, {human_bytes(phase['write'])}/s written")
    lines: list[tuple[str, ...]] = [("stored", "per image", "all", "once", "two fits", "together", "")]
    for option in phase["options"]:
        mark = "chosen" if option["at"] == phase["stored_at"] else "" if option["fits"] else "exceeds the budget"
        size = (human_bytes(option["row_bytes"]), human_bytes(option["bytes"])) if option["at"] else ("", "")
        times = [f"{option[name]:.1f} s" for name in ("once", "again", "seconds")]
        location = (
            "nowhere" if option["at"] is None else "pixels" if option["at"] == "pixels" else f"below {option['at']}"
        )
        lines.append((location, *size, *times, mark))
    _table(lines, "<>>>>><")


def _table(lines: list[tuple[str, ...]], sides: str) -> None:
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        click.echo(
            "  ".join(f"{cell:{side}{width}}" for cell, side, width in zip(line, sides, widths, strict=True)).rstrip()
        )


def _stage(stage: dict[str, Any]) -> tuple[str, ...]:
    from frostline.terminal import human_bytes, human_count

    part = 0 < stage["trained_parameters"] < stage["parameters"]
    return (
        stage["name"],
        " × ".join(map(str, stage["output_shape"])),
        human_count(stage["parameters"]),
        human_bytes(stage["parameter_bytes"]),
        "part" if part else "yes" if stage["frozen"] else "no",
        "?" if stage["macs"] is None else human_count(stage["macs"]),
        human_count(stage["trains"]),
        human_bytes(stage["stored_bytes"]),
    )


def _layer(layer: dict[str, Any]) -> tuple[str, ...]:
    from frostline.terminal import human_bytes, human_count

    return (
        layer["name"],
        layer["kind"],
        " × ".join(map(str, layer["output_shape"])),
        human_count(layer["parameters"]),
        human_bytes(layer["parameter_bytes"]),
        human_bytes(layer["output_bytes"]),
        human_count(layer["macs"]),
        "yes" if layer["trained_parameters"] else "no" if layer["parameters"] else "",
    )


def _totals(about: dict[str, Any]) -> str:
    """ "trainable: layer4 … head, 17.0 M of 25.6 M parameters (…), 811.3 M of 4.1 G MACs per image", and the cache."""
    from frostline.terminal import human_bytes, human_count

    def share(of: str) -> str:
        return f"{human_count(about[f'trained_{of}'])} of {human_count(about[f'total_{of}'])}"

    top = about["stages"][-1]["name"]
    span = top if about["frostline"] == top else f"{about['frostline']} … {top}"
    macs = "" if about["total_macs"] is None else f", {share('macs')} MACs per image"
    once = f"the rest runs once: {human_bytes(about['stored_bytes'])} are cached per image"
    below = once if about["frozen_parameters"] else "nothing is frozen"
    size = f" ({human_bytes(about['parameter_bytes'])})"
    return f"trainable: {span}, {share('parameters')} parameters{size}{macs}\n{below}"
