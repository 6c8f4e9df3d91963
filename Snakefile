"""neurotransfer from its own repository: `snakemake` finds this file without an option, and the workflow is included."""


include: "workflow/Snakefile"
