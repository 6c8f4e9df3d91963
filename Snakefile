"""neurotransfer from its own repository: `snakemake` finds this file without an option, and the workflow is included."""


include: "workflow/Snakefile"


workflow.default_target = "all"  # Snakemake forgets the default target of a file that is included
