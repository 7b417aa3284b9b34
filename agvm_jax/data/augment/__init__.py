"""From an encoded image to pixels in a frame."""
