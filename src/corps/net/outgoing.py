"""Answers to Want: the bytes of a blob, encoded as it pays and no faster than the asker says."""

from __future__ import annotations

import os

from corps.errors import CorpsError, ProtocolError
from corps.net.bulk_client import SMALL_BYTES, Blobs
from corps.net.channel import SENDFILE_BYTES, Channel
from corps.net.encode import Encoder
from corps.net.pace import Pace
from corps.wire.bulk import BulkRequest, Sending, Trouble, Want
from corps.wire.codec import encode_frame

STEP_S = 0.1  # between two of which a slow asker sees something arrive
STEP_MIN_BYTES = 256


class Outgoing:
    """What one connection sends. Its pace is that of the last Want."""

    def __init__(self, channel: Channel[BulkRequest], store: Blobs) -> None:
        self._channel, self._store = channel, store
        self._rate_bytes_s: int | None = None
        self._pace: Pace | None = None

    def send(self, want: Want) -> None:
        try:
            fd = self._store.open_blob(want.digest)
        except CorpsError as error:
            self._channel.hold(encode_frame(Trouble(code=error.code, message=error.message)))
            return
        try:
            self._send_blob(want, fd)
        finally:
            os.close(fd)

    def _send_blob(self, want: Want, fd: int) -> None:
        size_bytes = os.fstat(fd).st_size
        count = size_bytes - want.offset if want.length is None else want.length
        if want.offset < 0 or not 0 <= count <= size_bytes - want.offset:
            raise ProtocolError(
                f"blob {want.digest!r} has {size_bytes} bytes, "
                f"not {max(count, 0)} from offset {want.offset} on"
            )
        self._set_pace(want.rate_bytes_s)
        end = want.offset + count
        encoder = Encoder(want, fd, size_bytes, self._store.open_blob)
        try:
            offset = want.offset
            while True:
                sending, data = encoder.next(offset)
                offset += end - offset if sending.length is None else sending.length
                self._channel.hold(encode_frame(sending))
                if data is not None:
                    self._send_data(data)
                else:
                    self._send_raw(fd, sending, offset - sending.offset)
                if offset >= end:
                    return
        finally:
            encoder.close()

    def _set_pace(self, rate_bytes_s: int | None) -> None:
        if rate_bytes_s is not None and rate_bytes_s <= 0:
            raise ProtocolError(f"cannot send {rate_bytes_s} bytes in a second")
        if rate_bytes_s != self._rate_bytes_s:
            self._rate_bytes_s = rate_bytes_s
            self._pace = None if rate_bytes_s is None else Pace(rate_bytes_s)

    def _send_raw(self, fd: int, sending: Sending, count: int) -> None:
        if count <= SMALL_BYTES:
            data = os.pread(fd, count, sending.offset)
            self._send_data(data)
            sent = len(data)
        else:
            sent = self._send_file(fd, sending.offset, count)
        if sent < count:
            raise OSError(f"blob {sending.digest!r} was cut short on disk")

    def _send_data(self, data: bytes) -> None:
        if self._pace is None:
            self._channel.hold(data)
            return
        step = self._step_bytes()
        for start in range(0, len(data), step):
            self._pace.spend(len(data[start : start + step]))
            self._channel.hold(data[start : start + step])
            self._channel.flush()

    def _send_file(self, fd: int, offset: int, count: int) -> int:
        if self._pace is None:
            return self._channel.send_file(fd, offset, count)
        step, done = self._step_bytes(), 0
        while done < count:
            part = min(step, count - done)
            self._pace.spend(part)
            sent = self._channel.send_file(fd, offset + done, part)
            done += sent
            if sent < part:
                break
        return done

    def _step_bytes(self) -> int:
        assert self._rate_bytes_s is not None
        return max(STEP_MIN_BYTES, min(SENDFILE_BYTES, int(self._rate_bytes_s * STEP_S)))
