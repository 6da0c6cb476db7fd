#!/usr/bin/env bash
# Train on the NUM_SHARDS machines of the config, by a Slurm job that tools/submit.py queues, then test.
# `SUBMIT= bash run.sh NUM_SHARDS 1` runs here instead. ../setup.sh lists the environment; arguments override config keys.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../setup.sh"

SUBMIT="${SUBMIT-yes}"
train_and_test data_list/k600 "$@"
