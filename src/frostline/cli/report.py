from __future__ import annotations

import click

from frostline.cli.options import complete_run


@click.command("report", short_help="Write the page of a run or a comparison.")
@click.argument("run", shell_complete=complete_run)
def command(run: str) -> None:
    """Write report.html into RUN, one page to look at, and print its path.

    Every fit writes one, unless --no-report is set. The images are not needed any more. For a folder of
    `frostline compare` it writes comparison.html.
    """
    from frostline.verbs.report import make_report

    click.echo(str(make_report(run)))
