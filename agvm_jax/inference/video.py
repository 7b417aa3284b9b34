"""Frames of a video file, and a video of frames."""

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from agvm_jax.data.annotations.errors import DataError


class Video:
    """A video that is read frame by frame: (H, W, 3) uint8 RGB.

    Args:
      path: anything that OpenCV's build reads.

    Raises:
      DataError: it cannot be read.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path).expanduser()
        if not self.path.is_file():
            raise DataError(f"there is no video {self.path}.")
        self._capture = cv2.VideoCapture(str(self.path))
        if not self._capture.isOpened():
            raise DataError(f"{self.path} is no video that OpenCV can read.")
        self.frames_a_second = self._capture.get(cv2.CAP_PROP_FPS) or 25.0

    @property
    def expected(self) -> int | None:
        """How many frames its head promises; None where it does not say."""
        count = int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT))
        return count if count > 0 else None

    def __iter__(self) -> Iterator[np.ndarray]:
        """Yields the frames, once."""
        try:
            while True:
                there, frame = self._capture.read()
                if not there:
                    return
                yield cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)
        finally:
            self._capture.release()


class VideoWriter:
    """An MP4 file, made with the first frame, whose size all others have.

    Args:
      path: where.
      frames_a_second: its speed.
    """

    def __init__(self, path: Path, frames_a_second: float):
        self.path, self._rate = Path(path), frames_a_second
        self._writer: cv2.VideoWriter | None = None

    def add(self, frame: np.ndarray) -> None:
        """Appends a frame, (H, W, 3) uint8 RGB.

        Raises:
          DataError: OpenCV's build cannot write it.
        """
        if self._writer is None:
            size = frame.shape[1::-1]
            code = cv2.VideoWriter_fourcc(*"mp4v")
            self._writer = cv2.VideoWriter(str(self.path), code, self._rate, size)
            if not self._writer.isOpened():
                raise DataError(f"OpenCV cannot write the video {self.path}.")
        self._writer.write(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))

    def close(self) -> None:
        """Ends the file."""
        if self._writer is not None:
            self._writer.release()
