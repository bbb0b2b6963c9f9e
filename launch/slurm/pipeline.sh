#!/usr/bin/env bash
# The chain of stages on a cluster, each a job that waits for the one before it.
#
#   OUT=<shared folder> launch/slurm/pipeline.sh adsworld --nodes 4 --gpus-per-node 8
#
# The first word names the configs; what follows goes to every sbatch. The dataset must be in $OUT/data already
# (launch/pipeline.sh says how it is made: one process, no accelerator).
set -euo pipefail
cd "$(dirname "$0")/../.."

config=${1:?the first word names the configs, as adsworld}
shift
: "${OUT:?say OUT=<a folder that all nodes share>}"

after=
submit() { # stage, words
  local stage=$1
  shift
  after=$(sbatch --parsable --job-name "lfm4ads-$stage" ${after:+--dependency="afterok:$after"} \
    "${options[@]}" launch/slurm/stage.sbatch "$stage" "configs/$stage/$config.yaml" "$@")
  after=${after%%;*}
  echo "$stage: job $after"
}

options=("$@")
submit pretrain "data=$OUT/data" "output=$OUT/pretrain"
submit dump "data=$OUT/data" "pretrain=$OUT/pretrain" "output=$OUT/reps"
submit transfer "input.data=$OUT/data" "input.pretrain=$OUT/pretrain" "input.reps=$OUT/reps" "output=$OUT/transfer"
