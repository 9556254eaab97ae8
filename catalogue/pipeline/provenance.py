"""What made an output: header cards for the files, and a W3C-PROV-like JSON beside them."""

from __future__ import annotations

import datetime
import platform
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import catalogue
from catalogue.datamodels import DataModel
from catalogue.pipeline.manifest import Manifest
from catalogue.pipeline.records import DamagedFile, digest_of, read_json
from catalogue.pipeline.run import Run

PACKAGES = ("numpy", "torch", "zarr", "astropy", "dask", "distributed", "xarray", "pyarrow")


def run_date(manifest: Manifest) -> str:
    """The run's epoch as an ISO date in UTC."""
    moment = datetime.datetime.fromtimestamp(manifest.epoch, datetime.UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%S")


def header_cards(run: Run, product: DataModel, manifest: Manifest, complete: bool) -> dict[str, str]:
    """FITS keyword to value; the same for every format.

    Nothing here depends on where the run's directory is, how it was distributed, or how often it was interrupted.
    """
    cards = {
        "DATE": run_date(manifest),
        "CREATOR": f"stellar-catalogue {catalogue.__version__}",
        "PRODUCT": product.name,
        "PRODVER": str(product.version),
        "SURVEY": run.survey.name,
        "PARENT": run.configuration.parent.path.name,
        "PARENTDG": manifest.parent,
        "CONFDG": digest_of(run.semantics),
        "DMODELDG": product.digest,
        "COMPLETE": "yes" if complete else "no",
    }
    for number, (alias, kind) in enumerate(sorted(product.uses.items()), start=1):
        model = run.model_for(product, alias)
        description = model.bundle.description
        cards[f"MODEL{number}"] = f"{description.name} {description.version} ({kind})"
        cards[f"MODELDG{number}"] = model.bundle.digest
        cards[f"PASSES{number}"] = str(model.settings["passes"])
        cards[f"SEED{number}"] = str(model.settings["seed"])
    cards["PYTHON"] = platform.python_version()
    for package in PACKAGES:
        cards[package.upper()[:8]] = version(package)
    return cards


def provenance_document(
    run: Run, manifest: Manifest, spectra: str, configuration_text: str, files: Mapping[str, str | None]
) -> dict[str, Any]:
    """Entities, activity and agents of a run, in the vocabulary of W3C PROV.

    Parameters
    ----------
    run : Run
    manifest : Manifest
    spectra : str
        Digest of the spectra store's units; it depends on the chunking, which is why no catalogue file holds it.
    configuration_text : str
        YAML that makes this run again.
    files : mapping of str to str or None
        SHA-256 of the outputs by name; None for a directory.
    """
    models = {
        f"bundle:{model.bundle.description.name}": {
            "digest": model.bundle.digest,
            "kind": model.bundle.kind,
            "version": model.bundle.description.version,
            **model.settings,
        }
        for model in run.models
    }
    return {
        "entity": {
            f"parent:{run.configuration.parent.path.name}": {
                "digest": manifest.parent,
                "rows": manifest.n_rows,
            },
            "spectra": {"digest": spectra, "chunk_rows": manifest.chunk_rows, "wasDerivedFrom": "parent"},
            **models,
            **{f"product:{product.name}": {"data_model_digest": product.digest} for product in run.products},
            **{
                f"file:{name}": {"wasGeneratedBy": "activity:build", **({"sha256": digest} if digest else {})}
                for name, digest in files.items()
            },
        },
        "activity": {
            "activity:build": {
                "date": run_date(manifest),
                "used": [f"parent:{run.configuration.parent.path.name}", *models],
                "configuration": configuration_text,
                "configuration_digest": digest_of(run.semantics),
            }
        },
        "agent": {
            "software:stellar-catalogue": {
                "version": catalogue.__version__,
                "python": platform.python_version(),
                "packages": {package: version(package) for package in PACKAGES},
            }
        },
    }


class ProvenanceError(Exception):
    """A file whose provenance cannot be found."""


def read_provenance(file: Path) -> dict[str, Any]:
    """Provenance of a catalogue file, from ``provenance.json`` beside it.

    Raises
    ------
    ProvenanceError
        If there is none, or it does not list the file.
    """
    path = file if file.name == "provenance.json" else file.parent / "provenance.json"
    try:
        document: dict[str, Any] = read_json(path)
    except OSError as error:
        raise ProvenanceError(f"{path}: {error.strerror}") from error
    except DamagedFile as error:
        raise ProvenanceError(str(error)) from error
    if file.name != path.name and f"file:{file.name}" not in document["entity"]:
        raise ProvenanceError(f"{path}: expected an entry for {file.name}, found none")
    return document
