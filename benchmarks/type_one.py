"""Type-I error and power of each test, measured on simulated studies: docs/type-one.{md,tsv,svg}.

make type-one                                    # the paper's pools, three of its n, its replicates: 1,000 studies each
python benchmarks/type_one.py --studies 100 --out FOLDER                 # faster, less precise
python benchmarks/type_one.py --studies 4000 --scenarios "the population"

A cell that the folder's table has from as many studies or more is left; one from fewer is replaced.
"""

import argparse
import os
import time
from pathlib import Path

import pandas as pd
from neurotransfer.files import write_text
from neurotransfer.validation.simulated_pools import POOLS
from neurotransfer.validation.type_one import SCENARIOS, plans, type_one_rows
from neurotransfer.validation.type_one_page import type_one_figure, type_one_markdown

DOCS = Path(__file__).resolve().parents[1] / "docs"
SIZES = (100, 300, 500)
CELL = ["pool", "scenario", "n"]


def rows_of(table: pd.DataFrame, cell: tuple[str, str, int]) -> pd.DataFrame:
    """A cell's rows, one for each test; none if the table lacks it."""
    return table[(table[CELL] == list(cell)).all(axis=1)] if len(table) else table


def in_order(table: pd.DataFrame) -> pd.DataFrame:
    """Cells by pool, scenario and n, tests as they are."""
    places = {"pool": list(POOLS), "scenario": list(SCENARIOS)}

    def key(column: pd.Series) -> pd.Series:
        return column.map(places[column.name].index) if column.name in places else column

    return table.sort_values(CELL, key=key, kind="stable", ignore_index=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--studies", type=int, default=1000, help="of each pool, scenario and n; default: %(default)s")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1, help="default: %(default)s")
    parser.add_argument("--pools", nargs="+", choices=POOLS, default=list(POOLS), help="default: all")
    parser.add_argument(
        "--sizes", nargs="+", type=int, default=SIZES, metavar="N", help="default: three of the paper's"
    )
    parser.add_argument("--out", type=Path, default=DOCS, help="the folder of the page; default: docs")
    parser.add_argument("--scenarios", nargs="+", choices=SCENARIOS, default=list(SCENARIOS), help="default: all")
    chosen = parser.parse_args()
    pools = {name: POOLS[name] for name in chosen.pools}
    file = chosen.out / "type-one.tsv"
    table = pd.read_csv(file, sep="\t") if file.exists() else pd.DataFrame()
    for plan in plans(pools, chosen.sizes):
        cell = (plan.pool, plan.scenario, plan.n)
        had = rows_of(table, cell)
        if plan.scenario not in chosen.scenarios or (len(had) and had["studies"].min() >= chosen.studies):
            continue
        started = time.monotonic()
        found = type_one_rows(plan, chosen.studies, chosen.processes)
        table = in_order(pd.concat([table.drop(had.index), found], ignore_index=True))
        write_text(file, table.to_csv(sep="\t", index=False))
        seconds = time.monotonic() - started
        print(f"type-one: {plan.pool}, {plan.scenario}, n = {plan.n}: {seconds:.0f} s", flush=True)
    write_text(chosen.out / "type-one.svg", type_one_figure(table))
    write_text(chosen.out / "type-one.md", type_one_markdown(table))
