"""Coverage, rejections and planted leaks on small simulated studies: docs/validity.md.  Fails if a promise is broken.

make validate
"""

import argparse
import os
import sys
from itertools import product
from pathlib import Path

import pandas as pd
from neurotransfer.files import write_text
from neurotransfer.validation import validity

DOCS = Path(__file__).resolve().parents[1] / "docs"
SIZES = (50, 100)

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--studies", type=int, default=1000, help="of each learner, n and null; default: %(default)s")
    parser.add_argument("--pools", type=int, default=10_000, help="behind each true AUC; default: %(default)s")
    parser.add_argument("--replicates", type=int, default=40, help="of one study; default: %(default)s")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1, help="default: %(default)s")
    parser.add_argument("--out", type=Path, default=DOCS, help="the folder of the page; default: docs")
    chosen = parser.parse_args()
    counts = {name: getattr(chosen, name) for name in ("studies", "pools", "replicates", "processes")}
    parts = []
    for starts, n in product(validity.STARTS, SIZES):
        parts.append(validity.coverage(starts, n, **counts))
        print(f"validate: {chosen.studies} studies and {chosen.pools} pools, {starts} starts, n = {n}", flush=True)
    intervals, tests = (pd.concat(tables, ignore_index=True) for tables in zip(*parts, strict=True))
    leaks = validity.leaks(chosen.replicates)
    broken = validity.broken_claims(intervals, tests, leaks)
    setting = (
        f"{chosen.studies:,} simulated studies of each learner, n and null, each of {validity.SMALL.images} "
        f"images of {validity.SMALL.participants} participants with {chosen.replicates} replicates, and "
        f"{chosen.pools:,} independent pools for the truth."
    )
    write_text(chosen.out / "validity.md", validity.validity_markdown(intervals, tests, leaks, broken, setting))
    print("\n".join(f"broken: {line}" for line in broken) or "validate: every promise held")
    sys.exit(1 if broken else 0)
