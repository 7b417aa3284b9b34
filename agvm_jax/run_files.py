"""Names of files in a run folder that training writes and others read."""

CARD = "model.json"
# Weights after the newest step, those of the best evaluation, and the average of the
# weights of all steps (`train.ema_decay`).
LAST = "weights.safetensors"
BEST = "weights_best.safetensors"
AVERAGE = "weights_average.safetensors"
