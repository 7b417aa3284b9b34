"""How large a picture becomes: its ratio is kept, whatever the rule."""

import dataclasses

from agvm_jax.data.augment.decode import Size


@dataclasses.dataclass(frozen=True)
class Resizing:
    """The rule by which pictures are resized.

    Attributes:
      short_sides: pixels that the shorter side gets; training draws one of them each
        time, evaluation takes the largest. (): as large as the frame allows.
      long_side: pixels that the longer side may have at most, which then decides; 0:
        as many as the frame has.
    """

    short_sides: tuple[int, ...] = ()
    long_side: int = 0

    def drawn(self, u: float) -> int:
        """The shorter side for a uniform number u in [0, 1); 0: no such rule."""
        if not self.short_sides:
            return 0
        return self.short_sides[int(u * len(self.short_sides))]

    def still(self) -> int:
        """The shorter side in evaluation; 0: no such rule."""
        return max(self.short_sides, default=0)

    def target(self, size: Size, frame: Size, short: int, scale: float = 1.0) -> Size:
        """The size that a picture of `size` gets.

        Detectron's rule (Girshick et al. 2018, `SCALES` and `MAX_SIZE`): the shorter
        side becomes `short` pixels, unless the longer one passed its limit.

        Args:
          frame: (H, W); without `scale` nothing becomes larger than it.
          short: what `drawn` or `still` said.
          scale: multiplies the result, which may then be larger than the frame.

        >>> Resizing((800,), 1333).target((480, 640), (800, 1344), 800)
        (800, 1067)
        >>> Resizing((800,), 1333).target((200, 640), (800, 1344), 800)
        (417, 1333)
        """
        factor = min(f / s for f, s in zip(frame, size, strict=True))
        if short:
            factor = min(factor, short / min(size))
        if self.long_side:
            factor = min(factor, self.long_side / max(size))
        factor *= scale
        # Rounding may not carry the longer side over the frame when scale is 1.
        height, width = (max(1, round(side * factor)) for side in size)
        return (height, width)
