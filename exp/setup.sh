# Sourced by the run.sh and test.sh of the experiments: what the environment says, and how a run is started.
#
#   variable     the key that it sets            meaning
#   DATA_DIR     DATA.PATH_TO_DATA_DIR           folder of the lists
#   VIDEO_DIR    DATA.PATH_PREFIX                folder of the videos or frames that the lists name
#   WEIGHTS_DIR  MODEL.WEIGHTS_DIR               folder of the published weights to start from
#   WEIGHTS      TRAIN.CHECKPOINT_FILE_PATH      run.sh: another file of weights to start from
#                TEST.CHECKPOINT_FILE_PATH       test.sh: the file to test, not the newest or best in OUTPUT_DIR
#   OUTPUT_DIR   OUTPUT_DIR                      where results go
#   PYTHON                                       the Python that has the package installed
#   SUBMIT                                       not empty: through Slurm, by tools/submit.py, not on this machine
#   PARTITION, SUBMIT_ARGS                       its partition, and further options of tools/submit.py
#
# Arguments of the scripts, KEY VALUE pairs, come last and win.
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
experiment="$(cd "$(dirname "${BASH_SOURCE[1]}")" && pwd)"
python="${PYTHON:-$root/.venv/bin/python}"
command -v "$python" >/dev/null || python=python3

# train_and_test LISTS [KEY VALUE ...]: LISTS is the folder of lists, in the repository, where DATA_DIR does not say.
train_and_test() {
    start "$1" ${WEIGHTS:+TRAIN.CHECKPOINT_FILE_PATH "$WEIGHTS"} "${@:2}"
}

# test_weights LISTS [KEY VALUE ...]: the same without training.
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

# require_folder VARIABLE KEY FOLDER [KEY VALUE ...]: end here if it is missing and the arguments do not name another.
require_folder() {
    local variable="$1" key="$2" folder="$3" argument
    for argument in "${@:4}"; do
        case "$argument" in "$key" | "$key="*) return 0 ;; esac
    done
    case "$folder" in "" | *://*) return 0 ;; esac # paths as in the lists; a remote folder
    [ -d "$folder" ] || {
        cat >&2 <<END
$(basename "$experiment"): $folder is not a folder; set $variable (or the key $key). What a run needs:
  DATA_DIR     folder of the lists (DATASET.md makes them)                 DATA.PATH_TO_DATA_DIR
  VIDEO_DIR    folder of the videos or frames that they name               DATA.PATH_PREFIX
  WEIGHTS_DIR  folder of the published weights; or WEIGHTS, a file         MODEL.WEIGHTS_DIR
END
        exit 1
    }
}

# run_net [KEY VALUE ...]: the experiment whose script sourced this file.
run_net() {
    local command=("$root/tools/run_net.py")
    # shellcheck disable=SC2206 # SUBMIT_ARGS holds several words
    [ -z "${SUBMIT:-}" ] || command=("$root/tools/submit.py" ${PARTITION:+--partition "$PARTITION"} ${SUBMIT_ARGS:-})
    exec "$python" "${command[@]}" --cfg "$experiment/config.yaml" "$@"
}
