"""neurotransfer: from T1-weighted scans in BIDS folders to the answer whether pretraining is worth it.

The stages, in the order in which data passes them; each has a file of rules, a thin script per rule and
a folder of results, all of the same name.
"""

import os
import shutil
import sys
from pathlib import Path

from snakemake.settings.types import DeploymentMethod
from snakemake.utils import min_version, validate

min_version("9.10")
REPOSITORY = Path(workflow.basedir)
sys.path.insert(0, str(REPOSITORY / "workflow/scripts"))

from neurotransfer.study import demands
from neurotransfer.preprocess.engines.containers import check_here
from neurotransfer.errors import InputError
from neurotransfer.files import check_writable
from neurotransfer.jobs.lock_note import end_run, explain_lock, note_run
from neurotransfer.study.plan import ARMS, read_study


configfile: str(REPOSITORY / "config/config.yaml")


if workflow.is_main_process:
    from neurotransfer.study.configuration import check_config
    from neurotransfer.jobs.snakemake_patches import mend

    mend(dry_run=workflow.dryrun)

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


if DeploymentMethod.APPTAINER in workflow.deployment_settings.deployment_method:
    IMAGE = REPOSITORY / "envs/neurotransfer.sif"
    if not IMAGE.exists():
        build = f"build it: apptainer build {IMAGE} {IMAGE.with_suffix('.def')}, in {REPOSITORY}"
        raise WorkflowError(InputError(IMAGE, "", "the container of the jobs is not there", build))

    container: str(IMAGE)


onstart:
    try:
        check_writable("results")
        # where jobs run on other machines, only they can tell; each looks before its first image
        if workflow.local_exec and is_engine_needed():
            check_here(config["preprocessing"])
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


# Lists that grow with the study are input functions: parsing, which every job repeats, does not build them, and
# Snakemake hashes a literal list once for each of its files where a rule also names another rule's output.
include: "workflow/rules/preprocess.smk"
include: "workflow/rules/cache.smk"
include: "workflow/rules/quality.smk"
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
        "results/split/certificate.html",
        "results/quality/quality.html",
        all_fits,  # a deleted fit or resample is missed, though a report stands that has read it
        all_resamples,
        lost_ledgers(),  # and so is a ledger that `neurotransfer retry` has deleted


rule cached:
    """Every image through preprocessing and into the cache."""
    input:
        expand("results/index/{cohort}.tsv", cohort=study.cohorts),
        "results/quality/quality.html",
        lost_ledgers(),


rule pretrained:
    """The pretrained weights and their metrics."""
    input:
        f"results/pretrain/{study.run}/metrics.tsv",
        lost_ledgers("pretraining", "holdout"),
