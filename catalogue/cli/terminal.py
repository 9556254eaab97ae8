"""What every command needs: its arguments, its two streams, its exit codes, and how it refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console

from catalogue.config import ConfigurationError, RunConfiguration, load_run_configuration

console = Console(soft_wrap=True)
errors = Console(stderr=True, soft_wrap=True)

Configuration = Annotated[Path, typer.Argument(metavar="CONFIG", help="run configuration (YAML)")]
Overrides = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="override any key")]

EXIT_REFUSED = 2
EXIT_INCOMPLETE = 3
EXIT_TO_DO = 4
EXIT_LOCKED = 5


def refuse(error: Exception | str, code: int = EXIT_REFUSED) -> NoReturn:
    """Say why on the error stream, and end with an exit code."""
    errors.print(f"catalogue: {error}", style="red", markup=False, highlight=False)
    raise typer.Exit(code)


def load_run(path: Path, overrides: list[str] | None) -> tuple[RunConfiguration, Any]:
    """Configuration and run of a file; refuses one that is wrong."""
    from catalogue.pipeline.run import resolve_run

    try:
        configuration = load_run_configuration(path, overrides)
        return configuration, resolve_run(configuration)
    except ConfigurationError as error:
        refuse(error)
