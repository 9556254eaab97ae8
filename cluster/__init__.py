"""Where the work runs, and the driver that keeps a bounded window of it in flight."""

from __future__ import annotations
