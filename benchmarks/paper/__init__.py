"""The paper's comparisons as grids of small runs: `python -m benchmarks.paper`.

One idea a file:

* `methods`: what is compared, as changes to a config of `train.py`;
* `scales`: how large a run is (tiny: measured here; paper: commands for a pod);
* `images`: the generated images that all runs read;
* `cells`: one run: its name, its folder, its result;
* `program`, `training`, `curves`: trains one cell with the product's own parts;
* `grids`: which cells are wanted, given those that are done;
* `forms`, `catalogue`, `steps`: the tables;
* `work`: processes that take cells and train them;
* `results`, `statistics`, `tables`, `figures`, `report`: from run folders to CSV, text
  and figures;
* `full_scale`: the paper's own runs as commands for a pod.
"""
