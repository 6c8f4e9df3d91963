"""`neurotransfer predict`: from scans and weights to a table, in one process or by the workflow's jobs."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from ..errors import InputError
from ..jobs.snakemake_run import INTERRUPTED, alone, command_of, run_snakemake
from ..study.configuration import load_config
from ..study.plan import read_study
from .folder import lay_out, read_request
from .results import gather, summary, write_predictions
from .run import predict_here
from .scans import find_scans


def predict(
    repository: Path,
    *,
    weights: Path,
    images: Path,
    out: Path,
    engine: str | None,
    derivatives: str | None,
    work: Path | None,
    cores: int | None,
    profile: str | None,
    overlays: Sequence[Path],
    options: Sequence[str],
) -> int:
    """Write what the weights predict of the scans, print a summary, and return the exit status.

    Parameters
    ----------
    out : the table
    work : the folder of everything else; None for one beside the table
    cores : of this machine; None for all
    profile : of Snakemake; None works in this process
    options : further ones of Snakemake

    Returns
    -------
    0 if a scan has predictions, 1 if none has, Snakemake's status if it failed

    Raises
    ------
    InputError
        if the weights do not know the engine, crop or voxel size, or there is no scan
    """
    if out.suffix != ".tsv" or not out.parent.is_dir():
        raise InputError(out, "", "it is no .tsv file in an existing folder", "correct --out")
    scans, left_out = find_scans(images, derivatives)
    request = read_request(repository, overlays, weights, scans, engine)
    work = work or out.with_suffix(".work")
    work.mkdir(parents=True, exist_ok=True)
    with alone(work, "predict"):
        overrides = lay_out(work, scans, request, images.absolute())
        os.chdir(work)
        config = load_config(repository, [*overlays, overrides])
        study = read_study(config)
        if profile is None:
            logging.basicConfig(level=logging.INFO, format="predict: %(message)s", stream=sys.stderr, force=True)
            predict_here(study, config, cores or os.cpu_count() or 1)
        else:
            count = ["--cores", str(cores)] if cores else []
            command = command_of(
                repository, [*overlays, overrides], ["--profile", profile, *count, *options, "predicted"]
            )
            ended = run_snakemake(command, "predict")
            if ended.status:
                if ended.status != INTERRUPTED:
                    print("\n".join(["the end of Snakemake's output:", *ended.lines]), file=sys.stderr)
                    print(f"causes: neurotransfer failures --directory {work}", file=sys.stderr)
                return ended.status
        table = gather(study, left_out)
    write_predictions(table, out, weights, request.metadata)
    print(summary(table, out, work, request.metadata))
    return 0 if (table["status"] == "ok").any() else 1
