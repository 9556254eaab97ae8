"""A model bundle: a directory with ``model.json`` and ``weights.safetensors``.

Loading never unpickles anything; a directory that holds a pickle is refused.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError
from safetensors.numpy import load as load_safetensors
from safetensors.numpy import save as save_safetensors

SHIPPED = Path(__file__).parent / "shipped"
DESCRIPTION = "model.json"
WEIGHTS = "weights.safetensors"
_PICKLE_SUFFIXES = {".pkl", ".pickle", ".pt", ".pth", ".ckpt", ".joblib", ".npy", ".npz", ".bin"}


class BundleError(Exception):
    """A bundle that cannot be trusted or used; the message names the file and the reason."""


class Label(BaseModel):
    """One predicted quantity of a bundle."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    name: str
    unit: str = ""
    description: str = ""


class Description(BaseModel):
    """Contents of ``model.json``.

    ``domain`` maps a per-row column (``teff``, ``logg``, ``feh``) to the closed interval that the
    training set covers; ``novelty_limit`` is the value of the model's ``novelty`` output above
    which a spectrum counts as unlike the training set. ``architecture`` and ``preprocessing`` belong to
    the model's own file.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    format: int = 1
    kind: str
    name: str
    version: str
    survey: str
    grid: str
    labels: tuple[Label, ...]
    architecture: dict[str, Any] = Field(default_factory=dict)
    preprocessing: dict[str, Any] = Field(default_factory=dict)
    passes: int = Field(default=100, ge=2)
    seed: int = 0
    domain: dict[str, tuple[float, float]] = Field(default_factory=dict)
    novelty_limit: float | None = None
    training: dict[str, Any] = Field(default_factory=dict)
    metrics: dict[str, Any] = Field(default_factory=dict)
    citation: str = ""
    licence: str = ""
    notes: str = ""


@dataclass(frozen=True)
class Bundle:
    """A loaded bundle.

    Attributes
    ----------
    path : Path
    description : Description
    weights : dict of str to ndarray
        Network weights under the names of the module's ``state_dict`` and any other array that
        the model needs (PCA components, pixel statistics, calibration).
    digest : str
        SHA-256, hexadecimal, over both files.
    """

    path: Path
    description: Description
    weights: dict[str, NDArray[np.generic]]
    digest: str

    @property
    def kind(self) -> str:
        """Architecture name."""
        return self.description.kind


def bundle_digest(description: bytes, weights: bytes) -> str:
    """SHA-256 over both files of a bundle, each preceded by its length."""
    digest = hashlib.sha256()
    for content in (description, weights):
        digest.update(len(content).to_bytes(8, "little"))
        digest.update(content)
    return digest.hexdigest()


def find_bundle(name: str, relative_to: Path) -> Path:
    """Directory of a bundle given by shipped name or by path.

    Raises
    ------
    BundleError
        If neither exists, naming the shipped bundles.
    """
    directory = (relative_to / Path(name).expanduser()).resolve()
    if directory.is_dir():
        return directory
    if (SHIPPED / name / DESCRIPTION).is_file():
        return SHIPPED / name
    shipped = sorted(entry.parent.name for entry in SHIPPED.glob(f"*/{DESCRIPTION}"))
    raise BundleError(f"no bundle {name!r}: no directory {directory}, and shipped are {', '.join(shipped)}")


def load_bundle(path: Path) -> Bundle:
    """Read and check a bundle.

    Raises
    ------
    BundleError
        If a file is missing, damaged or of an unknown format, or the directory holds a pickle.
    """
    for entry in sorted(path.iterdir()) if path.is_dir() else []:
        if entry.suffix.lower() in _PICKLE_SUFFIXES:
            raise BundleError(f"{entry}: refused, a bundle holds {DESCRIPTION} and {WEIGHTS} and no pickle")
    contents = {}
    for name in (DESCRIPTION, WEIGHTS):
        try:
            contents[name] = (path / name).read_bytes()
        except OSError as error:
            raise BundleError(f"{path / name}: {error.strerror}") from error
    try:
        description = Description.model_validate_json(contents[DESCRIPTION])
    except ValidationError as error:
        raise BundleError(f"{path / DESCRIPTION}: {error}") from error
    if description.format != 1:
        raise BundleError(f"{path / DESCRIPTION}: expected format 1, found {description.format}")
    try:
        weights = load_safetensors(contents[WEIGHTS])
    except SafetensorError as error:
        raise BundleError(f"{path / WEIGHTS}: not a safetensors file: {error}") from error
    digest = bundle_digest(contents[DESCRIPTION], contents[WEIGHTS])
    recorded = path / "SHA256"
    if recorded.is_file() and (expected := recorded.read_text().strip()) != digest:
        raise BundleError(f"{path}: damaged, its files have digest {digest[:12]}, SHA256 says {expected[:12]}")
    return Bundle(path, description, weights, digest)


def save_bundle(path: Path, description: Description, weights: dict[str, NDArray[np.generic]]) -> Bundle:
    """Write a bundle and read it back; the ``SHA256`` file lets any later damage be found."""
    path.mkdir(parents=True, exist_ok=True)
    text = json.dumps(description.model_dump(mode="json"), indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    blob = save_safetensors({key: np.ascontiguousarray(value) for key, value in sorted(weights.items())})
    for name, content in ((DESCRIPTION, text.encode()), (WEIGHTS, blob)):
        partial = path / f"{name}.partial"
        partial.write_bytes(content)
        partial.replace(path / name)
    (path / "SHA256").write_text(bundle_digest(text.encode(), blob) + "\n")
    return load_bundle(path)
