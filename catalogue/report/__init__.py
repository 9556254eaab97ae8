"""The quality page of a catalogue: one self-contained ``report.html``.

The merge feeds a :class:`ReportCollector` block by block; what it keeps does not grow with the number of rows.
"""

from catalogue.report.collector import ReportCollector
from catalogue.report.context import Problem, ReportContext, StageTiming

__all__ = ["Problem", "ReportCollector", "ReportContext", "StageTiming"]
