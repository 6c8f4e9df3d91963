"""docs/rulegraph.svg: the graph of rules that Snakemake builds for the paper's study.

    python benchmarks/rulegraph.py docs/rulegraph.svg

The tables are a small version of the study's; the graph does not depend on its size.  Needs graphviz (dot).
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from workbench.measured import manifest, snakemake
from workbench.paper_study import write_study

PAGE = "7.2,10.4"  # inches: the printable part of an A4 or letter sheet


def main(target: Path) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_study(folder, 0.01)
        overlay = folder / "small.yaml"
        overlay.write_text("resampling: {replicates: 1}\n")
        manifest(folder, overlay)
        text = snakemake(folder, overlay, "--rulegraph").text
    graph = text[text.index("digraph") : text.rindex("}") + 1]
    drawn = subprocess.run(["dot", "-Tsvg", f"-Gsize={PAGE}"], input=graph, capture_output=True, text=True, check=True)
    target.write_text(drawn.stdout)
    print(f"{target}: {graph.count('label')} rules")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
