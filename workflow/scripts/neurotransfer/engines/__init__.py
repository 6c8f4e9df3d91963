"""Engines: what turns one T1-weighted image into FastSurfer's file layout.

An engine is a module with `version()`, a short text, and `run(source, folder, settings)`, which writes
``mri/`` and ``stats/`` into `folder` or raises ImageError with a reason of preprocessing.py.
"""
