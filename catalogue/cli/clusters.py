"""The command about clusters: cluster script."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from catalogue.cli.terminal import refuse


def cluster_script(file: Annotated[Path, typer.Argument(help="cluster file (YAML)")]) -> None:
    """Print the batch job that a cluster file would submit, without submitting it."""
    from cluster import ClusterError, job_script

    try:
        typer.echo(job_script(file))
    except ClusterError as error:
        refuse(error)
