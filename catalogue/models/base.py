"""What a model has to offer. A new model is one file beside this one.

Nothing in this room knows Dask, Zarr or FITS: a model sees arrays and returns arrays.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from catalogue.models.bundle import Bundle

GRANULE_ROWS = 64
"""Rows of the fixed-shape micro-batches in which every model computes.

A granule starts at a multiple of this number of *catalogue* rows, so that a row meets the same
neighbours in the same matrix shapes whatever the chunk size, the number of workers or the order.
"""


@dataclass(frozen=True, slots=True)
class Output:
    """One per-row prediction column.

    Attributes
    ----------
    name : str
        Name in the predictions store (``age``, ``age_error``, ``z0``).
    dtype : str
        ``"float32"`` or ``"float64"`` for values; ``NaN`` is missing.
    unit : str
        FITS-standard unit string, empty if dimensionless.
    description : str
    """

    name: str
    dtype: str
    unit: str
    description: str


@dataclass(frozen=True, slots=True)
class SpectraBatch:
    """Rows of a spectra store, as they lie there.

    Attributes
    ----------
    first_row : int
        Catalogue row of element 0, a multiple of :data:`GRANULE_ROWS`.
    flux, ivar : ndarray of float32, shape (rows, pixels)
        Native survey pixels; ``ivar`` is 0 where there is no information.
    mask : ndarray of unsigned integers, shape (rows, pixels)
        Survey mask bits in the store's layout.
    usable : ndarray of bool, shape (rows,)
        Rows that hold a spectrum. Predictions of the other rows are NaN.
    columns : mapping of str to ndarray, shape (rows,)
        Per-row store columns, at least those named in :attr:`Model.inputs`.
    """

    first_row: int
    flux: NDArray[np.float32]
    ivar: NDArray[np.float32]
    mask: NDArray[np.unsignedinteger]
    usable: NDArray[np.bool_]
    columns: Mapping[str, NDArray[np.generic]]

    def __len__(self) -> int:
        return len(self.usable)


@dataclass(frozen=True, slots=True)
class InferenceSettings:
    """How predictions are made; all of it that can change a number is in the settings digest.

    Attributes
    ----------
    passes : int or None
        Dropout passes T; None takes the bundle's.
    seed : int or None
        Dropout seed; None takes the bundle's.
    device : str
        ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"cuda:N"``.
    granules : int
        Granules worked on together: a matter of speed and memory, never of results.
    """

    passes: int | None = None
    seed: int | None = None
    device: str = "auto"
    granules: int = 8


class Model(ABC):
    """A trained model bound to its bundle.

    Subclasses are registered in the ``catalogue.models`` entry-point group under :attr:`kind`.

    Attributes
    ----------
    kind : str
        Name of the architecture, as in ``model.json``.
    inference_version : int
        Raised whenever the code could give other numbers for the same bundle and spectra.
    inputs : tuple of str
        Per-row store columns that it needs beside the spectrum.
    """

    kind: ClassVar[str]
    inference_version: ClassVar[int]
    inputs: ClassVar[tuple[str, ...]]

    def __init__(self, bundle: Bundle) -> None:
        self.bundle = bundle

    @property
    @abstractmethod
    def outputs(self) -> tuple[Output, ...]:
        """Columns that :meth:`predict` returns, in their order."""

    @abstractmethod
    def predict(self, batch: SpectraBatch, settings: InferenceSettings) -> dict[str, NDArray[np.floating]]:
        """Predict every row of a batch.

        Parameters
        ----------
        batch : SpectraBatch
            Any number of rows; the last granule of a catalogue may be partial (the model pads).
        settings : InferenceSettings

        Returns
        -------
        dict of str to ndarray, shape (rows,)
            One array per entry of :attr:`outputs`, NaN where ``batch.usable`` is False.
            Nothing about a row depends on which other granules are in the batch.
        """
