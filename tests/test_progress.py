"""What a build tells where nobody watches a terminal."""

from __future__ import annotations

import io

from rich.console import Console

from catalogue.progress import terminal_progress


def test_a_log_names_stage_rows_and_dashboard_before_the_first_worker_comes():
    log = io.StringIO()
    with terminal_progress(Console(file=log)).stage("ingest", 1200, "http://127.0.0.1:8787/status") as advance:
        told = " ".join(log.getvalue().split())
        assert told == "ingest: 1,200 rows to do, dashboard http://127.0.0.1:8787/status"
        advance(1200)
    assert "ingest: 1,200 rows in" in log.getvalue()
