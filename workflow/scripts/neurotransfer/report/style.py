"""The common part of all figures: colours, markers, fonts, the layout of panels, and the files of a figure.

No figure and no table behind one names a participant or an image.
"""

from __future__ import annotations

import contextlib
import io
import re
import textwrap
from collections.abc import Iterable, Iterator
from pathlib import Path

import matplotlib
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ..files import write_table, written_whole
from .colours import FAINT, INK, PAPER, PUBLISHED, SOFT, marks_of

STYLE = {
    "font.family": "DejaVu Sans",  # part of matplotlib, so every machine draws the same picture
    "font.size": 10.5,  # so that it is 9 points at least where a page shows it smaller
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": SOFT,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlepad": 8,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "legend.frameon": False,
    "legend.fontsize": 10.3,
    "svg.hashsalt": "neurotransfer",
    "svg.fonttype": "path",
}
HIDE = rb'(<g id="published-[A-Za-z0-9_-]+")>'
RASTER = 1500  # above this number of points per panel an SVG holds them as an image, which is smaller
WIDTH = 11.0  # inches of a row of panels; further panels start another row


@contextlib.contextmanager
def drawing() -> Iterator[None]:
    """Matplotlib's defaults and this project's style; a user's own matplotlibrc has no effect."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(STYLE)
        yield


def rows_and_columns(panels: int, width: float) -> tuple[int, int]:
    """Rows and columns for panels of this width (inches), with the rows filled as evenly as possible."""
    rows = -(-panels // max(1, int(WIDTH // width)))
    return rows, -(-panels // rows)


def wrapped(text: str, width: int) -> str:
    """At most three lines of about `width` characters."""
    lines = textwrap.wrap(text, width, max_lines=3, placeholder=" …")
    return "\n".join(lines)


def draw_grid(axes: Axes, axis: str) -> None:
    """Faint lines at the ticks of one axis ("x" or "y"), behind the data."""
    axes.grid(axis=axis, color=FAINT, linewidth=0.5)
    axes.set_axisbelow(True)


def draw_chance(axes: Axes) -> None:
    """A dotted line at the AUC of chance."""
    axes.axhline(0.5, color=SOFT, linewidth=0.8, linestyle=":", zorder=0)


def legend_of_models(models: Iterable[str]) -> list[Line2D]:
    """Legend handles of the models that a figure shows."""
    line = {"linewidth": 1.5, "markersize": 5.5, "markeredgecolor": PAPER}
    shown = marks_of(models)
    return [Line2D([], [], color=mark.colour, marker=mark.marker, label=model, **line) for model, mark in shown.items()]


def save_figure(figure: Figure, data: pd.DataFrame, stem: str | Path) -> None:
    """Write ``<stem>.svg``, ``<stem>.png`` and the table behind them, ``<stem>.tsv``, each whole.

    The same content gives the same bytes: the files hold no date, and names within the SVG depend on its content.
    Published medians are hidden in the SVG and absent from the PNG.
    """
    FigureCanvasAgg(figure)
    stem = Path(stem)
    with drawing():
        svg, png = io.BytesIO(), io.BytesIO()
        figure.savefig(svg, format="svg", dpi=160, metadata={"Date": None})
        for artist in figure.findobj(lambda found: str(found.get_gid()).startswith(f"{PUBLISHED}-")):
            artist.set_visible(False)
        figure.savefig(png, format="png", dpi=160)
    hidden = re.sub(HIDE, rb'\1 style="display: none">', svg.getvalue())
    for ending, content in (("svg", hidden), ("png", png.getvalue())):
        with written_whole(stem.with_name(f"{stem.name}.{ending}"), "wb") as file:
            file.write(content)
    write_table(data, stem.with_name(f"{stem.name}.tsv"))
