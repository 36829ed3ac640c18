from __future__ import annotations

import click

from frostline.cli.options import complete_run


@click.command("report", short_help="Write the page of a run or a comparison.")
@click.argument("run", shell_complete=complete_run)
def command(run: str) -> None:
    """Write report.html into RUN, one page to look at, and print its path.

    Every fit leaves one, unless --no-report is given. The images need not be there any more. Of a folder that
    `frostline compare` made it is comparison.html.
    """
    from frostline.verbs.report import make_report

    click.echo(str(make_report(run)))
