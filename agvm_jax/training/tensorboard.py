"""Scalars as TensorBoard events, written by the thread that has them.

tensorboardX's own writer has a thread and a queue; when the disk is full the thread
ends and the queue waits for ever. Only its messages and its checksum are used here.
"""

import logging
import socket
import struct
import time
from collections.abc import Mapping
from pathlib import Path

from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.summary_pb2 import Summary
from tensorboardX.record_writer import masked_crc32c

from agvm_jax.training.storage import AppendFile


class Events:
    """An event file.

    Args:
      folder: where; it is made.
      start_step: TensorBoard forgets what earlier files say of later steps.
      log: where it is told that the disk takes no more.
    """

    def __init__(self, folder: Path, start_step: int, log: logging.Logger):
        folder.mkdir(exist_ok=True)
        name = f"events.out.tfevents.{time.time():.6f}.{socket.gethostname()}"
        self._file = AppendFile(folder / name, log)
        self._add(Event(file_version="brain.Event:2"))
        if start_step:
            start = SessionLog(status=SessionLog.START)
            self._add(Event(step=start_step + 1, session_log=start))

    def add(self, step: int, scalars: Mapping[str, float]) -> None:
        """Writes the scalars of a step."""
        values = [Summary.Value(tag=k, simple_value=v) for k, v in scalars.items()]
        self._add(Event(step=step, summary=Summary(value=values)))

    def close(self) -> None:
        """Closes the file."""
        self._file.close()

    def _add(self, event: Event) -> None:
        event.wall_time = time.time()
        data = event.SerializeToString()
        # A record of a TFRecord file: length, its checksum, data, its checksum.
        length = struct.pack("<Q", len(data))
        sums = [struct.pack("<I", masked_crc32c(part)) for part in (length, data)]
        self._file.append(length + sums[0] + data + sums[1])
