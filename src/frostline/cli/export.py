from __future__ import annotations

from pathlib import Path

import click

from frostline.cli.options import complete_run, json_option, print_json
from frostline.export import FORMATS


@click.command("export", short_help="Write a run's classifier as a file that runs without Frostline.")
@click.argument("run", shell_complete=complete_run)
@click.option(
    "--format", "format_", type=click.Choice(FORMATS), default="onnx", show_default=True, help="Format of the file."
)
@click.option("--out", type=click.Path(path_type=Path), help="File or folder to write; by default in RUN/export/.")
@click.option("--int8", is_flag=True, help="Quantise the network to 8 bits (onnx, openvino).")
@click.option("--quiet", is_flag=True, help="Print only errors.")
@json_option
def command(run: str, format_: str, out: Path | None, int8: bool, quiet: bool, as_json: bool) -> None:
    """Write the classifier of RUN as a file that runs without Frostline.

    onnx and torch take decoded images of any size, uint8 (N, H, W, 3), and give probabilities (N, classes):
    preprocessing and temperature are inside. openvino takes pictures of the network's size. safetensors and pth are
    only the weights. hub is a folder for the Hugging Face Hub that timm loads, with a card; nothing is uploaded.

    The file is compared with the run before it is written, on synthetic pictures and on validation images. If a
    probability differs by more than 0.0001, nothing is written. With --int8 probabilities differ, and the accuracy
    may fall by one point at most.

    \b
    frostline export runs/pets
    frostline export runs/pets --format openvino --out pets.xml
    frostline export runs/pets --int8 --out small.onnx
    """
    from frostline.verbs.export import export_run

    result = export_run(run, format_, out, int8=int8, quiet=quiet)
    if as_json:
        print_json(result)
