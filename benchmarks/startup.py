"""How long a user waits for the command line to answer, beside a bare interpreter and the libraries it must load.

    python benchmarks/startup.py

Medians of several runs, in seconds, and as multiples of ``python -c pass`` in the same run.
"""

import statistics
import subprocess
import sys
import time

RUNS = 7
COMMANDS = {
    "python -c pass": ["-c", "pass"],
    "import typer, pydantic": ["-c", "import typer, pydantic"],
    "import kg, synthie": ["-c", "import kg, synthie"],
    "synthie --help": ["-m", "synthie.cli", "--help"],
    "synthie config": ["-m", "synthie.cli", "config"],
}


def seconds(arguments: list[str]) -> float:
    """Median wall-clock seconds of a new interpreter with these arguments."""
    times = []
    for _ in range(RUNS):
        clock = time.perf_counter()
        subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
        times.append(time.perf_counter() - clock)
    return statistics.median(times)


def main() -> None:
    """Print the table."""
    bare = None
    for name, arguments in COMMANDS.items():
        taken = seconds(arguments)
        bare = bare or taken
        print(f"{name:24} {taken:6.2f} s  {taken / bare:5.1f} ×")


if __name__ == "__main__":
    main()
