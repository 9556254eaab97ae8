"""Progress of a build: a bar on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeRemainingColumn,
)

PLAIN_LINE_SECONDS = 30.0


class TerminalProgress:
    """A progress bar with rate and time left."""

    def __init__(self, console: Console) -> None:
        self.console = console

    def note(self, text: str) -> None:
        """Print a line."""
        self.console.print(text, highlight=False)

    @contextmanager
    def stage(self, name: str, rows: int, dashboard: str | None) -> Iterator[Callable[[int], None]]:
        """Show one stage."""
        if dashboard:
            self.console.print(f"dashboard: {dashboard}")
        columns = (
            SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
            TextColumn("rows, {task.fields[rate]}"), TimeRemainingColumn(),
        )  # fmt: skip
        began = time.monotonic()
        with Progress(*columns, console=self.console) as bar:
            task = bar.add_task(name, total=rows, rate="")

            def advance(finished: int) -> None:
                bar.advance(task, finished)
                rate = bar.tasks[0].completed / max(time.monotonic() - began, 1e-6)
                bar.update(task, rate=f"{rate:,.0f}/s")

            yield advance


class PlainProgress:
    """A line when a stage begins, one when it ends, and one every half minute."""

    def __init__(self, console: Console) -> None:
        self.console = console

    @contextmanager
    def stage(self, name: str, rows: int, dashboard: str | None) -> Iterator[Callable[[int], None]]:
        """Tell of one stage."""
        # Workers may be waited for in a queue for hours, during which nothing else would be told.
        self.note(f"{name}: {rows:,} rows to do" + (f", dashboard {dashboard}" if dashboard else ""))
        began = last = time.monotonic()
        done = 0

        def advance(finished: int) -> None:
            nonlocal done, last
            done += finished
            now = time.monotonic()
            if now - last > PLAIN_LINE_SECONDS:
                last = now
                rate = done / (now - began)
                self.note(f"{name}: {done:,} of {rows:,} rows, {rate:,.0f}/s, {(rows - done) / rate:,.0f} s left")

        yield advance
        self.note(f"{name}: {done:,} rows in {time.monotonic() - began:.1f} s")

    def note(self, text: str) -> None:
        """Print a line."""
        self.console.print(text, highlight=False)


def terminal_progress(console: Console) -> TerminalProgress | PlainProgress:
    """The progress that suits ``console``."""
    return TerminalProgress(console) if console.is_terminal else PlainProgress(console)
