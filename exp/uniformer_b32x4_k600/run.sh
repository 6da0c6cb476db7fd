#!/usr/bin/env bash
# Train on the NUM_SHARDS machines of the config, in a Slurm job that tools/submit.py queues, then
# test. To run on this machine instead, use `SUBMIT= bash run.sh NUM_SHARDS 1`.
# ../setup.sh lists the environment variables. Arguments override config keys.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../setup.sh"

SUBMIT="${SUBMIT-yes}"
train_and_test data_list/k600 "$@"
