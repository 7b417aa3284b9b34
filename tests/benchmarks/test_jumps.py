"""The way from a COCO folder to a batch stays short."""

from benchmarks.jumps import walk_data, walk_gradient


def test_a_coco_folder_becomes_a_batch_through_few_files(tmp_path):
    walk = walk_data(tmp_path)
    assert {"data/formats/coco_folder.py", "data/pipeline.py"} <= walk.files.keys()
    assert len(walk.files) <= 12
    assert 50 < walk.jumps <= 102


def test_a_gradient_is_followed_to_the_update():
    walk = walk_gradient()
    assert {"training/step.py", "optim/groups.py"} <= walk.files.keys()
    assert walk.jumps > 0
