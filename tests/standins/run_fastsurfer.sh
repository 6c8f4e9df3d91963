#!/bin/sh
python="python3 -s"
# the stand-in itself needs this project's packages, which $python must not be expected to have
exec "${STANDIN_PYTHON:-python3}" "$(dirname "$(readlink -f "$0")")/fastsurfer.py" "$@"
