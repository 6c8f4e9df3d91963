#!/bin/sh
exec python3 "$(dirname "$(readlink -f "$0")")/fastsurfer.py" "$@"
