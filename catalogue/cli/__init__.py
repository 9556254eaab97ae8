"""The command ``catalogue``. Each command is a few lines around a public function.

What computes is imported inside the commands: torch and Dask take seconds, which ``--help`` and a run with nothing to
do do not have.
"""

from __future__ import annotations

from typing import Annotated

import typer

from catalogue import __version__
from catalogue.cli.bundles import models_import_astronn, models_list, models_verify
from catalogue.cli.clusters import cluster_script
from catalogue.cli.learning import evaluate, simulate, train
from catalogue.cli.results import diff, info
from catalogue.cli.running import build, plan, prune, status, verify
from catalogue.cli.terminal import console

__all__ = ["app"]

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Age-mass catalogues from survey spectra, one row for every row of the parent table.",
)
models_app = typer.Typer(no_args_is_help=True, help="List, check and import model bundles.")
cluster_app = typer.Typer(no_args_is_help=True, help="Look at what would be submitted to a cluster.")
app.add_typer(models_app, name="models")
app.add_typer(cluster_app, name="cluster")


@app.callback(invoke_without_command=True)
def _version(version: Annotated[bool, typer.Option("--version", help="print the version")] = False) -> None:
    if version:
        console.print(__version__)
        raise typer.Exit


for command in (build, status, plan, verify, prune, simulate, train, evaluate, info, diff):
    app.command()(command)
models_app.command("import-astronn")(models_import_astronn)
models_app.command("list")(models_list)
models_app.command("verify")(models_verify)
cluster_app.command("script")(cluster_script)
