from __future__ import annotations

import click

from frostline.cli.options import complete_run


@click.command("serve", short_help="Answer requests over HTTP with a run's classifier.")
@click.argument("run", shell_complete=complete_run)
@click.option(
    "--host", default="127.0.0.1", show_default=True, help="Address; any other than this machine's needs a token."
)
@click.option("--port", type=click.IntRange(0, 65_535), default=8000, show_default=True, help="0 takes a free one.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:N or mps.")
@click.option("--quiet", is_flag=True, help="Print only errors.")
def command(run: str, host: str, port: int, device: str, quiet: bool) -> None:
    """Answer requests over HTTP with the classifier of RUN, until Ctrl-C or SIGTERM.

    \b
    frostline serve runs/pets
    curl -F image=@cat.jpg http://127.0.0.1:8000/predict

    http://127.0.0.1:8000 is a page to try images on. Requests are answered as `frostline predict --json` prints. SIGHUP
    loads RUN anew.

    For another --host set FROSTLINE_TOKEN to a secret of 16 characters or more; clients send it as
    `Authorization: Bearer …`.
    """
    from frostline.verbs.serve import serve_run

    serve_run(run, host, port, device=device, quiet=quiet)
