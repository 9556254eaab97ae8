"""What every command needs: its arguments, its two streams, its exit codes, and how it refuses."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
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

    with refusing():
        try:
            configuration = load_run_configuration(path, overrides)
            return configuration, resolve_run(configuration)
        except ConfigurationError as error:
            refuse(error)


@contextmanager
def refusing() -> Iterator[None]:
    """Context in which what a command meets on disk ends it with a message and an exit code, not with a traceback."""
    from catalogue.pipeline.lock import RunLocked
    from catalogue.pipeline.manifest import ManifestError
    from catalogue.spectra.parent import ParentError
    from catalogue.spectra.store import StoreError

    try:
        yield
    except RunLocked as error:
        refuse(error, EXIT_LOCKED)
    except (ConfigurationError, ManifestError, ParentError) as error:
        refuse(error)
    except StoreError as error:
        refuse(f"{error}; `catalogue verify` tells what to remove", 1)
    except BrokenPipeError:
        raise  # the reader of a pipe has enough
    except OSError as error:
        reason = error.strerror or f"{type(error).__name__} {error}"
        refuse(f"{error.filename}: {reason}" if error.filename else reason, 1)
