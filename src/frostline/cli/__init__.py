"""The command line: one small file per verb, loaded when the verb is used, so that `--help` answers at once."""

from __future__ import annotations

import contextlib
import errno
import gc
import importlib
import io
import os
import signal
import sys
import threading
import warnings
from collections.abc import Iterator
from typing import Any

import click

from frostline import distributed
from frostline.errors import FrostlineError, MachineError, UsageError, lacks_memory, reason, unknown
from frostline.process import keep_freed_memory, limit_threads

VERBS = {
    "fit": "Train a classifier on labelled images.",
    "evaluate": "Measure a run's classifier on labelled images.",
    "predict": "Classify images with a run.",
    "init": "Write a commented config for fit.",
    "check": "Look for leaks, copies, wrong labels and other faults of a data set.",
    "report": "Write the page of a run or a comparison.",
    "compare": "Fit several backbones or plans and compare them.",
    "export": "Write a run's classifier as a file that runs without Frostline.",
    "serve": "Answer requests over HTTP with a run's classifier.",
    "plan": "Print the plan that a fit would run, to edit.",
    "features": "Fill the store with the activations of a data set.",
    "inspect": "Show the stages at which a backbone can be cut.",
    "backbones": "List all backbones.",
    "datasets": "List the data sets that have a name.",
    "cache": "Show or empty the store of activations.",
    "doctor": "Show versions, devices and the store.",
}
ALIASES = {"train": "fit", "val": "evaluate"}
INTERRUPTED, TERMINATED = 130, 143


class _Terminated(KeyboardInterrupt):
    """SIGTERM, which takes the same way out as Ctrl-C."""


@contextlib.contextmanager
def _reader_may_go() -> Iterator[None]:
    """A reader that closes the pipe early, as `| head` does, is no error; click would exit with 1."""
    try:
        yield
    except BrokenPipeError as error:
        raise click.exceptions.Exit(0) from error


class _Verbs(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command:  # noqa: ARG002
        verb = ALIASES.get(cmd_name, cmd_name)
        if verb not in VERBS:
            raise unknown("command", cmd_name, VERBS)
        command: click.Command = importlib.import_module(f"frostline.cli.{verb}").command
        return command

    def make_context(self, *args: Any, **extra: Any) -> click.Context:
        with _reader_may_go():
            return super().make_context(*args, **extra)

    def invoke(self, ctx: click.Context) -> Any:
        with _reader_may_go():
            result = super().invoke(ctx)
            if sys.stdout:  # None where it was closed
                sys.stdout.flush()  # here, where the error of a full disk is still reported
            return result

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        with formatter.section("Commands"):
            formatter.write_dl(list(VERBS.items()))


@click.group(cls=_Verbs, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
@click.version_option(package_name="frostline")
def frostline(debug: bool) -> None:
    """Transfer learning for image models: the frozen layers run only once.

    \b
    frostline fit photos/ --backbone torchvision:resnet50 --out runs/pets
    frostline predict runs/pets new/*.jpg
    """


def command() -> None:
    """The entry point of the shell: `main` in a process of its own, whose settings may be changed."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a terminal without some letters shows them as \xe9
    gc.set_threshold(100_000, 50, 100)  # imports create a million permanent objects, which slow garbage collection down
    keep_freed_memory()
    limit_threads()
    warnings.filterwarnings("ignore", module="PIL")  # remarks about odd metadata; real errors raise
    try:
        main()
    except SystemExit as end:
        for stream in filter(None, (sys.stdout, sys.stderr)):
            with contextlib.suppress(OSError, ValueError):  # the reader is gone
                stream.flush()
        os._exit(end.code if isinstance(end.code, int) else 0)  # torch's shutdown takes a second for nothing


def main(arguments: list[str] | None = None) -> Any:
    """Run the command line and end the process with its exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    debug = "--debug" in arguments
    arguments = [argument for argument in arguments if argument != "--debug"]
    _listen_for_sigterm()
    try:
        code = _in_each_process(arguments)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.ctx.get_help() if error.ctx else "", err=True)
        code = UsageError.exit_code
    except click.ClickException as error:
        code = _fail(error.format_message(), UsageError.exit_code)
    except (click.Abort, KeyboardInterrupt) as stop:
        code = TERMINATED if isinstance(stop.__cause__ or stop, _Terminated) else INTERRUPTED
    except FrostlineError as error:
        if debug:
            raise
        code = _fail(str(error), error.exit_code)
    except OSError as error:
        if debug:
            raise
        failed = UsageError if error.errno == errno.ENAMETOOLONG else MachineError
        code = _fail(f"{error.strerror or error}: {error.filename or 'no file named'}", failed.exit_code)
    except Exception as error:
        if debug:
            raise
        code = _fail_unexpectedly(error)
    sys.exit(code if isinstance(code, int) else 0)


def _in_each_process(arguments: list[str]) -> Any:
    """Run the command in rank 0 of torchrun's processes, while the others take part in what it trains."""
    launch = distributed.launched()
    if launch is None:
        return frostline.main(arguments, prog_name="frostline", standalone_mode=False)
    if launch.rank > 0:
        distributed.only_rank_0_is_stopped()
    group = distributed.join(launch.rank, launch.size, local_rank=launch.local_rank)
    try:
        if launch.rank > 0:
            from frostline.training.parallel import work

            return work(group)
        return frostline.main(arguments, prog_name="frostline", standalone_mode=False)
    finally:
        distributed.leave()


def _listen_for_sigterm() -> None:
    def terminate(*_: object) -> None:
        if distributed.on_the_way_out():
            return
        raise distributed.lost() or _Terminated

    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, terminate)


def _fail_unexpectedly(error: Exception) -> int:
    if lacks_memory(error):
        what = "end other programs, or give a smaller --batch-size or fewer --workers"
        return _fail(f"too little memory ({reason(error)}); {what}", MachineError.exit_code)
    return _fail(f"{type(error).__name__}: {error} (--debug shows where; please report it)", 1)


def _fail(message: str, code: int) -> int:
    from frostline.terminal import printable

    click.echo(f"frostline: {printable(' '.join(message.split()))}", err=True)
    return code
