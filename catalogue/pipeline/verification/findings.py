"""What a verification says."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is not what the run wrote.

    Attributes
    ----------
    file : str
        Path relative to the run's directory.
    reason : str
        Expected and found.
    rows : (int, int) or None
        First and last catalogue row that it concerns; None if it concerns no rows, or all.
    remove : tuple of str
        Paths relative to the run's directory; without them, the next build makes the file again.
    """

    file: str
    reason: str
    rows: tuple[int, int] | None = None
    remove: tuple[str, ...] = ()

    def __str__(self) -> str:
        rows = "" if self.rows is None else f", rows {self.rows[0]} to {self.rows[1]}"
        return f"{self.file}{rows}: {self.reason}"


@dataclass(frozen=True, slots=True)
class Check:
    """One line of a verification.

    Attributes
    ----------
    name : str
    checked : int
        Files, or rows, that were compared with something.
    not_recorded : int
        Files of which an earlier release wrote down no digest.
    findings : tuple of Finding
    note : str
    """

    name: str
    checked: int
    not_recorded: int = 0
    findings: tuple[Finding, ...] = ()
    note: str = ""


@dataclass
class Verification:
    """All checks of a run.

    Attributes
    ----------
    checks : list of Check
    to_do : bool
        Whether a build would find something to do; what is not up to date was compared with its own record only.
    """

    checks: list[Check] = field(default_factory=list)
    to_do: bool = False

    @property
    def findings(self) -> list[Finding]:
        """Findings of all checks."""
        return [finding for check in self.checks for finding in check.findings]

    @property
    def removable(self) -> list[str]:
        """Everything without which the next build repairs the run, sorted."""
        return sorted({path for finding in self.findings for path in finding.remove})


@dataclass
class Tally:
    """A check while it is being made."""

    name: str
    checked: int = 0
    not_recorded: int = 0
    findings: list[Finding] = field(default_factory=list)

    def add(self, findings: Iterable[Finding]) -> None:
        """Append findings."""
        self.findings.extend(findings)

    def check(self, note: str = "") -> Check:
        """The finished check."""
        return Check(self.name, self.checked, self.not_recorded, tuple(self.findings), note)
