"""What holds for every test: none talks to a Slurm that this machine may have, or waits for one that is away."""

import os

# Snakemake's Slurm plugin asks the controller whenever it is imported, ten seconds long where none answers;
# with an empty configuration Slurm's clients stop at once.  tests/slurm set their own.
os.environ["SLURM_CONF"] = os.devnull
