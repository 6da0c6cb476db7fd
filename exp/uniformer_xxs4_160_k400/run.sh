#!/usr/bin/env bash
# Train, then test. ../setup.sh lists the environment variables. Arguments override config keys.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../setup.sh"

train_and_test data_list/k400 "$@"
