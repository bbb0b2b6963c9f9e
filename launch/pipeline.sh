#!/usr/bin/env bash
# The whole story: prepare -> pretrain -> dump -> transfer -> report, into runs/demo.
#
#   launch/pipeline.sh                     the built-in ads world
#   DATA=<folder> launch/pipeline.sh       KuaiRand, its official folder or a Parquet subset of it
#
# Variables: DATA, PYTHON (python3), RANKS (processes a stage, 2), OUT (runs/demo; its former content goes).
set -euo pipefail
cd "$(dirname "$0")/.."

data=${DATA:-}
python=${PYTHON:-python3}
ranks=${RANKS:-2}
out=${OUT:-runs/demo}
world=adsworld
words=()
if [[ -n $data ]]; then
  world=kuairand
  words=("source=$data")
fi

stage() { # name, config, words: a stage on all ranks
  local name=$1 config=$2
  shift 2
  echo "== $name" >&2
  "$python" -m launch.ranks --nproc-per-node "$ranks" -m "launch.$name" "configs/$name/$config.yaml" "$@"
}

rm -rf "$out"
echo "== prepare" >&2
"$python" -m launch.prepare "configs/prepare/$world.yaml" "output=$out/data" "${words[@]}"
# The plain network trains in half the time, and what it learns transfers best so far (docs/LOG.md).
stage pretrain "plain_$world" "data=$out/data" "output=$out/pretrain"
stage dump "$world" "data=$out/data" "pretrain=$out/pretrain" "output=$out/reps"
stage transfer "$world" "input.data=$out/data" "input.pretrain=$out/pretrain" "input.reps=$out/reps" "output=$out/transfer"
echo "== report" >&2
oracle=null
if [[ -d $out/data/oracle ]]; then oracle=$out/data/oracle; fi
"$python" -m launch.report configs/report/demo.yaml "runs=[$out/transfer]" "pretrain=$out/pretrain" \
  "oracle=$oracle" "output=$out"
