"""What is known of a split's images: objects, masks, segments, and what was mended."""
