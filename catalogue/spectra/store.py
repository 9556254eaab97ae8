"""Layout of ``spectra.zarr`` and of other row-aligned Zarr groups: creation, checks, block access."""

from __future__ import annotations
