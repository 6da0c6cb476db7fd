#!/usr/bin/env bash
# Test WEIGHTS, or the newest checkpoint that run.sh wrote to OUTPUT_DIR.
# Environment: DATA_DIR, OUTPUT_DIR, WEIGHTS, PYTHON. Arguments override config keys.
set -euo pipefail

exec bash "$(dirname "${BASH_SOURCE[0]}")/run.sh" \
    TRAIN.ENABLE False TEST.CHECKPOINT_FILE_PATH "${WEIGHTS:-}" "$@"
