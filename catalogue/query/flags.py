"""What the bits and values of flag columns mean, from their CF attributes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import xarray
from numpy.typing import NDArray


@dataclass(frozen=True)
class FlagMeanings:
    """Meanings of one column.

    Attributes
    ----------
    values : dict of str to int
        Name to mask of its bit, or to its value.
    bits : bool
        Whether ``values`` are masks of bits.
    levels : dict of str to str
        Name of a bit to ``"info"``, ``"warn"`` or ``"bad"``; empty if there are no levels.
    """

    values: dict[str, int]
    bits: bool
    levels: dict[str, str] = field(default_factory=dict)

    def has(self, column: NDArray[Any], name: str) -> NDArray[np.bool_]:
        """Rows that have the bit or the value of a name."""
        if self.bits:
            return np.asarray((column & np.array(self.values[name], column.dtype)) != 0)
        return np.asarray(column == self.values[name])

    def mask_of_level(self, level: str) -> int:
        """All bits of a level together."""
        return sum(self.values[name] for name, of in self.levels.items() if of == level)


def flag_meanings(dataset: xarray.Dataset) -> dict[str, FlagMeanings]:
    """Meanings of every column along rows alone that has CF flag attributes; columns of bits first."""
    found = {}
    for name, variable in dataset.variables.items():
        attributes = variable.attrs
        names = str(attributes.get("flag_meanings", "")).split()
        for key, bits in (("flag_masks", True), ("flag_values", False)):
            if names and key in attributes and variable.ndim == 1:
                values = [int(value) for value in np.atleast_1d(attributes[key])]
                levels = str(attributes.get("flag_levels", "")).split()
                found[str(name)] = FlagMeanings(
                    dict(zip(names, values, strict=True)), bits, dict(zip(names, levels, strict=False))
                )
                break
    return dict(sorted(found.items(), key=lambda item: not item[1].bits))
