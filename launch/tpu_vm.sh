#!/bin/bash
# Trains on all workers of a Cloud TPU VM slice.
#
#   TPU=NAME ZONE=us-east5-b launch/tpu_vm.sh --config configs/faster_rcnn.py \
#     --config.data.root=/mnt/data/coco --config.workdir=/mnt/data/runs/first
#
# The checkout and the package are on every worker, the data and the run folder on a
# disk or bucket that all of them have mounted. It ends with train.py's exit code; while
# that is 75, which means stopped and saved, it starts the same command again.
set -u
: "${TPU:?the name of the TPU VM}" "${ZONE:?its zone}" "${CHECKOUT:=agvm_jax}"

command="cd $CHECKOUT && python3 train.py --distributed"
for argument in "$@"; do
  command+=" $(printf '%q' "$argument")"
done
command+=" --config.train.progress=False"

while true; do
  gcloud compute tpus tpu-vm ssh "$TPU" --zone="$ZONE" --worker=all --command="$command"
  code=$?
  [ "$code" = 75 ] || exit "$code"
done
