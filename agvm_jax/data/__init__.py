"""Data sets, transforms and the input pipeline: files on disk -> numpy batches."""
