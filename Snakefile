"""neurotransfer: from T1-weighted scans in BIDS folders to the answer whether pretraining is worth it.

The stages, in the order in which data passes them; each has a file of rules, a thin script per rule and
a folder of results, all of the same name.
"""

import os
import shutil
import sys
from pathlib import Path

from snakemake.utils import min_version, validate

min_version("9.10")
REPOSITORY = Path(workflow.basedir)
sys.path.insert(0, str(REPOSITORY / "workflow/scripts"))

from neurotransfer.errors import InputError
from neurotransfer.files import check_writable
from neurotransfer.running import end_run, explain_lock, note_run
from neurotransfer.study import MODELS, read_study


configfile: str(REPOSITORY / "config/config.yaml")


if workflow.is_main_process:
    from neurotransfer.configuration import check_config

    try:
        check_config(config, REPOSITORY / "workflow/schemas", workflow.configfiles)
    except InputError as error:
        raise WorkflowError(error)
    validate(config, str(REPOSITORY / "workflow/schemas/config.schema.yaml"))
    if shutil.which("sbatch"):  # Slurm's commands, patient with a controller that restarts: profiles/slurm/bin
        os.environ["PATH"] = f"{REPOSITORY / 'profiles/slurm/bin'}{os.pathsep}{os.environ['PATH']}"
    if locked := explain_lock(sys.argv[1:]):
        print(locked, file=sys.stderr)
try:
    study = read_study(config)
except InputError as error:
    raise WorkflowError(error)


onstart:
    try:
        check_writable("results")
    except InputError as error:
        raise WorkflowError(error)
    note_run()


onsuccess:
    end_run()


onerror:
    end_run()


wildcard_constraints:
    cohort="[A-Za-z0-9]+",
    shard="[A-Za-z0-9]+-[0-9]+",
    job="[0-9]+",
    task="[A-Za-z0-9_]+",
    n="[0-9]+",
    replicate="[0-9]+",
    run="multitask|given",


include: "workflow/rules/preprocess.smk"
include: "workflow/rules/cache.smk"
include: "workflow/rules/split.smk"
include: "workflow/rules/pretrain.smk"
include: "workflow/rules/resample.smk"
include: "workflow/rules/fit.smk"
include: "workflow/rules/statistics.smk"
include: "workflow/rules/report.smk"


rule all:
    default_target: True
    input:
        "results/report/report.html",
        "results/split/certificate.json",
        rules.aggregate.input,  # a deleted fit or resample is missed, though a report stands that has read it


rule cached:
    """Every image through preprocessing and into the cache."""
    input:
        expand("results/index/{cohort}.tsv", cohort=study.cohorts),


rule pretrained:
    """The pretrained weights and their metrics."""
    input:
        f"results/pretrain/{study.run}/metrics.tsv",
