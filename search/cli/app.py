"""The Typer application. A command's module is imported when the command is called, so that help answers at once."""

from __future__ import annotations

import importlib
import sys
from difflib import get_close_matches
from typing import Annotated, Any, NamedTuple

import typer
from typer.core import TyperGroup
from typer.main import get_command_from_info


def complain(sentence: str, code: int) -> int:
    """Say what is wrong in one line on stderr, and return the exit code."""
    print("splitpoint: " + " ".join(line.strip() for line in sentence.splitlines()), file=sys.stderr)
    return code


class Listed(NamedTuple):
    """A command in the list that ``splitpoint --help`` shows."""

    module: str
    summary: str
    """The first line of its docstring."""


COMMANDS = {
    "simulate": Listed("data", "Simulate raw k-space of knees in two or three contrasts."),
    "prepare": Listed("data", "Prepare raw k-space for training."),
    "inspect": Listed("data", "Say what prepared data hold, and draw a contact sheet."),
    "train": Listed("training", "Train one network, without a search."),
    "launch": Listed("searching", "Search a space; poor trials stop early."),
    "status": Listed("watching", "Say what runs where, how far it is, and when it will end."),
    "confirm": Listed("searching", "Retrain the leaders and the baselines over seeds."),
    "studies": Listed("reading", "List the studies in the runs folder or in a storage."),
    "leaderboard": Listed("reading", "Rank a study's trials; works while the search runs."),
    "noise": Listed("reading", "Say which layouts differ, and how much of it is chance."),
    "export": Listed("reading", "Export the confirmed best, or one trial, as a bundle."),
    "report": Listed("reading", "Report a study: tables and figures in the paper's form."),
    "test": Listed("testing", "Test a bundle on the test split, which nothing else opens."),
    "reconstruct": Listed("testing", "Run a bundle on raw files, and write images."),
    "clean": Listed("watching", "Free the checkpoints that a study does not need any more."),
}
"""The commands, in the order in which they are used."""


class LazyGroup(TyperGroup):
    """The commands of ``COMMANDS``, each imported when it is asked for."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Their names."""
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command of a name; None where there is none."""
        if cmd_name not in COMMANDS:
            return None
        importlib.import_module(f"search.cli.{COMMANDS[cmd_name].module}")
        (found,) = (one for one in app.registered_commands if _name(one) == cmd_name)
        return get_command_from_info(found, pretty_exceptions_short=False, rich_markup_mode=None)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Each with its summary."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, one.summary) for name, one in COMMANDS.items()])

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Name the nearest command if there is none of that name."""
        try:
            return super().resolve_command(ctx, args)
        except typer.TyperException as error:
            near = get_close_matches(args[0], COMMANDS, 1)
            if near and args[0] not in COMMANDS:
                error.message = f"{error.message.rstrip('.')}, the nearest is {near[0]}"
            raise


def _name(command: Any) -> str:
    return str(command.name or command.callback.__name__)


app = typer.Typer(
    name="splitpoint",
    cls=LazyGroup,
    pretty_exceptions_enable=False,
    suggest_commands=False,  # it knows those alone that were imported
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        from recon.version import code_version

        print(f"splitpoint {code_version()}")
        raise typer.Exit


@app.callback()
def splitpoint(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Find where a multi-task MR reconstruction network should split."""
