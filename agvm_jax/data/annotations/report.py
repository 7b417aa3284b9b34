"""The report of a split: what it holds, and what had to be mended."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Report:
    """What a split holds, and what was dropped or mended on the way in.

    Attributes:
      images: how many are listed.
      boxes: boxes kept, crowd regions among them.
      crowd_boxes: kept boxes that are crowd regions, never a target.
      images_without_boxes: images kept as negatives.
      clipped_boxes: boxes that reached over the image's edge.
      zero_area_boxes: boxes dropped because they had no area as they were given.
      outside_boxes: boxes dropped because nothing of them lies in the image.
      tiny_boxes: kept boxes that are smaller than a pixel, both ways.
      most_boxes: the largest number of kept boxes in one image.
      masks: kept boxes that have a mask.
      label_maps: images whose every pixel is labelled, void included.
      dropped_polygons: polygons dropped because they enclose nothing.
      lost_masks: kept boxes whose segmentation holds no mask (only such polygons, or
        run lengths without a pixel); where masks are learnt they are left out.
      unreadable_images: images without a stated size that could not be decoded.
      turned_images: images that are turned as their EXIF data say.
      unturned_images: images whose EXIF data say so, but not their annotations.
    """

    images: int
    boxes: int
    crowd_boxes: int
    images_without_boxes: int
    clipped_boxes: int
    zero_area_boxes: int
    outside_boxes: int
    tiny_boxes: int
    most_boxes: int
    masks: int
    label_maps: int
    dropped_polygons: int
    lost_masks: int
    unreadable_images: int
    turned_images: int = 0
    unturned_images: int = 0

    def lines(self) -> list[str]:
        """The report for people: the contents first, then only what was mended."""
        first = f"{self.images} images"
        if self.boxes or not self.label_maps:
            first += f", {self.boxes} boxes, at most {self.most_boxes} in one image"
        if self.masks:
            first += f", {self.masks} masks"
        if self.label_maps:
            first += f", {self.label_maps} label maps"
        lines = [first]
        for count, text in (
            (self.crowd_boxes, "crowd regions (ignored, never a target)"),
            (
                self.images_without_boxes if self.boxes else 0,
                "images without boxes (kept as negatives)",
            ),
            (
                self.clipped_boxes,
                "boxes clipped to their image"
                + " (are they x1 y1 x2 y2, not x y width height?)"
                * (2 * (self.clipped_boxes + self.outside_boxes) > self.boxes),
            ),
            (self.zero_area_boxes, "boxes without area dropped"),
            (
                self.outside_boxes,
                "boxes wholly outside their image dropped"
                + " (are they pixels where shares are meant, or are sizes wrong?)"
                * (self.outside_boxes > self.boxes),
            ),
            (
                self.tiny_boxes,
                "boxes smaller than a pixel"
                + " (are they shares of the image, not pixels?)"
                * (2 * self.tiny_boxes > self.boxes),
            ),
            (
                self.dropped_polygons,
                "polygons that enclose nothing (fewer than three points, say) dropped",
            ),
            (self.lost_masks, "boxes without a usable mask, left out of mask training"),
            (self.unreadable_images, "images of unknown size that cannot be decoded"),
            (self.turned_images, "images turned as their EXIF data say"),
            (
                self.unturned_images,
                "images with an EXIF turn used as they are stored (data.exif_turns)",
            ),
        ):
            if count:
                lines.append(f"{count} {text}")
        return lines
