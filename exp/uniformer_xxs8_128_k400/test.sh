#!/usr/bin/env bash
# Test WEIGHTS, or the checkpoint that run.sh trained. ../setup.sh lists the environment variables.
# Arguments override config keys.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../setup.sh"

test_weights data_list/k400 "$@"
