"""Decoding: every kind of image comes out as 8-bit RGB, or as one reason why not."""

import dataclasses

import cv2
import numpy as np
import pytest
from coco_files import CMYK_JPEG, with_orientation
from hypothesis import given, settings
from hypothesis import strategies as st

from agvm_jax.data.annotations.errors import UnreadableImage
from agvm_jax.data.augment.augmentation import still_placement
from agvm_jax.data.augment.decode import decode_image, jpeg_divisor


def encode(pixels, extension=".png", *options):
    return cv2.imencode(extension, pixels, list(options))[1].tobytes()


def smooth_image(height=40, width=60, seed=0):
    """A smooth RGB image, so that JPEG keeps it well."""
    small = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), np.uint8)
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR)


def test_png_comes_out_pixel_by_pixel_in_rgb_order():
    pixels = smooth_image()
    decoded = decode_image(encode(pixels[..., ::-1]), (40, 60))
    np.testing.assert_array_equal(decoded, pixels)


@pytest.mark.parametrize("extension", [".jpg", ".png", ".bmp", ".webp", ".tiff"])
def test_the_usual_formats_are_read(extension):
    pixels = smooth_image()
    decoded = decode_image(encode(pixels[..., ::-1], extension), (40, 60))
    assert np.abs(decoded.astype(int) - pixels).mean() < 4


def test_grey_sixteen_bit_and_alpha_become_eight_bit_rgb():
    grey = smooth_image()[..., 0]
    for pixels in (
        grey,
        grey.astype(np.uint16) * 257,
        np.dstack([grey, grey, grey, np.zeros_like(grey)]),
    ):
        decoded = decode_image(encode(pixels), (40, 60))
        assert decoded.dtype == np.uint8 and decoded.shape == (40, 60, 3)
        np.testing.assert_allclose(decoded[..., 1], grey, atol=1)


def test_cmyk_becomes_the_colours_it_stands_for():
    decoded = decode_image(CMYK_JPEG, (8, 16)).astype(int)
    np.testing.assert_allclose(decoded[2:6, 2:6].mean((0, 1)), [255, 0, 0], atol=12)
    np.testing.assert_allclose(decoded[2:6, 10:14].mean((0, 1)), [0, 255, 255], atol=12)


def test_an_image_is_turned_as_it_is_told_and_not_as_its_file_says():
    jpeg = encode(smooth_image(), ".jpg")
    pixels = decode_image(jpeg, (40, 60))
    noted = with_orientation(jpeg, 6)
    np.testing.assert_array_equal(decode_image(noted, (40, 60)), pixels)
    turned = decode_image(noted, (60, 40), turn_code=6)
    np.testing.assert_array_equal(turned, np.rot90(pixels, k=-1))  # to the right


def test_an_image_of_another_size_than_annotated_is_unreadable():
    with pytest.raises(UnreadableImage, match="60x40 where its annotations say 64x48"):
        decode_image(encode(smooth_image()), (48, 64))
    with pytest.raises(UnreadableImage, match="is not 999x800"):
        decode_image(encode(smooth_image(), ".jpg"), (800, 999), 4)


@pytest.mark.parametrize("divisor", [1, 2, 4, 8])
def test_a_jpeg_is_decoded_as_small_as_the_target_allows(divisor):
    pixels = smooth_image(160, 240)
    jpeg = encode(pixels[..., ::-1], ".jpg")
    target = (160 // divisor, 240 // divisor)
    assert jpeg_divisor(jpeg, (160, 240), target) == divisor
    assert jpeg_divisor(jpeg, (160, 240), (target[0] + 1, 2)) == max(1, divisor // 2)
    decoded = decode_image(jpeg, (160, 240), divisor)
    slow = cv2.resize(pixels, target[::-1], interpolation=cv2.INTER_AREA)
    assert np.abs(decoded.astype(int) - slow).mean() < 3


@settings(max_examples=300, deadline=None)
@given(
    size=st.tuples(st.integers(1, 3000), st.integers(1, 3000)),
    target=st.tuples(st.integers(1, 1400), st.integers(1, 1400)),
)
def test_an_image_is_never_decoded_smaller_than_its_target(size, target):
    divisor = jpeg_divisor(b"\xff\xd8", size, target)
    decoded = [-(-side // divisor) for side in size]
    if divisor > 1:
        assert decoded[0] >= target[0] and decoded[1] >= target[1]
    if divisor < 8:  # the next smaller size would be too small on some side
        assert any(side < 2 * divisor * t for side, t in zip(size, target, strict=True))


@pytest.mark.parametrize("size", [(320, 480), (323, 477), (161, 243)])
@pytest.mark.parametrize("flip", [False, True])
def test_a_box_painted_into_a_jpeg_that_is_decoded_small_is_where_its_box_went(
    size, flip
):
    frame = (40, 60)
    place = still_placement(size, frame)
    place = dataclasses.replace(place, flip=flip)
    y1, x1, y2, x2 = size[0] // 4, size[1] // 8, size[0] * 3 // 4, size[1] // 2
    pixels = np.zeros((*size, 3), np.uint8)
    pixels[y1:y2, x1:x2] = 255
    jpeg = encode(pixels, ".jpg")
    divisor = jpeg_divisor(jpeg, size, place.resized)
    assert divisor > 1
    shown = place.image(decode_image(jpeg, size, divisor), frame, divisor)
    (box,), _ = place.boxes(np.array([[x1, y1, x2, y2]], np.float32))
    found = np.argwhere(shown[..., 0] >= 128)
    (top, left), (bottom, right) = found.min(0), found.max(0) + 1
    np.testing.assert_allclose([left, top, right, bottom], box, atol=0.75)


def test_odd_sizes_are_rounded_up_when_decoded_small():
    jpeg = encode(smooth_image(163, 241), ".jpg")
    assert decode_image(jpeg, (163, 241), 8).shape == (21, 31, 3)


def test_only_jpeg_is_decoded_small():
    assert jpeg_divisor(encode(smooth_image()), (40, 60), (5, 5)) == 1


@pytest.mark.parametrize("extension", [".jpg", ".png"])
@pytest.mark.parametrize("share", [0.3, 0.7, 0.99])
def test_truncated_images_are_unreadable_and_never_half_grey(extension, share):
    data = encode(smooth_image(300, 400), extension)
    with pytest.raises(UnreadableImage, match="truncated"):
        decode_image(data[: int(len(data) * share)], (300, 400))


def test_bytes_after_the_end_of_a_jpeg_do_no_harm():
    jpeg = encode(smooth_image(), ".jpg")
    np.testing.assert_array_equal(
        decode_image(jpeg + b"appended by a camera" + bytes(100), (40, 60)),
        decode_image(jpeg, (40, 60)),
    )


@pytest.mark.parametrize("data", [b"", b"no image", bytes(2000), b"\xff\xd8\xff\xd9"])
def test_what_is_no_image_is_unreadable(data):
    with pytest.raises(UnreadableImage):
        decode_image(data, (40, 60))
