"""What a model has to offer. A new model is one file beside this one.

Nothing in this room knows Dask, Zarr or FITS: a model sees arrays and returns arrays.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from catalogue.models.bundle import Bundle, Description, Label
from catalogue.spectra.primitives import PixelGrid

if TYPE_CHECKING:  # torch takes a second to import, which a run with nothing to do does not have
    import torch
    from torch import Tensor, nn


@dataclass(frozen=True, slots=True)
class Output:
    """One per-row prediction column.

    Attributes
    ----------
    name : str
        Name in the predictions store (``age``, ``age_error``, ``z0``), as expressions can write it.
    dtype : str
        ``"float32"`` or ``"float64"``; ``NaN`` is missing. A class is a number too; a data model names it.
    unit : str
        FITS-standard unit string, empty if dimensionless.
    description : str

    Raises
    ------
    ValueError
        If the name is not one that expressions can write, or the dtype is another.
    """

    name: str
    dtype: str
    unit: str
    description: str

    def __post_init__(self) -> None:
        if not self.name.isidentifier():
            raise ValueError(f"output {self.name!r}: expected a name of letters, digits and underscores")
        if self.dtype not in ("float32", "float64"):
            raise ValueError(f"output {self.name!r}: expected dtype float32 or float64, found {self.dtype!r}")


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

    def take(self, rows: slice | NDArray[np.integer]) -> SpectraBatch:
        """Some rows, as a batch of their own."""
        columns = {name: values[rows] for name, values in self.columns.items()}
        return SpectraBatch(0, self.flux[rows], self.ivar[rows], self.mask[rows], self.usable[rows], columns)


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
        Granules worked on together on a GPU: a matter of speed and memory, and there of a result's last bits. On a
        CPU it changes nothing.
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


@dataclass(frozen=True, slots=True)
class PreparedSpectra:
    """Spectra in the units in which a network is trained, before noise is added and masks are drawn.

    Attributes
    ----------
    pixels : Tensor of float32, shape (rows, pixels)
        Standardised; 0, the mean of the training set, where bad.
    noise : Tensor of float32, shape (rows, pixels)
        Standard deviation of the noise in ``pixels``; 0 where bad.
    good : Tensor of bool, shape (rows, pixels)
    bad_fraction : Tensor of float32, shape (rows,)
        Fraction of pixels that are masked or without ivar; NaN without a redshift.
    usable : Tensor of bool, shape (rows,)
        Rows from which a prediction can be made.
    """

    pixels: Tensor
    noise: Tensor
    good: Tensor
    bad_fraction: Tensor
    usable: Tensor


class NetworkInputs(ABC):
    """What of a model's preprocessing was learnt from the training set, and how it is applied."""

    @property
    @abstractmethod
    def n_features(self) -> int:
        """Width of what :meth:`features` returns, the network's input."""

    @abstractmethod
    def on(self, device: torch.device) -> NetworkInputs:
        """The same inputs on a device."""

    @abstractmethod
    def prepare(self, spectra: SpectraBatch) -> PreparedSpectra:
        """Normalise and standardise spectra; the slow part, done once per spectrum."""

    @abstractmethod
    def features(self, pixels: Tensor, good: Tensor, noise: Tensor) -> Tensor:
        """Network input of prepared pixels and their noise, shape (rows, n_features).

        Cheap, so that training can call it anew for every draw of noise and masks.
        """

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """Contents of ``preprocessing`` in ``model.json``."""

    @abstractmethod
    def arrays(self) -> dict[str, NDArray[np.generic]]:
        """Arrays for ``weights.safetensors``, by name."""


@dataclass(frozen=True, slots=True)
class LabelDistribution:
    """What a network says about the labels of every row, in the network's label space.

    Attributes
    ----------
    mean : Tensor, shape (rows, labels)
    covariance : Tensor, shape (rows, labels, labels), or None
        Of the data part (noise in spectra and labels); None if the network has no such head.
    auxiliary : Tensor, shape (rows, parameters), or None
        Standardised stellar parameters, which are learnt for the sake of what they teach and not published.
    """

    mean: Tensor
    covariance: Tensor | None
    auxiliary: Tensor | None = None


@dataclass(frozen=True, slots=True)
class LabelScale:
    """The network's label space: ``(log10(label) − offset) / scale``, or without the logarithm.

    Attributes
    ----------
    logarithmic : bool
    offset, scale : tuple of float
        One per label.
    """

    logarithmic: bool
    offset: tuple[float, ...]
    scale: tuple[float, ...]

    @classmethod
    def fit(cls, labels: NDArray[np.floating], logarithmic: bool = True) -> LabelScale:
        """Offsets and scales that give the rows of ``labels`` (rows, labels) mean 0 and spread 1.

        Raises
        ------
        ValueError
            If a label is not finite, not positive (logarithmic), or the same in every row.
        """
        if not np.isfinite(labels).all() or (logarithmic and (labels <= 0).any()):
            kind = "finite and positive" if logarithmic else "finite"
            raise ValueError(f"labels must be {kind}; smallest is {np.nanmin(labels)}")
        values = np.log10(labels) if logarithmic else np.asarray(labels)
        spread = values.std(axis=0)
        if (spread == 0).any():
            raise ValueError(f"label {int(np.argmin(spread))} is the same in all {len(labels)} rows")
        return cls(logarithmic, tuple(map(float, values.mean(axis=0))), tuple(map(float, spread)))

    def to_network(self, labels: NDArray[np.floating]) -> NDArray[np.float64]:
        """Labels (rows, labels) in the network's space."""
        values = np.log10(labels) if self.logarithmic else np.asarray(labels, dtype=np.float64)
        return np.asarray((values - self.offset) / self.scale)

    def from_network(self, values: NDArray[np.floating]) -> NDArray[np.float64]:
        """Labels in their own units, from the network's space."""
        unscaled = np.asarray(values, dtype=np.float64) * self.scale + self.offset
        return np.asarray(10.0**unscaled if self.logarithmic else unscaled)

    def covariance_to_network(
        self, labels: NDArray[np.floating], covariance: NDArray[np.floating]
    ) -> NDArray[np.float64]:
        """Label covariances (rows, labels, labels), first order, in the network's space."""
        slope = 1.0 / np.asarray(self.scale) * np.ones_like(labels, dtype=np.float64)
        if self.logarithmic:
            slope = slope / (np.asarray(labels) * np.log(10.0))
        return np.asarray(covariance * slope[:, :, None] * slope[:, None, :])


@dataclass(frozen=True, slots=True)
class LabelledSpectra:
    """Spectra with what is known of their stars.

    Attributes
    ----------
    spectra : SpectraBatch
    labels, label_errors : ndarray of float64, shape (rows, labels)
        In the order of :attr:`Trainable.labels`.
    star : ndarray of str, shape (rows,)
        Identity of the star: spectra of one star share it.
    parameters : mapping of str to ndarray of float64, shape (rows,)
        Stellar parameters and abundances where they are known, as ``teff``.
    """

    spectra: SpectraBatch
    labels: NDArray[np.float64]
    label_errors: NDArray[np.float64]
    star: NDArray[np.str_]
    parameters: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Completion:
    """What a bundle gets after its network has been fitted.

    Attributes
    ----------
    architecture : mapping
        Further keys of ``architecture``.
    arrays : mapping of str to ndarray
        Further arrays of ``weights.safetensors``.
    """

    architecture: Mapping[str, Any] = field(default_factory=dict)
    arrays: Mapping[str, NDArray[np.generic]] = field(default_factory=dict)


class Trainable(ABC):
    """What a model offers so that it can be trained. Mixed into its :class:`Model` class.

    Training calls, in this order: :meth:`fit_inputs`, :meth:`fit_labels`, :meth:`network`, :meth:`start`, then for
    every step :meth:`loss` of ``network(inputs.features(pixels, good, noise))``, then :meth:`to_bundle`,
    :meth:`complete` with that bundle, :meth:`to_bundle` again with what it gave, and :meth:`calibrate` with that one
    and stars of which neither has seen any. With ``relearn`` all from :meth:`network` to :meth:`complete` comes a
    second time, with all stars, and the bundle gets the calibration of the first.

    Attributes
    ----------
    labels : tuple of Label
        Physical labels, in the order of the network's label space.
    learns_oscillations : bool
        Whether the network learns power spectra; :meth:`loss` then finds ``log_power`` and ``numax`` among the targets.
    learns_parameters : bool
        Whether ``architecture`` takes ``auxiliary``, a number of stellar parameters to be learnt beside the labels.
    novelty_limit : float or None
        Of the bundles, where the model has an output ``novelty``.
    """

    labels: ClassVar[tuple[Label, ...]]
    learns_oscillations: ClassVar[bool] = False
    novelty_limit: ClassVar[float | None] = None
    learns_parameters: ClassVar[bool] = False

    @classmethod
    @abstractmethod
    def fit_inputs(
        cls,
        spectra: SpectraBatch,
        grid: PixelGrid,
        preprocessing: Mapping[str, Any],
        seed: int,
        noiseless: SpectraBatch | None = None,
        redrawn: Iterable[SpectraBatch] = (),
    ) -> NetworkInputs:
        """Learn standardisation, components and the like from the training spectra.

        Parameters
        ----------
        spectra : SpectraBatch
        grid : PixelGrid
            The survey's.
        preprocessing : mapping
            Departures from the model's default settings; unknown keys are refused.
        seed : int
            For anything drawn at random.
        noiseless : SpectraBatch, optional
            The same spectra without noise, where a simulation knows them; a model may find its directions there.
        redrawn : iterable of SpectraBatch
            The same spectra with other noise, where they are simulated.

        Raises
        ------
        ValueError
            If a setting is unknown or there are too few usable spectra.
        """

    @classmethod
    def fit_labels(cls, labels: NDArray[np.floating]) -> LabelScale:
        """The network's label space, from the training labels (rows, labels)."""
        return LabelScale.fit(labels)

    @classmethod
    @abstractmethod
    def network(cls, architecture: Mapping[str, Any], n_features: int) -> nn.Module:
        """A freshly initialised network; its dropout layers are :class:`catalogue.models.dropout.Dropout`."""

    @classmethod
    def loss(cls, architecture: Mapping[str, Any], raw: Any, targets: Mapping[str, Tensor]) -> Tensor | None:
        """The model's own loss, or None for the one that the fit's settings name.

        Parameters
        ----------
        architecture : mapping
        raw : Tensor or tuple of Tensor
            What the network returned.
        targets : mapping
            ``mean`` (rows, labels) and ``covariance`` (rows, labels, labels) in the network's label space, and
            with :attr:`learns_oscillations` ``log_power`` (rows, frequencies) and ``numax`` (rows,) in μHz.
        """
        return None

    @classmethod
    def loss_outputs(cls, architecture: Mapping[str, Any], raw: Tensor) -> LabelDistribution:
        """Mean and data covariance in the network's label space, for models without a loss of their own."""
        raise NotImplementedError(f"{cls.__name__} has a loss of its own")

    @classmethod  # noqa: B027
    def start(cls, architecture: Mapping[str, Any], network: nn.Module, mean_labels: Tensor) -> None:
        """Let a new network answer with the mean labels of its training set; by default it is left as it is.

        Parameters
        ----------
        architecture : mapping
        network : Module
            Changed in place.
        mean_labels : Tensor, shape (labels,)
            In the network's label space.
        """

    @classmethod
    def complete(cls, architecture: Mapping[str, Any], bundle: Bundle, training: LabelledSpectra) -> Completion:
        """What is still to be learnt from the stars that the network has seen, as a forest; by default nothing.

        Parameters
        ----------
        architecture : mapping
        bundle : Bundle
            With the fitted network and without this.
        training : LabelledSpectra
        """
        return Completion()

    @classmethod
    def calibrate(cls, architecture: Mapping[str, Any], bundle: Bundle, held_out: LabelledSpectra) -> Completion:
        """What is to be learnt from stars that it has not seen, as factors on its errors; by default nothing.

        Parameters
        ----------
        architecture : mapping
        bundle : Bundle
            With what :meth:`complete` adds.
        held_out : LabelledSpectra
        """
        return Completion()

    @classmethod
    @abstractmethod
    def to_bundle(
        cls,
        path: Path,
        description: Description,
        inputs: NetworkInputs,
        network: nn.Module,
        label_scale: LabelScale,
        arrays: Mapping[str, NDArray[np.generic]] | None = None,
    ) -> Bundle:
        """Write a bundle.

        Parameters
        ----------
        path : Path
            Directory of the bundle.
        description : Description
            As far as training knows it; ``architecture`` as given to :meth:`network`, and what :meth:`complete` and
            :meth:`calibrate` add. The model fills in ``preprocessing``, ``labels`` and the label scale.
        inputs : NetworkInputs
        network : Module
        label_scale : LabelScale
        arrays : mapping, optional
            What :meth:`complete` and :meth:`calibrate` add.
        """
