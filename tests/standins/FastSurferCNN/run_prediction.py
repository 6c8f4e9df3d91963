"""What a check imports before the first image."""

import os

if os.environ.get("STANDIN_NO_PACKAGES"):
    raise ModuleNotFoundError("No module named 'torch'")
