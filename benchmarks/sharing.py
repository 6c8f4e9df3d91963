"""What several images at once on one GPU give: the engine with FastSurfer's stand-in, whose parts take realistic times.

    python benchmarks/sharing.py [--images 8] [--scale 1.0]

The stand-in (tests/standins) sleeps as long as each of PARTS, and runs one network at a time, as one GPU would.  PARTS
are a minute, in which the bias field takes 20 s: to sleep takes no core, so the job has enough threads for N4.  Printed
are seconds per image, with and without volumes, beside what `study.demands.seconds_per_image` says.
The measured figures also contain the first images' start and the last ones' end, which do not overlap with others, and
the stand-in's own work (reading and copying files).  With `--scale 0.5` everything takes half the time.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(REPOSITORY / "workflow/scripts")]

import pandas as pd  # noqa: E402
from neurotransfer.operations.costs import parts_measured  # noqa: E402
from neurotransfer.preprocess.run import preprocess_images  # noqa: E402
from neurotransfer.simulation.study import simulate_study  # noqa: E402
from neurotransfer.study import demands, layout  # noqa: E402
from neurotransfer.study.configuration import load_config  # noqa: E402

AT_ONCE = (1, 2, 3, 4)
PARTS = demands.PARTS | {"conform": 3.0, "masks": 3.0, "bias field": 20.0, "statistics": 4.0}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=8, metavar="N", help="images of a job; default: %(default)s")
    parser.add_argument("--scale", type=float, default=1.0, metavar="X", help="of times; default: %(default)s")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        simulate_study(folder, cohorts=["memory"], participants=0.02)
        scan = next((folder / "data").rglob("*_T1w.nii.gz"))
        (folder / "faults.json").write_text("{}")
        os.environ |= {
            "STANDIN_CACHE": str(folder),
            "STANDIN_FAULTS": str(folder / "faults.json"),
            "STANDIN_SECONDS": json.dumps({part: chosen.scale * s for part, s in PARTS.items()}),
            "STANDIN_VERSION": "2.5.0",
        }
        run_job(scan, folder / "warm", 1, 1, True)  # its result is made once, and copied from then on
        print("volumes  images at once  s per image  expected")
        for volumes in (True, False):
            for at_once in AT_ONCE:
                subjects = folder / f"{volumes}-{at_once}" / layout.SUBJECTS
                seconds = run_job(scan, subjects, chosen.images, at_once, volumes) / chosen.images / chosen.scale
                expected = demands.seconds_per_image(settings_of(at_once, volumes))
                print(f"{'yes' if volumes else 'no':<7}  {at_once:14}  {seconds:11.1f}  {expected:8.1f}", flush=True)
        alone = parts_measured(folder / "True-1")
    print("\nparts of an image alone, from the logs:")
    for part, seconds in alone.items():
        print(f"{part:<12} {seconds / chosen.scale:6.1f} s of {PARTS[part]:g}")


def settings_of(at_once: int, volumes: bool) -> dict:
    """The default settings of preprocessing, with the stand-in as a native FastSurfer."""
    settings = load_config(REPOSITORY)["preprocessing"]
    own = settings["fastsurfer"] | {"runs_in": "native", "script": str(REPOSITORY / "tests/standins/run_fastsurfer.sh")}
    return settings | {"fastsurfer": own, "images_at_once": at_once, "volumes": volumes, "measured": PARTS}


def run_job(scan: Path, subjects: Path, images: int, at_once: int, volumes: bool) -> float:
    """Seconds of a job with some images."""
    table = pd.DataFrame({"image_id": [f"x_{at}" for at in range(images)], "shard": "x-0001", "t1w": str(scan)})
    start = time.monotonic()
    ledger = preprocess_images(table, settings_of(at_once, volumes), subjects)
    if set(ledger["status"]) != {"ok"}:
        raise SystemExit(f"the stand-in has failed: {ledger['detail'].dropna().iloc[0]}")
    return time.monotonic() - start


if __name__ == "__main__":
    main()
