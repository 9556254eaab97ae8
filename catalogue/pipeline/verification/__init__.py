"""Verification of a run: everything on disk against its digests, and a sample of rows made again from the raw files."""

from __future__ import annotations

from catalogue.pipeline.verification.findings import Check, Finding, Verification
from catalogue.pipeline.verification.verify import NothingToVerify, verify

__all__ = ["Check", "Finding", "NothingToVerify", "Verification", "verify"]
