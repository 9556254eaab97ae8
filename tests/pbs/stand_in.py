"""Commands in the place of those of PBS: jobs are processes of this machine. Run as ``stand_in.py qsub SCRIPT``.

As PBS does: a job starts in the home directory with a login's environment and PBS's own variables, its script is
copied when it is submitted, what it prints goes to files in the directories of ``-o`` and ``-e``, it is ended at its
walltime, ``qdel`` ends it, and ``qselect`` and ``qstat`` know only those that have not ended. What is not here: queues,
nodes, limits, waiting. The directory ``PBS_STAND_IN`` holds what is known of the jobs.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

SERVER = "stand-in"
KNOWN = {"-N", "-q", "-A", "-l", "-e", "-o"}
PATIENCE = 5.0  # between asking a job to end and ending it [s]


def state() -> Path:
    return Path(os.environ["PBS_STAND_IN"])


def directives(script: str) -> dict[str, list[str]]:
    """What the ``#PBS`` lines say, by option."""
    found: dict[str, list[str]] = {}
    for line in re.findall(r"^#PBS (.*)$", script, re.MULTILINE):
        option, _, value = line.partition(" ")
        if option not in KNOWN or not value.strip():
            sys.exit(f"qsub: illegal option in the script: {line}")
        found.setdefault(option, []).append(value.strip())
    return found


def qsub(path: str) -> None:
    script = Path(path).read_text()
    given = directives(script)
    if any(not Path(directory).is_dir() for option in ("-e", "-o") for directory in given.get(option, ())):
        sys.exit("qsub: no such directory for the job's output")
    number = 1
    while True:
        try:
            (state() / f"{number}.script").open("x").write(script)
            break
        except FileExistsError:
            number += 1
    (state() / f"{number}.queued").touch()
    subprocess.Popen(
        [sys.executable, __file__, "run", str(number)],
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    print(f"{number}.{SERVER}")


def environment(number: str, name: str) -> dict[str, str]:
    """Environment of a job: nothing of the process that submitted it but its own place here."""
    login = {key: os.environ[key] for key in ("HOME", "PATH", "USER", "LOGNAME", "LANG") if key in os.environ}
    return login | {
        "PBS_ENVIRONMENT": "PBS_BATCH",
        "PBS_JOBID": f"{number}.{SERVER}",
        "PBS_JOBNAME": name,
        "PBS_O_HOST": "localhost",
        "PBS_O_WORKDIR": str(Path.cwd()),
        "PBS_QUEUE": "workq",
    }


def seconds_of(requests: list[str]) -> float | None:
    for request in requests:
        if match := re.search(r"walltime=(?:(\d+):)?(\d+):(\d+)", request):
            hours, minutes, seconds = (int(field or 0) for field in match.groups())
            return (hours * 60.0 + minutes) * 60.0 + seconds
    return None


def run(number: str) -> None:
    """Run a job to its end; a process of its own."""
    script = state() / f"{number}.script"
    given = directives(script.read_text())
    name = given.get("-N", ["STDIN"])[0]
    out, err = (Path(given.get(option, [str(state())])[0]) / f"{name}.{kind}{number}" for option, kind in
                (("-o", "o"), ("-e", "e")))  # fmt: skip
    with out.open("wb") as output, err.open("wb") as errors:
        job = subprocess.Popen(
            ["/bin/sh", str(script)], stdin=subprocess.DEVNULL, stdout=output, stderr=errors,
            env=environment(number, name), cwd=Path.home(), start_new_session=True,
        )  # fmt: skip
        signal.signal(signal.SIGTERM, lambda *_: end(job))
        (state() / f"{number}.pid").write_text(str(os.getpid()))
        try:
            job.wait(seconds_of(given.get("-l", [])))
        except subprocess.TimeoutExpired:
            end(job)
    (state() / f"{number}.queued").unlink()
    (state() / f"{number}.ended").write_text(str(job.wait()))


def end(job: subprocess.Popen[bytes]) -> None:
    """End a job and its children, by force where asking does not help."""
    for order in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(job.pid, order)
        with contextlib.suppress(subprocess.TimeoutExpired):
            job.wait(PATIENCE)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(job.pid, signal.SIGKILL)


def qdel(identifier: str) -> None:
    number = identifier.partition(".")[0]
    pid = state() / f"{number}.pid"
    while (state() / f"{number}.queued").exists() and not pid.exists():
        time.sleep(0.02)
    if not (state() / f"{number}.queued").exists():
        sys.exit(f"qdel: Unknown Job Id {identifier}")
    with contextlib.suppress(ProcessLookupError):
        os.kill(int(pid.read_text()), signal.SIGTERM)


def listed() -> list[str]:
    return sorted((path.stem for path in state().glob("*.queued")), key=int)


def main() -> None:
    command, *arguments = sys.argv[1:]
    if command in ("qselect", "qstat"):
        print(*(f"{number}.{SERVER}" for number in listed()), sep="\n", end="\n" if listed() else "")
    else:
        {"qsub": qsub, "qdel": qdel, "run": run}[command](arguments[-1])


if __name__ == "__main__":
    main()
