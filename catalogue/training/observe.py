"""Labelled spectra as a network sees them: once as they are, and again and again with other noise."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from catalogue.models.base import NetworkInputs, PreparedSpectra
from catalogue.models.granules import map_granules
from catalogue.spectra.primitives import GRANULE_ROWS
from catalogue.training.dataset import TrainingSet, redrawn


@dataclass(frozen=True)
class Observed:
    """What of the spectra of a training set does not depend on the network, nor on who is learnt from.

    Attributes
    ----------
    inputs : NetworkInputs
    prepared : PreparedSpectra
        The spectra as they are.
    features : Tensor of float32, shape (rows, features)
        Network inputs of ``prepared``.
    draws : Tensor of float32, shape (draws, rows, features), or None
        Network inputs of the same stars observed with other noise, where a simulation knows the flux before noise.
    usable : ndarray of bool, shape (rows,)
        Rows usable as they are and in all draws.
    """

    inputs: NetworkInputs
    prepared: PreparedSpectra
    features: Tensor
    draws: Tensor | None
    usable: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.usable)

    def take(self, rows: NDArray[np.integer]) -> Observed:
        """Some rows."""
        index = torch.from_numpy(np.asarray(rows))
        prepared = PreparedSpectra(**{f.name: getattr(self.prepared, f.name)[index] for f in fields(PreparedSpectra)})
        draws = None if self.draws is None else self.draws[:, index]
        return Observed(self.inputs, prepared, self.features[index], draws, self.usable[rows])


def observe(inputs: NetworkInputs, data: TrainingSet, rows: NDArray[np.integer], draws: int, seed: int) -> Observed:
    """Take some rows, and ``draws`` observations of them with other noise, through the preprocessing.

    Every row gets the signal-to-noise ratios of others of ``rows``, see :func:`.dataset.redrawn`, and nothing else of
    them: no label is read, and the spectrum of no row tells of another's.

    Parameters
    ----------
    inputs : NetworkInputs
        On the CPU.
    data : TrainingSet
    rows : ndarray of int
    draws, seed : int

    Returns
    -------
    Observed
        Of ``len(rows)`` rows; the same bits on any number of threads.
    """
    prepared = inputs.prepare(data.spectra.take(rows))
    features, usable = _features(inputs, prepared), prepared.usable.numpy().copy()
    found = []
    for spectra in redrawn(data, rows, draws, seed):
        drawn = inputs.prepare(spectra)
        usable &= drawn.usable.numpy()
        found.append(_features(inputs, drawn))
    return Observed(inputs, prepared, features, torch.stack(found) if found else None, usable)


def _features(inputs: NetworkInputs, prepared: PreparedSpectra) -> Tensor:
    """Network inputs of prepared spectra, granule by granule on all threads."""

    def granule(index: int) -> Tensor:
        rows = slice(index * GRANULE_ROWS, (index + 1) * GRANULE_ROWS)
        with torch.no_grad():
            return inputs.features(prepared.pixels[rows], prepared.good[rows], prepared.noise[rows])

    return torch.cat(map_granules(granule, max(1, -(-len(prepared.usable) // GRANULE_ROWS))))
