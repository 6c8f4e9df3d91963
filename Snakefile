"""neurotransfer in its own repository: `snakemake` finds this file without an option; it includes the workflow."""


include: "workflow/Snakefile"


workflow.default_target = "all"  # Snakemake forgets the default target of a file that is included
