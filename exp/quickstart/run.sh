#!/usr/bin/env bash
# Make the embedded dataset if it is missing, train on it, and test (with TEST.ENABLE False: train
# only). Environment: DATA_DIR, OUTPUT_DIR, PYTHON. Arguments override config keys.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../setup.sh"

data="${DATA_DIR:-$root/data/motion}"
"$python" "$root/tools/make_motion.py" "$data"
run_net DATA.PATH_TO_DATA_DIR "$data" \
    DATA.PATH_PREFIX "$data" \
    DATA.CLASS_NAMES "$data/classes.txt" \
    OUTPUT_DIR "${OUTPUT_DIR:-$root/output/quickstart}" \
    "$@"
