"""Where the real spectra lie, and the skip for machines that lack them."""

from __future__ import annotations

from pathlib import Path

import pytest

REAL = Path(__file__).resolve().parents[3] / "shared" / "data"

needs_real = pytest.mark.skipif(not REAL.is_dir(), reason="the real data files are not beside the checkout")
