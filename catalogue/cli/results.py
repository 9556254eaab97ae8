"""Commands about finished catalogues: info, diff."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from catalogue.cli.terminal import refuse


def info(
    file: Annotated[Path, typer.Argument(help="a catalogue file of a run, or provenance.json")],
    configuration: Annotated[bool, typer.Option("--configuration", help="print the configuration alone")] = False,
) -> None:
    """Print what made a file, and the configuration that makes it again."""
    from catalogue.pipeline.provenance import ProvenanceError, read_provenance
    from catalogue.query.formats import open_table
    from catalogue.query.table import TableError

    try:
        document = read_provenance(file)
    except ProvenanceError as error:
        try:
            header = open_table(file).attributes
        except (OSError, TableError):
            refuse(error)
        if configuration:
            refuse(f"{error}; the configuration is only there")
        typer.echo(f"{error}: what follows is of the file itself")
        for name, value in header.items():
            typer.echo(f"{name}: {value}")
        return
    activity = document["activity"]["activity:build"]
    if configuration:
        typer.echo(activity["configuration"], nl=False)
        return
    typer.echo(f"date: {activity['date']}")
    for name, facts in {**document["entity"], **document["agent"]}.items():
        typer.echo(f"{name}: {json.dumps(facts)}")
    typer.echo("# configuration")
    typer.echo(activity["configuration"])


def diff(
    first: Annotated[Path, typer.Argument(metavar="A", help="a catalogue: FITS, CSV, Parquet or Zarr")],
    second: Annotated[Path, typer.Argument(metavar="B", help="another one")],
    key: Annotated[str | None, typer.Option(help="column that identifies a row, where the rows do not match")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON instead of text")] = False,
    page: Annotated[Path | None, typer.Option(help="also write a page with plots")] = None,
) -> None:
    """Compare two catalogues: schema, values, statuses and flags, and how far ages and masses moved."""
    from catalogue.difference import compare
    from catalogue.query.table import TableError

    try:
        difference = compare(first, second, key=key)
    except (TableError, OSError, ValueError, KeyError) as error:
        refuse(error)
    typer.echo(difference.json() if as_json else difference.text())
    if page is not None:
        from catalogue.difference.page import write_page

        write_page(difference, page)
