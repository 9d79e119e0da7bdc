# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""Calibration caches as TensorRT up to 10.16 reads and writes them: a scale for each tensor, in a text file."""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from yolo_compress.errors import DataError, UsageError, entry_of

LARGEST_FILE = 16 << 20  # bytes; the cache of a detector has some hundred lines
LARGEST_NAME = 4096  # bytes of UTF-8
SHOWN = 60  # characters of a line that an error repeats
# what caches of the two calibrators in use have in their first line; others are read, and not written from nothing
ALGORITHMS = {"EntropyCalibration2": "IInt8EntropyCalibrator2", "MinMaxCalibration": "IInt8MinMaxCalibrator"}
HEADER = re.compile(r"TRT-([1-9][0-9]{3,5})-([A-Za-z][A-Za-z0-9_]{0,63})")
SCALE = re.compile(r"[0-9A-Fa-f]{8}|0")  # nothing pads what TensorRT writes, which shows in zero alone
DOTTED = re.compile(r"([0-9]{1,2})\.([0-9]{1,2})\.([0-9]{1,2})(?:\.[0-9A-Za-z.+-]*)?")
NUMBER = re.compile(r"[1-9][0-9]{3,5}")


@dataclass(frozen=True)
class CalibrationCache:
    """A calibration cache.

    The format: line 1 is `TRT-<version>-<algorithm>`, each further line `<tensor>: <scale>` with the scale as the eight
    hexadecimal digits of a float32, most significant byte first. A scale is the largest magnitude that INT8 codes stand
    for, divided by 127.

    Attributes:
        version: Of TensorRT as one number, see `version_number`; TensorRT does not read caches of another version.
        algorithm: Of the calibrator, such as EntropyCalibration2; TensorRT does not read those of another one.
        scales: By the name of the tensor in the network, in the order of the file; each is a float32 above zero.
    """

    version: int
    algorithm: str
    scales: Mapping[str, float]

    def __post_init__(self) -> None:
        """Round scales to float32 and refuse what a file cannot hold.

        Raises:
            DataError: The header, a name or a scale has no place in a cache.
        """
        header = f"TRT-{self.version}-{self.algorithm}"
        if not HEADER.fullmatch(header):
            raise DataError(
                f"'{header}' is not the first line of a calibration cache, such as TRT-100300-MinMaxCalibration"
            )
        if not self.scales:
            raise DataError("a calibration cache without a scale says nothing; calibrate again")
        object.__setattr__(self, "scales", {name: _checked(name, scale) for name, scale in self.scales.items()})

    @staticmethod
    def read(path: Path) -> CalibrationCache:
        """Read a cache from a file.

        Raises:
            DataError: There is none, or it is none; the message names the line and what is wrong with it.
        """
        try:
            return CalibrationCache.parse(read_file(path, LARGEST_FILE))
        except DataError as error:
            raise DataError(f"'{path}': {error}") from error

    @staticmethod
    def parse(content: bytes) -> CalibrationCache:
        """Read a cache.

        Raises:
            DataError: It is not one; the message names the line and what is wrong with it.
        """
        if len(content) > LARGEST_FILE:
            raise DataError(f"{len(content):,} bytes are no calibration cache; one has less than {LARGEST_FILE:,}")
        try:
            text = bytes(content).decode("utf-8")
        except UnicodeDecodeError as error:
            line = bytes(content[: error.start]).count(b"\n") + 1
            raise _damaged(line, f"byte {error.start} of the file is not UTF-8") from error
        # by line feeds only: other separators that Python knows may stand in names
        lines = text.removesuffix("\n").split("\n")
        header = HEADER.fullmatch(lines[0])
        if not header:
            raise _damaged(1, "it has to be such as TRT-8600-EntropyCalibration2", lines[0])
        scales: dict[str, float] = {}
        for number, line in enumerate(lines[1:], 2):
            name, separator, digits = line.rpartition(": ")  # names may hold the separator as well
            if not separator:
                raise _damaged(number, "it has to be such as 'images: 3c010a14'", line)
            if not SCALE.fullmatch(digits):
                raise _damaged(number, "behind the last ': ' there have to be eight hexadecimal digits", line)
            if name in scales:
                raise _damaged(number, "the tensor has a scale already", line)
            try:
                scales[name] = _checked(name, struct.unpack(">f", bytes.fromhex(digits.zfill(8)))[0])
            except DataError as error:
                raise _damaged(number, str(error), line) from error
        if not scales:
            raise _damaged(2, "there is no scale; the calibration that wrote it was cut off")
        return CalibrationCache(int(header[1]), header[2], scales)

    def to_bytes(self) -> bytes:
        """Return the file."""
        lines = [f"TRT-{self.version}-{self.algorithm}"]
        lines += [f"{name}: {struct.pack('>f', scale).hex()}" for name, scale in self.scales.items()]
        return ("\n".join(lines) + "\n").encode("utf-8")


def read_file(path: Path, most: int) -> bytes:
    """Return a file of at most so many bytes; a larger one is not read to its end.

    Raises:
        DataError: It cannot be read, or is larger.
    """
    try:
        with path.open("rb") as stream:
            content = stream.read(most + 1)
    except OSError as error:
        raise DataError(f"'{path}' cannot be read ({error.strerror}); check the path") from error
    if len(content) > most:
        raise DataError(f"'{path}' has more than {most:,} bytes, so it is not what it is taken for; give another file")
    return content


def version_number(version: str | int) -> int:
    """Return a version of TensorRT as caches have it: 8600 for 8.6.0, four digits before 10; 100300 for 10.3.0.

    Raises:
        UsageError: It is no version; of two parts only, such as 10.3, it is none either, since 10.10 reads the same as
            10.1 once it was a number.
    """
    text = str(version)
    if NUMBER.fullmatch(text):
        return int(text)
    found = DOTTED.fullmatch(text)
    major, minor, patch = (int(part) for part in found.groups()) if found else (0, 0, 0)
    if not major:
        raise UsageError(
            f"trt_version={text} is not a version of TensorRT; give what `python -c 'import tensorrt; "
            "print(tensorrt.__version__)'` prints on the device, such as 10.3.0, or as caches have it, such as 100300"
        )
    return major * (1000 if major < 10 else 10000) + minor * 100 + patch


def known_algorithm(algorithm: str) -> str:
    """Return the name of an algorithm that calibrators of TensorRT have.

    Raises:
        UsageError: There is none of that name.
    """
    entry_of(ALGORITHMS, "algorithm", algorithm)
    return algorithm


def _checked(name: str, scale: float) -> float:
    """Return a scale as float32.

    A scale of zero, which TensorRT writes for a tensor that was zero on every image, is refused: nothing can be divided
    by it, and TensorRT from 8.5 on stops at one while it builds (`Assertion getter(i) != 0 failed`, issue 4446 of
    NVIDIA/TensorRT), which names no tensor.
    """
    if not name or any(mark in name for mark in "\n\r\0"):
        raise DataError(f"{name[:SHOWN]!r} is not the name of a tensor: it is empty, or holds the end of a line")
    try:
        size = len(name.encode("utf-8"))
    except UnicodeEncodeError as error:
        raise DataError(f"{name[:SHOWN]!r} is not the name of a tensor: it cannot be written as UTF-8") from error
    if size > LARGEST_NAME:
        raise DataError(f"the name '{name[:SHOWN]}...' has {size:,} bytes; at most {LARGEST_NAME:,} are read")
    try:
        rounded = struct.unpack(">f", struct.pack(">f", scale))[0]
    except OverflowError:
        rounded = math.inf
    if not math.isfinite(rounded) or rounded < 0:
        raise DataError(f"the scale {rounded} is not a finite number above zero; calibrate again")
    if not rounded:
        raise DataError("the scale is zero: no calibration image brought this tensor to life; calibrate on others")
    return rounded


def _damaged(line: int, reason: str, text: str = "") -> DataError:
    shown = f" ({text[:SHOWN]!r}{'...' if len(text) > SHOWN else ''})" if text else ""
    return DataError(f"line {line} of the calibration cache{shown}: {reason}")
