"""Type-I error and power of each test, measured on simulated studies: docs/type-one.{md,tsv,svg}.

make type-one                                    # the paper's pools, three of its n, its replicates: 1,000 studies each
python benchmarks/type_one.py --studies 100      # faster, less precise
"""

import argparse
import os
import time
from pathlib import Path

import pandas as pd
from neurotransfer.files import write_text
from neurotransfer.validation.simulated_pools import POOLS
from neurotransfer.validation.type_one import plans, type_one_rows
from neurotransfer.validation.type_one_page import type_one_figure, type_one_markdown

DOCS = Path(__file__).resolve().parents[1] / "docs"
SIZES = (100, 300, 500)

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--studies", type=int, default=1000, help="of each pool, scenario and n; default: %(default)s")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1, help="default: %(default)s")
    parser.add_argument("--pools", nargs="+", choices=POOLS, default=list(POOLS), help="default: all")
    parser.add_argument(
        "--sizes", nargs="+", type=int, default=SIZES, metavar="N", help="default: three of the paper's"
    )
    parser.add_argument("--out", type=Path, default=DOCS, help="the folder of the page; default: docs")
    chosen = parser.parse_args()
    pools = {name: POOLS[name] for name in chosen.pools}
    rows = []
    for plan in plans(pools, chosen.sizes):
        started = time.monotonic()
        rows.append(type_one_rows(plan, chosen.studies, chosen.processes))
        seconds = time.monotonic() - started
        print(f"type-one: {plan.pool}, {plan.scenario}, n = {plan.n}: {seconds:.0f} s", flush=True)
        write_text(chosen.out / "type-one.tsv", pd.concat(rows).to_csv(sep="\t", index=False))
    table = pd.concat(rows, ignore_index=True)
    write_text(chosen.out / "type-one.svg", type_one_figure(table))
    write_text(chosen.out / "type-one.md", type_one_markdown(table))
