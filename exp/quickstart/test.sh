#!/usr/bin/env bash
# Test what run.sh trained: the newest checkpoint in OUTPUT_DIR, or WEIGHTS.
# Environment: DATA_DIR, OUTPUT_DIR, WEIGHTS, PYTHON. Arguments override config keys.
set -euo pipefail

exec bash "$(dirname "${BASH_SOURCE[0]}")/run.sh" \
    TRAIN.ENABLE False TEST.CHECKPOINT_FILE_PATH "${WEIGHTS:-}" "$@"
