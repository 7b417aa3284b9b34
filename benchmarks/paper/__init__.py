"""The paper's comparisons as grids of small runs: `python -m benchmarks.paper`.

One idea a file:

* `methods`: what is compared, as changes to a config of `train.py`;
* `scales`: how large a run is (tiny: measured here; paper: commands for a pod);
* `images`: the generated pictures that all runs read;
* `cells`: one run: its name, its folder, its result;
* `training`: trains one cell with the product's own parts;
* `grids`: which cells a table needs, given those that are done;
* `work`: processes that take cells and train them;
* `results`, `statistics`, `tables`, `figures`: from run folders to CSV, text, pictures.
"""
