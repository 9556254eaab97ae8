"""What differs between two catalogues: columns, flags, and how far ages and masses moved."""

from __future__ import annotations

from catalogue.difference.compare import compare
from catalogue.difference.difference import Difference

__all__ = ["Difference", "compare"]
