"""Commands about model bundles: models import-astronn, list, verify."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from catalogue.cli.terminal import console, refuse


def models_import_astronn(
    directory: Annotated[Path, typer.Argument(help="astroNN model directory")],
    out: Annotated[Path, typer.Argument(help="directory of the new bundle")],
    continuum_pixels: Annotated[
        Path | None, typer.Option(help="continuum pixels: a list of numbers, or astroNN's .npy")
    ] = None,
    labels: Annotated[str | None, typer.Option(help="the network's labels in their order, as age,mass")] = None,
    age_linear: Annotated[
        tuple[float, float] | None, typer.Option(help="intercept and slope of the linear correction of ages")
    ] = None,
) -> None:
    """Turn an astroNN model directory (ApogeeBCNN, ApokascEncoderDecoder) into a bundle."""
    from catalogue.models import BundleError
    from catalogue.models.keras_import import import_astronn

    try:
        names = labels.split(",") if labels else None
        bundle = import_astronn(directory, out, continuum_pixels=continuum_pixels, labels=names, age_linear=age_linear)
    except BundleError as error:
        refuse(error)
    console.print(f"{out}: {bundle.description.name}, kind {bundle.kind}, digest {bundle.digest}", highlight=False)


def models_list() -> None:
    """List the model kinds and the shipped bundles."""
    from catalogue.models import load_bundle, model_kinds
    from catalogue.models.bundle import SHIPPED

    console.print(f"kinds: {', '.join(model_kinds())}")
    for path in sorted(SHIPPED.glob("*/model.json")):
        bundle = load_bundle(path.parent)
        description = bundle.description
        console.print(
            f"{description.name} {description.version}  kind {description.kind}  survey {description.survey}"
            f"  digest {bundle.digest[:12]}",
            highlight=False,
        )


def models_verify(bundle: Annotated[str, typer.Argument(help="shipped name or directory")]) -> None:
    """Check that a bundle is whole, holds no pickle and can be bound to its model."""
    from catalogue.models import BundleError, find_bundle, load_model

    try:
        model = load_model(find_bundle(bundle, Path.cwd()))
    except BundleError as error:
        refuse(error, 1)
    console.print(f"{bundle}: good, digest {model.bundle.digest}, {len(model.outputs)} outputs", highlight=False)
