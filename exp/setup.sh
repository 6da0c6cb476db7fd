# Sourced by run.sh and test.sh of the experiments: reads the environment and starts the run.
#
#   variable     sets the key                    meaning
#   DATA_DIR     DATA.PATH_TO_DATA_DIR           folder of the lists
#   VIDEO_DIR    DATA.PATH_PREFIX                folder of the listed videos or frame folders
#   WEIGHTS_DIR  MODEL.WEIGHTS_DIR               folder of the published weights to start from
#   WEIGHTS      TRAIN.CHECKPOINT_FILE_PATH      run.sh: other weights to start from
#                TEST.CHECKPOINT_FILE_PATH       test.sh: weights to test instead of the newest or
#                                                best checkpoint in OUTPUT_DIR
#   OUTPUT_DIR   OUTPUT_DIR                      folder of the results
#   PYTHON                                       Python with the package installed
#   SUBMIT                                       if not empty, tools/submit.py queues a Slurm job
#   PARTITION                                    partition of the job
#   SUBMIT_ARGS                                  more options of tools/submit.py
#
# Arguments of the scripts are KEY VALUE pairs. They come last and take precedence.
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
experiment="$(cd "$(dirname "${BASH_SOURCE[1]}")" && pwd)"
python="${PYTHON:-$root/.venv/bin/python}"
command -v "$python" >/dev/null || python=python3

# train_and_test LISTS [KEY VALUE ...]: train, then test.
# LISTS is the folder of the lists in the repository, used if DATA_DIR is not set.
train_and_test() {
    start "$1" ${WEIGHTS:+TRAIN.CHECKPOINT_FILE_PATH "$WEIGHTS"} "${@:2}"
}

# test_weights LISTS [KEY VALUE ...]: test only.
test_weights() {
    start "$1" TRAIN.ENABLE False TEST.CHECKPOINT_FILE_PATH "${WEIGHTS:-}" "${@:2}"
}

start() {
    local lists="${DATA_DIR:-$root/$1}"
    shift
    require_folder DATA_DIR DATA.PATH_TO_DATA_DIR "$lists" "$@"
    require_folder VIDEO_DIR DATA.PATH_PREFIX "${VIDEO_DIR:-}" "$@"
    run_net DATA.PATH_TO_DATA_DIR "$lists" ${VIDEO_DIR:+DATA.PATH_PREFIX "$VIDEO_DIR"} \
        OUTPUT_DIR "${OUTPUT_DIR:-$root/output/$(basename "$experiment")}" "$@"
}

# require_folder VARIABLE KEY FOLDER [KEY VALUE ...]: exit if the folder is missing and the
# arguments do not name another one.
require_folder() {
    local variable="$1" key="$2" folder="$3" argument
    for argument in "${@:4}"; do
        case "$argument" in "$key" | "$key="*) return 0 ;; esac
    done
    case "$folder" in "" | *://*) return 0 ;; esac # no prefix, or a remote folder
    if [ ! -d "$folder" ]; then
        cat >&2 <<END
$(basename "$experiment"): $folder is not a folder. Set $variable (or the key $key). A run needs:
  DATA_DIR     folder of the lists, see DATASET.md                         DATA.PATH_TO_DATA_DIR
  VIDEO_DIR    folder of the listed videos or frame folders                DATA.PATH_PREFIX
  WEIGHTS_DIR  folder of the published weights, or WEIGHTS for one file    MODEL.WEIGHTS_DIR
END
        exit 1
    fi
}

# run_net [KEY VALUE ...]: run the experiment of the script that sourced this file.
run_net() {
    local command=("$root/tools/run_net.py")
    if [ -n "${SUBMIT:-}" ]; then
        # shellcheck disable=SC2206 # SUBMIT_ARGS holds several words
        command=("$root/tools/submit.py" ${PARTITION:+--partition "$PARTITION"} ${SUBMIT_ARGS:-})
    fi
    exec "$python" "${command[@]}" --cfg "$experiment/config.yaml" "$@"
}
