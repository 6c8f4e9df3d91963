"""The page on the tests' error rates: the table of rejections in, a figure and Markdown out."""

from __future__ import annotations

import io

import numpy as np
import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ..report.colours import PAPER, SOFT
from ..report.style import draw_grid, drawing
from ..report.verdicts import TEST_NAMES, listed
from ..statistics.inference import NULLS, PRIMARY
from .type_one import SCENARIOS

MOST_REJECTED = 0.06  # of studies without a difference, at a nominal 0.05
STYLES = {
    "sign_flip": ("#D55E00", "s"),
    "population": ("#009E73", "o"),
    "participants": ("#E69F00", "^"),
}
TITLES = {
    "this pool": "no difference in this pool",
    "the population": "none in the population, some in the pool",
    "a difference": "a difference in the population (power)",
}


def type_one_figure(table: pd.DataFrame) -> str:
    """An SVG: the share of studies in which a test rejects, by n; a row of panels per pool, a column per scenario."""
    pools = list(dict.fromkeys(table["pool"]))
    with drawing():
        canvas = Figure(figsize=(9.6, 2.9 * len(pools) + 0.6), layout="constrained")
        grid = canvas.subplots(len(pools), len(SCENARIOS), squeeze=False)
        for pool, row in zip(pools, grid, strict=True):
            for scenario, axes in zip(SCENARIOS, row, strict=True):
                part = table[(table["pool"] == pool) & (table["scenario"] == scenario)]
                sizes = sorted(part["n"].unique())
                axes.axhline(0.05, color=SOFT, linewidth=0.8, linestyle=":")
                for order, (test, (colour, marker)) in enumerate(STYLES.items()):
                    mine = part[part["test"] == test].set_index("n").loc[sizes]
                    centres = np.arange(len(sizes)) + 0.07 * (order - 1)
                    style = {"marker": marker, "markersize": 5, "markeredgecolor": PAPER, "markeredgewidth": 0.5}
                    error = 1.96 * mine["error"]
                    axes.errorbar(
                        centres, mine["rejected"], error, color=colour, linewidth=1.3, label=TEST_NAMES[test], **style
                    )
                top = 1.02 if scenario == "a difference" else max(0.2, 1.1 * part["rejected"].max())
                axes.set(ylim=(-0.02 * top, top), xlim=(-0.4, len(sizes) - 0.6))
                axes.set_xticks(range(len(sizes)), [str(n) for n in sizes])
                draw_grid(axes, "y")
                axes.set_title(f"{pool}\n{TITLES[scenario]}", fontsize=8)
                axes.set_xlabel("training images, n")
            row[0].set_ylabel("share rejected at 0.05")
        handles, names = grid[0, 0].get_legend_handles_labels()
        canvas.legend(handles, names, loc="outside upper center", ncols=len(names))
        FigureCanvasAgg(canvas)
        buffer = io.StringIO()
        canvas.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()


def type_one_markdown(table: pd.DataFrame) -> str:
    """The page in Markdown: a description of the simulation, a summary, and tables by pool and scenario."""
    broken = broken_promises(table)
    different = table["scenario"] == "a difference"
    counts = ", ".join(
        f"{_range_of(table.loc[rows, 'studies'])} {kind} a difference"
        for rows, kind in ((~different, "without"), (different, "with"))
        if rows.any()
    )
    kept = f"**Broken: {'; '.join(broken)}.**" if broken else "**All of them held.**"
    lines = [
        "# Error rates of each test",
        "",
        f"Made by `make type-one` from simulated studies ({counts}, for each row below): pools of the size of"
        f" the paper's, its n ({listed(sorted(set(table['n'])))}), 100 replicates, of which 20 are fitted with a second"
        " seed. Numbers are the share of studies with p ≤ 0.05: without a difference it should be 0.05 or less, with a"
        " difference it is the power. Learners with *noisy starts* have random starts that change a fit's AUC by a"
        " standard deviation of about 0.04, the others have hardly any. The simulated studies and the tests are"
        " described in [statistics.md](statistics.md); all numbers are in [type-one.tsv](type-one.tsv).",
        "",
        f"Promises: without a difference the test of each question rejects in at most {100 * MOST_REJECTED:.0f} %"
        " of the studies, within chance; and about the population it finds a difference of about 0.05 at least half as"
        f" often as the test about this pool does. {kept}",
        "",
        "## In short",
        "",
        _in_short(table),
        "",
        "Smallest to largest share over pools and n. Judge a test by its own null hypothesis, in bold; the other"
        " columns show its behaviour if it is used for the wrong question. Participants resampled is a part of the test"
        " above it and decides nothing.",
        "",
        "![Share of simulated studies in which each test rejects, by n](type-one.svg)",
        "",
        "Bars are 95 % intervals from the number of studies; the dotted line is 0.05.",
        "",
    ]
    for pool in dict.fromkeys(table["pool"]):
        for scenario in SCENARIOS:
            part = table[(table["pool"] == pool) & (table["scenario"] == scenario)]
            lines += [f"## {pool}: {TITLES[scenario]}", "", _table(part), ""]
    lines += [
        "The last two columns are the first model's mean AUC, and the mean of the difference over studies ± its"
        " standard deviation, which a test about the population must account for.",
        "",
    ]
    return "\n".join(lines)


def _range_of(studies: pd.Series) -> str:
    """The smallest and the largest number, or the one there is."""
    return " to ".join(f"{count:,}" for count in sorted({int(studies.min()), int(studies.max())}))


def broken_promises(table: pd.DataFrame) -> list[str]:
    """The promises that did not hold, in words."""
    broken = []
    for (pool, n), part in table.groupby(["pool", "n"], sort=False):
        shares = part.set_index(["scenario", "test"])
        for test in PRIMARY:
            row = shares.loc[(NULLS[test], test)]
            chance = 1.96 * np.sqrt(MOST_REJECTED * (1 - MOST_REJECTED) / row["studies"])
            if row["rejected"] > MOST_REJECTED + chance:
                broken.append(f"{pool}, n = {n}: {TEST_NAMES[test]} rejects {row['rejected']:.3f} without a difference")
        power, most = (shares.loc[("a difference", test)] for test in reversed(PRIMARY))
        chance = 1.96 * np.hypot(power["error"], most["error"] / 2)
        if power["rejected"] < most["rejected"] / 2 - chance:
            found = f"finds {power['rejected']:.3f} of the differences, this pool's test {most['rejected']:.3f}"
            broken.append(f"{pool}, n = {n}: {TEST_NAMES[power.name[1]]} {found}")
    return broken


def _in_short(table: pd.DataFrame) -> str:
    """A row per test: the smallest and largest share of rejections in each scenario, its own null in bold."""
    rows = [["test", "null hypothesis", *(TITLES[scenario] for scenario in SCENARIOS)], ["---", "---", *["---:"] * 3]]
    for test, null in NULLS.items():
        shares = table[table["test"] == test].groupby("scenario")["rejected"].agg(["min", "max"])
        cells = []
        for scenario in SCENARIOS:
            text = f"{shares.loc[scenario, 'min']:.3f} to {shares.loc[scenario, 'max']:.3f}"
            cells.append(f"**{text}**" if scenario == null else text)
        rows.append([TEST_NAMES[test], null, *cells])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _table(part: pd.DataFrame) -> str:
    head = ["n", *(f"{TEST_NAMES[test]} ({null})" for test, null in NULLS.items()), "AUC", "difference"]
    rows = [head, ["---:"] * len(head)]
    for n, found in part.groupby("n"):
        by_test = found.set_index("test")
        shares = [f"{by_test.loc[test, 'rejected']:.3f}" for test in NULLS]
        first = found.iloc[0]
        about = [f"{first['auc']:.3f}", f"{first['difference']:+.4f} ± {first['spread']:.4f}".replace("-", "−")]
        rows.append([str(n), *shares, *about])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)
