"""A stand-in for FastSurfer's package: it can be imported, or misses one of its own packages."""
