"""docs/tutorial.md: each block of output is made again by its command, on two public data sets.

    python benchmarks/tutorial.py DATA [--cores 2]

DATA holds ds002748 and ds000011 of OpenNeuro, fetched as the page says.  The commands run in a copy of this tree, in a
temporary folder, with the Python that runs this script.  Takes about 8 minutes on 2 cores.
"""

from __future__ import annotations

import argparse
import datetime
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "workflow/scripts")]

import neurotransfer  # noqa: E402

from workbench.tutorial_page import MADE, PAGE, with_outputs  # noqa: E402

DATA_SETS = ("ds002748", "ds000011")
SHOWN = "/PROJECT/neurotransfer"  # the reader's clone
FIGURE = "results/report/figures/figure2.png"
LONG = 10  # seconds from which on a command's time is told


def copy_tree(data: Path, clone: Path) -> None:
    """Copy what git would keep of this tree, and the data sets into its folder data."""
    listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    for name in subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0"):
        if name and (ROOT / name).is_file():
            (clone / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, clone / name)
    for name in DATA_SETS:
        shutil.copytree(data / name, clone / "data" / name)


def processor() -> str:
    """The processor's name, as Linux has it."""
    found = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return found[1] if found else "an unknown processor"


def main() -> None:
    """Write the page and its figure."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("data", type=Path, help="the folder with ds002748 and ds000011")
    parser.add_argument("--cores", type=int, default=2, help="that the page's commands name; default: %(default)s")
    chosen = parser.parse_args()
    seconds: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as temporary:
        clone = Path(temporary).resolve() / "neurotransfer"
        copy_tree(chosen.data, clone)
        environment = os.environ | {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(clone / "workflow/scripts"),
        }

        def run(command: str) -> str:
            """A command's output as a reader sees it; its failure ends the script."""
            print(command, flush=True)
            started = time.monotonic()
            streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
            done = subprocess.run(["bash", "-c", command], cwd=clone, env=environment, text=True, **streams)
            seconds[command] = time.monotonic() - started
            if done.returncode:
                sys.exit(f"{done.stdout}\nstatus {done.returncode}: {command}")
            return done.stdout.replace(str(clone), SHOWN)

        page = with_outputs(PAGE.read_text(), run)
        shutil.copy2(clone / FIGURE, PAGE.with_name("tutorial.png"))
    times = ", ".join(f"`{' '.join(name.split()[:2])}` {took:.0f} s" for name, took in seconds.items() if took > LONG)
    made = (
        f"Made on {datetime.date.today()} by `make tutorial`, with neurotransfer {neurotransfer.__version__} on "
        f"{chosen.cores} cores of\n{processor()} (load {os.getloadavg()[1]:.1f}): {times}."
    )
    PAGE.write_text(MADE.sub(lambda _: made, page))


if __name__ == "__main__":
    main()
