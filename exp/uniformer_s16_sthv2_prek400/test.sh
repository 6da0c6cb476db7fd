#!/usr/bin/env bash
# Test WEIGHTS, or else what run.sh trained. ../setup.sh lists the environment; arguments override config keys.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../setup.sh"

test_weights data_list/sthv2 "$@"
