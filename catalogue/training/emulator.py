"""Spectra of giants from the neural emulators in the PyPI package ``bossbrain``.

The package's weights are pickles of classes that need a further package. They are read here with an unpickler that
knows tensors, arrays and containers and makes inert records of everything else, so that nothing in the file can
run; ``bossbrain`` itself is never imported.
"""

from __future__ import annotations

import importlib.util
import io
import pickle
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

WAVELENGTH_AIR: NDArray[np.float64] = 3500.0 + 0.5 * np.arange(14001, dtype=np.float64)
"""Å in air: the emulators' own sampling."""

_PARTS = ("ann_22pars_3500-4200.pkl", "ann_22pars_4000-5000.pkl", "ann_22pars_4900-6000.pkl")
_SEAMS = ((4000.0, 4200.0), (4900.0, 5000.0))
"""Teff intervals, in K, in which two neighbouring emulators are both valid and are blended."""


class EmulatorError(Exception):
    """The emulator's weights are not installed or are not what this module reads."""


@dataclass(frozen=True)
class _Part:
    lowest: NDArray[np.float64]
    highest: NDArray[np.float64]
    weights: tuple[NDArray[np.float32], ...]


class GiantEmulator:
    """Continuum-normalised synthetic spectra at the emulators' own resolution.

    Parameters
    ----------
    directory : Path, optional
        Folder with the three weight files; by default that of the installed ``bossbrain``.

    Attributes
    ----------
    label_names : tuple of str
        22 labels: ``teff``, ``logg``, ``mh`` and abundances relative to metals (``cm`` is [C/M]).

    Raises
    ------
    EmulatorError
    """

    def __init__(self, directory: Path | None = None) -> None:
        directory = directory or _installed_directory()
        contents = [_read(directory / name) for name in _PARTS]
        self.label_names: tuple[str, ...] = tuple(contents[0]["label_names"])
        self._parts = [_part(content, directory / name) for content, name in zip(contents, _PARTS, strict=True)]

    def complete(self, columns: Mapping[str, NDArray[np.float64]]) -> NDArray[np.float64]:
        """Label matrix from named columns; abundances that are not named are solar (0).

        Raises
        ------
        ValueError
            For an unknown label name.
        """
        unknown = sorted(set(columns) - set(self.label_names))
        if unknown:
            raise ValueError(f"emulator labels are {', '.join(self.label_names)}; found {', '.join(unknown)}")
        rows = len(next(iter(columns.values())))
        matrix = np.zeros((rows, len(self.label_names)))
        for name, values in columns.items():
            matrix[:, self.label_names.index(name)] = values
        return matrix

    def spectra(self, labels: NDArray[np.float64]) -> NDArray[np.float32]:
        """Normalised flux of every star.

        Parameters
        ----------
        labels : ndarray of float64, shape (stars, 22)
            Values beyond an emulator's training range are moved to its edge.

        Returns
        -------
        ndarray of float32, shape (stars, 14001)
            At :data:`WAVELENGTH_AIR`.
        """
        teff = labels[:, 0]
        flux = np.zeros((len(labels), len(WAVELENGTH_AIR)), dtype=np.float32)
        cool = np.clip((_SEAMS[0][1] - teff) / (_SEAMS[0][1] - _SEAMS[0][0]), 0, 1)
        hot = np.clip((teff - _SEAMS[1][0]) / (_SEAMS[1][1] - _SEAMS[1][0]), 0, 1)
        for part, share in zip(self._parts, (cool, 1 - cool - hot, hot), strict=True):
            rows = np.flatnonzero(share > 0)
            if rows.size:
                flux[rows] += share[rows, None].astype(np.float32) * _evaluate(part, labels[rows])
        return flux

    def ranges(self) -> dict[str, tuple[float, float]]:
        """Interval of every label that every part covers (of Teff: that any part covers)."""
        low = np.max([part.lowest for part in self._parts], axis=0)
        high = np.min([part.highest for part in self._parts], axis=0)
        low[0], high[0] = self._parts[0].lowest[0], self._parts[-1].highest[0]
        bounds = zip(low.tolist(), high.tolist(), strict=True)
        return dict(zip(self.label_names, bounds, strict=True))


def air_to_vacuum(wavelength: NDArray[np.float64]) -> NDArray[np.float64]:
    """Vacuum wavelength in Å of an air wavelength in Å (Ciddor 1996 as inverted by N. Piskunov for VALD)."""
    s = (1e4 / wavelength) ** 2
    index = 1 + 8.336624212083e-5 + 2.408926869968e-2 / (130.1065924522 - s) + 1.599740894897e-4 / (38.92568793293 - s)
    return np.asarray(wavelength * index)


def _evaluate(part: _Part, labels: NDArray[np.float64]) -> NDArray[np.float32]:
    clipped = np.clip(labels, part.lowest, part.highest)
    x = ((clipped - part.lowest) / (part.highest - part.lowest) - 0.5).astype(np.float32)
    for layer in range(3):
        weight, bias = part.weights[2 * layer], part.weights[2 * layer + 1]
        x = x @ weight.T + bias
        if layer < 2:
            x = np.where(x > 0, x, np.float32(0.01) * x)
    return x


def _installed_directory() -> Path:
    found = importlib.util.find_spec("bossbrain")
    if found is None or found.origin is None:
        raise EmulatorError("simulating spectra needs the package bossbrain: pip install 'stellar-catalogue[simulate]'")
    return Path(found.origin).parent / "data"


def _part(content: dict[str, Any], path: Path) -> _Part:
    layers = content["model"]._modules["features"]._modules
    weights = []
    for name in ("0", "2", "4"):
        parameters = layers[name]._parameters
        weights += [parameters["weight"].detach().numpy(), parameters["bias"].detach().numpy()]
    if weights[4].shape[0] != len(WAVELENGTH_AIR):
        raise EmulatorError(f"{path}: expected {len(WAVELENGTH_AIR)} output pixels, found {weights[4].shape[0]}")
    return _Part(np.asarray(content["xmin"]), np.asarray(content["xmax"]), tuple(weights))


def _read(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as stream:
            return dict(vars(_RestrictedUnpickler(stream).load()))
    except OSError as error:
        raise EmulatorError(f"{path}: {error.strerror}") from error
    except (pickle.UnpicklingError, EOFError, TypeError) as error:
        raise EmulatorError(f"{path}: not the weights of an emulator: {error}") from error


class _Record:
    """Stands for an object of a class that is not needed."""

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)


def _filled_array(make: Any, arguments: Any, state: Any, _attributes: Any = None) -> Any:
    array = make(*arguments)
    array.__setstate__(state)
    return array


_KNOWN: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("torch._utils", "_rebuild_parameter"): lambda data, *_: data,
    ("torch._utils", "_rebuild_tensor_v2"): torch._utils._rebuild_tensor_v2,
    ("torch.storage", "_load_from_bytes"): lambda content: torch.load(io.BytesIO(content), weights_only=True),
    ("numpy", "dtype"): np.dtype,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy.core.multiarray", "scalar"): np._core.multiarray.scalar,  # type: ignore[attr-defined]
    ("numpy.core.multiarray", "_reconstruct"): np._core.multiarray._reconstruct,  # type: ignore[attr-defined]
    ("dill._dill", "_create_array"): _filled_array,
}
_INERT = {
    ("theborg.emulator", "Emulator"),
    ("theborg.emulator", "MultiEmulatorModel"),
    ("torch.nn.modules.container", "Sequential"),
    ("torch.nn.modules.linear", "Linear"),
    ("torch.nn.modules.activation", "LeakyReLU"),
}


class _RestrictedUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _KNOWN:
            return _KNOWN[module, name]
        if (module, name) in _INERT:
            return _Record
        raise pickle.UnpicklingError(f"refused to load {module}.{name}")
