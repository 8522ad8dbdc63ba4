"""Ctrl-C and SIGTERM, at any moment of any command: one line and exit code 130."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# what of a command runs, and where a signal comes in it: before any import, in an import, in work that closes something
MOMENTS = {
    "before": "os.kill(os.getpid(), signal.SIGINT)",
    "swallowed": "try:\n    os.kill(os.getpid(), signal.SIGINT)\nexcept BaseException:\n    pass\ntime.sleep(9)",
    "converted": "with exit_codes(), working():\n"
    "    try:\n        os.kill(os.getpid(), signal.SIGINT)\n"
    "    except KeyboardInterrupt as error:\n        raise ImportError('half imported') from error",
    "closing": "with exit_codes(), working():\n"
    "    try:\n        os.kill(os.getpid(), signal.SIGTERM)\n"
    "    finally:\n        print('closed')",
    "double": "with exit_codes(), working():\n"
    "    try:\n        os.kill(os.getpid(), signal.SIGINT)\n"
    "    finally:\n        os.kill(os.getpid(), signal.SIGINT)\n        print('closed')",
    "impatient": "with exit_codes(), working():\n"
    "    try:\n        os.kill(os.getpid(), signal.SIGINT)\n"
    "    finally:\n        time.sleep(1.1)\n        os.kill(os.getpid(), signal.SIGINT)\n        time.sleep(9)",
}
START = (
    "import os, signal, time\nfrom paredown.core import interrupt\ninterrupt.install()\n"
    "from paredown.core.interrupt import working\nfrom paredown.core.requests import exit_codes\n"
)


def environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(ROOT / "src")}


@pytest.mark.parametrize("moment", MOMENTS)
def test_one_line_and_code_130(moment: str) -> None:
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", START + MOMENTS[moment]], capture_output=True, text=True, env=environment(), check=False
    )
    assert done.returncode == 130 and len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("paredown: interrupted")
    assert (done.stdout == "closed\n") == (moment in ("closing", "double"))
    assert time.monotonic() - began < 9


@pytest.mark.parametrize("command", ["run", "sweep", "report", "export", "bench"])
def test_in_the_first_imports_of_a_command(command: str, tmp_path: Path) -> None:
    words = [sys.executable, str(ROOT / "src" / f"{command}.py"), "dataset=digits", "run=abcd"]
    process = subprocess.Popen(words, stderr=subprocess.PIPE, text=True, env=environment(), cwd=tmp_path)
    while not handles_interrupts(process.pid):
        time.sleep(0.001)
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=30)[1]
    assert process.returncode == 130 and said == "paredown: interrupted; the same command goes on\n"


def handles_interrupts(pid: int) -> bool:
    """Return whether the process handles SIGTERM, which Python alone does not, or ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return True
    caught = next(line for line in lines if line.startswith("SigCgt")).split()[1]
    return bool(int(caught, 16) >> (signal.SIGTERM - 1) & 1)
