"""Survey spectra and a trained model in, a row-matched age-mass catalogue out."""

from __future__ import annotations

__version__ = "0.1.0"
