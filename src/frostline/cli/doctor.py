from __future__ import annotations

import click

from frostline.cli.options import json_option, print_json


@click.command("doctor", short_help="Show versions, devices and the store.")
@json_option
def command(as_json: bool) -> None:
    """Show what Frostline finds on this machine: versions, extras, processor, device, precision, the store."""
    import torch

    from frostline.extras import lacking
    from frostline.files import default_folder
    from frostline.machine import find_machine
    from frostline.process import cpu_model, usable_cores
    from frostline.runs.run import environment
    from frostline.store.shards import stored_bytes
    from frostline.terminal import human_bytes

    machine = find_machine()
    about = environment()
    about.pop("command")
    about["extras"] = lacking()
    about["device"] = torch.cuda.get_device_name() if machine.device.type == "cuda" else machine.device.type
    about["processor"] = cpu_model()
    about["precision"], about["training_precision"] = machine.precision, machine.training_precision
    about["cores"], about["threads"] = usable_cores(), torch.get_num_threads()
    about["store"] = str(default_folder())
    about["stored_bytes"] = stored_bytes(default_folder())
    if as_json:
        print_json(about)
        return
    click.echo(f"python {about['python']} on {about['platform']}")
    for name, version in about["packages"].items():
        click.echo(f"  {name:<14} {version}")
    click.echo(_extras(about["extras"]))
    click.echo(f"processor {about['processor']}: {about['cores']} cores for this process, {about['threads']} threads")
    precisions = f"frozen parts in {about['precision']}, training in {about['training_precision']}"
    click.echo(f"device {about['device']}: {precisions}")
    click.echo(f"store {about['store']}: {human_bytes(about['stored_bytes'])}")


def _extras(lacking: dict[str, list[str]]) -> str:
    """ "extras export, serve; not installed: wandb, openvino (without nncf)"."""
    there = [extra for extra, missing in lacking.items() if not missing]
    others = [
        extra if missing == [extra] else f"{extra} (without {', '.join(missing)})"
        for extra, missing in lacking.items()
        if missing
    ]
    said = f"extras {', '.join(there) or 'none'}"
    return f"{said}; not installed: {', '.join(others)}" if others else said
