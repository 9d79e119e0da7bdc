# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""What flows between stages: files described by frozen dataclasses, and the only way to write them."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from yolo_compress.errors import OutputError

MEGABYTE = 1 << 20  # bytes of what is told as MB, by Ultralytics and so by us


@dataclass(frozen=True)
class Checkpoint:
    """A stock Ultralytics checkpoint; `gflops` counts two operations per multiply-accumulate at `imgsz` pixels."""

    path: Path
    sha256: str
    names: tuple[str, ...]
    params: int
    gflops: float
    imgsz: int


@dataclass(frozen=True)
class EngineFile:
    """A file or folder that one runtime loads; `notes` name every fallback that happened while building it."""

    path: Path
    engine: str
    precision: str
    imgsz: int
    size_bytes: int
    sha256: str
    notes: tuple[str, ...] = ()


def sha256_path(path: str | Path) -> str:
    """Hash a file, or a folder as its sorted relative names and contents.

    The names take part so that a renamed weight file inside an engine folder counts as a change.
    """
    path = Path(path)
    digest = hashlib.sha256()
    for file in [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file()):
        if path.is_dir():
            digest.update(file.relative_to(path).as_posix().encode() + b"\0")
        with file.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def size_bytes(path: str | Path) -> int:
    """Sum the sizes of a file or of all files in a folder."""
    path = Path(path)
    if path.is_file():
        return path.stat().st_size
    return sum(p.stat().st_size for p in path.rglob("*") if p.is_file())


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary sibling of `path` (same suffix) that replaces it when the block succeeds.

    The block may write a file or create a folder there. Whatever ends the block early, a keyboard interrupt included,
    removes the temporary and leaves an earlier `path` as it was.

    Raises:
        OutputError: The folder cannot be written to, or the disk is full.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.stem}.{uuid.uuid4().hex[:8]}.part{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        _sync(temporary)
        _replace(temporary, path)
    except OSError as error:
        _remove(temporary)
        raise _output_error(path, error) from error
    except BaseException:
        _remove(temporary)
        raise


def atomic_write(path: str | Path, content: bytes | str) -> None:
    """Write a whole file or nothing.

    Raises:
        OutputError: The folder cannot be written to, or the disk is full.
    """
    with atomic_path(path) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)


def _sync(path: Path) -> None:
    mode = "rb+" if os.name == "nt" else "rb"  # Windows refuses to sync a file that is open for reading only
    inside = [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file()]
    for file in (file for file in inside if not file.is_symlink()):  # what a link leads to is not ours
        with file.open(mode) as stream:
            os.fsync(stream.fileno())


def _replace(temporary: Path, path: Path) -> None:
    if not (temporary.is_dir() and path.is_dir()):
        os.replace(temporary, path)
        return
    old = temporary.with_suffix(".old")  # os.replace refuses a folder that is not empty, so that one steps aside
    os.replace(path, old)
    try:
        os.replace(temporary, path)
    except BaseException:
        os.replace(old, path)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
        return
    with suppress(OSError):  # it may never have come to be, below a file for instance
        path.unlink()


def _output_error(path: Path, error: OSError) -> OutputError:
    if error.errno in {errno.EACCES, errno.EPERM, errno.EROFS}:
        return OutputError(f"cannot write '{path}': {error.strerror}; choose another folder with project=DIR")
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return OutputError(f"cannot write '{path}': the disk is full; free some space, then run the same command again")
    return OutputError(f"cannot write '{path}': {error.strerror or error}; check the path, then run again")
