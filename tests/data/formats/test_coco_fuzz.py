"""Any JSON, and any bytes: a data set or one clear DataError."""

import copy
import json

import numpy as np
import pytest
from coco_files import read
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agvm_jax.data.annotations.errors import DataError
from agvm_jax.data.annotations.ground_truth import coco_dictionary
from agvm_jax.data.annotations.objects import pack, unpack

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-3, 9)
    | st.integers()
    | st.floats()
    | st.text(max_size=6),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner)
    ),
    max_leaves=8,
)


@st.composite
def nearly_coco(draw):
    """A valid file in which up to three values are replaced by any JSON, or dropped."""
    content = copy.deepcopy(
        {
            "images": [
                {"id": i, "file_name": f"{i}.png", "height": 9, "width": 9}
                for i in range(2)
            ],
            "annotations": [
                {
                    "id": i + 1,
                    "image_id": i % 2,
                    "category_id": 1,
                    "bbox": [1, 1, 3, 3],
                    "segmentation": [
                        [[1, 1, 4, 1, 4, 4]],
                        {"size": [9, 9], "counts": [10, 3, 68]},
                        {"size": [9, 9], "counts": ":3T2"},
                    ][i],
                    "area": 9,
                    "iscrowd": 0,
                }
                for i in range(3)
            ],
            "categories": [{"id": 1, "name": "one"}],
        }
    )
    for _ in range(draw(st.integers(1, 3))):
        target = content
        for _ in range(draw(st.integers(0, 3))):
            keys = list(target) if isinstance(target, dict) else range(len(target))
            inner = [k for k in keys if isinstance(target[k], dict | list)]
            if not inner:
                break
            target = target[draw(st.sampled_from(inner))]
        keys = list(target) if isinstance(target, dict) else list(range(len(target)))
        if not keys:
            continue
        key = draw(st.sampled_from(keys))
        if draw(st.booleans()):
            target[key] = draw(json_values)
        else:
            del target[key]
    return content


@settings(
    max_examples=250,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(content=st.one_of(nearly_coco(), json_values))
def test_any_json_gives_a_data_set_or_one_data_error(content, tmp_path):
    try:
        annotations = read(content, tmp_path)
    except DataError as error:
        assert str(error)
        return
    assert len(annotations) > 0
    report = annotations.report()
    json.dumps(coco_dictionary(annotations), allow_nan=False)
    kept = [annotations.objects(i) for i in range(len(annotations))]
    if annotations.sizes.max() < 100:  # else a mask may fill the memory
        for i, objects in enumerate(kept):
            packed = pack(annotations.bitmaps(i))
            assert len(unpack(packed, objects["boxes"])) == len(objects["boxes"])
    assert sum(len(o["boxes"]) for o in kept) == report.boxes
    for (height, width), objects in zip(annotations.sizes, kept, strict=True):
        boxes = objects["boxes"]
        assert np.isfinite(boxes).all()
        assert (boxes >= 0).all() and (boxes <= [width, height, width, height]).all()


@settings(
    max_examples=50,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(content=st.binary(max_size=40))
def test_any_bytes_give_one_data_error(content, tmp_path):
    with pytest.raises(DataError):
        read(content, tmp_path)
