"""neurotransfer: is a pretrained CNN worth it for a small clinical MRI study?

The library behind the Snakemake workflow of the same name.  Importing the package imports nothing
heavy: the Snakefile is parsed again inside every cluster job.
"""

__version__ = "0.1.0"
