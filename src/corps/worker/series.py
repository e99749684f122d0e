"""The series of an attempt on disk: fixed-size records, each with its checksum, never too many.

    header | record | record | ... | the record that still grows, rewritten in place

A record holds `stride` samples. When RECORDS_MAX are full, pairs are merged into a new file that
replaces the old one, and the stride doubles. A torn or strange record ends the series there.
"""

from __future__ import annotations

import errno
import os
import struct
import zlib

from corps.core.series import halved, merged, summed
from corps.model.series import Point

RECORDS_MAX = 720
MAGIC = b"corpsUS1"
_HEADER = struct.Struct("<8sII")
_RECORD = struct.Struct("<dfIddqqqqIIi")
_CHECK = struct.Struct("<I")
RECORD_BYTES = _RECORD.size + _CHECK.size
FILE_MAX_BYTES = _HEADER.size + RECORDS_MAX * RECORD_BYTES


def load(path: str) -> tuple[list[Point], int]:
    """The points of a series and its stride; nothing of what is no series. Raise OSError."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return [], 1
    try:
        data = os.read(fd, FILE_MAX_BYTES)
    finally:
        os.close(fd)
    if len(data) < _HEADER.size:
        return [], 1
    magic, record_bytes, stride = _HEADER.unpack_from(data)
    if magic != MAGIC or record_bytes != RECORD_BYTES or stride == 0:
        return [], 1
    points: list[Point] = []
    for at in range(_HEADER.size, len(data) - RECORD_BYTES + 1, RECORD_BYTES):
        point = _decode(data[at : at + RECORD_BYTES])
        if point is None:
            break
        points.append(point)
    return points, stride


class Series:
    """One file to which samples are added; goes on where an earlier life of the worker ended.

    Points are not kept in memory. What could not be written is overwritten by the next sample.
    """

    def __init__(self, path: str) -> None:
        """Raise OSError."""
        self._path = path
        points, self._stride = load(path)
        self._count = len(points)
        self._growing = points[-1] if points else None
        self.sum = summed(points)

    def add(self, sample: Point) -> None:
        """On disk, but not durable, when this returns. Raise OSError."""
        self.sum.add(sample)
        if self._growing is not None and self._growing.samples < self._stride:
            self._put(self._count - 1, merged(self._growing, sample))
        elif self._count < RECORDS_MAX:
            self._put(self._count, sample)
        else:
            points, _ = load(self._path)
            self._replace([*halved(points), sample], self._stride * 2)

    def _put(self, number: int, point: Point) -> None:
        if number == 0:
            self._replace([point], self._stride)
            return
        try:
            fd = os.open(self._path, os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            self._replace([point], self._stride)
            return
        try:
            os.pwrite(fd, _encode(point), _HEADER.size + number * RECORD_BYTES)
        finally:
            os.close(fd)
        self._growing, self._count = point, number + 1

    def _replace(self, points: list[Point], stride: int) -> None:
        """The whole file anew; the old one is there until the new one is whole."""
        made = f"{self._path}.new"
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
        fd = os.open(made, flags, 0o600)
        try:
            data = _HEADER.pack(MAGIC, RECORD_BYTES, stride) + b"".join(map(_encode, points))
            if os.write(fd, data) != len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), made)
        finally:
            os.close(fd)
        os.replace(made, self._path)
        self._growing, self._count, self._stride = points[-1], len(points), stride


def _encode(point: Point) -> bytes:
    body = _RECORD.pack(
        point.at,
        point.span_s,
        point.samples,
        point.cpu_user_s,
        point.cpu_system_s,
        _known(point.io_read_bytes),
        _known(point.io_write_bytes),
        point.rss_mean_bytes,
        point.rss_max_bytes,
        point.processes,
        point.threads,
        _known(point.fds),
    )
    return body + _CHECK.pack(zlib.crc32(body))


def _decode(record: bytes) -> Point | None:
    body = record[: _RECORD.size]
    if zlib.crc32(body) != _CHECK.unpack_from(record, _RECORD.size)[0]:
        return None
    at, span_s, samples, user_s, system_s, read, write, mean, most, processes, threads, fds = (
        _RECORD.unpack(body)
    )
    return Point(
        at=at,
        span_s=span_s,
        samples=samples,
        cpu_user_s=user_s,
        cpu_system_s=system_s,
        io_read_bytes=_unknown(read),
        io_write_bytes=_unknown(write),
        rss_mean_bytes=mean,
        rss_max_bytes=most,
        processes=processes,
        threads=threads,
        fds=_unknown(fds),
    )


def _known(value: int | None) -> int:
    return -1 if value is None else value


def _unknown(value: int) -> int | None:
    return None if value < 0 else value
