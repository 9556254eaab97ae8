"""What a model promises, held against what it gives."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from catalogue.models.base import Model, SpectraBatch


def check_predictions(model: Model, batch: SpectraBatch, predictions: Mapping[str, NDArray[np.floating]]) -> None:
    """Refuse what a model may not give: a missing or unknown output, another length, a value without a spectrum.

    Raises
    ------
    ValueError
        Stating what was expected and found.
    """
    expected = [output.name for output in model.outputs]
    if sorted(predictions) != sorted(expected):
        raise ValueError(f"model kind {model.kind}: expected outputs {expected}, predict gave {list(predictions)}")
    for name, values in predictions.items():
        if np.shape(values) != (len(batch),):
            raise ValueError(
                f"model kind {model.kind}, output {name}: expected shape ({len(batch)},), found {np.shape(values)}"
            )
        invented = np.flatnonzero(~batch.usable & ~np.isnan(values))
        if len(invented):
            row = batch.first_row + int(invented[0])
            raise ValueError(
                f"model kind {model.kind}, output {name}: expected NaN in row {row}, which has no usable spectrum, "
                f"found {values[invented[0]]}"
            )
