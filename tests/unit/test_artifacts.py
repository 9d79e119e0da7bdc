# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""Files are written whole or not at all, and hashed by what they hold."""

from __future__ import annotations

import errno
import hashlib
import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from yolo_compress import artifacts
from yolo_compress.errors import OutputError


def files(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


@pytest.mark.parametrize("content", [b"\x00\x01", "text, ä"])
def test_a_file_is_written_and_its_folder_made(tmp_path, content):
    path = tmp_path / "new" / "a.bin"
    artifacts.atomic_write(path, content)
    assert path.read_bytes() == (content if isinstance(content, bytes) else content.encode())
    assert files(tmp_path) == ["new", "new/a.bin"]


@pytest.mark.parametrize("stop", [KeyboardInterrupt, ValueError, SystemExit])
def test_what_stops_the_writer_leaves_the_old_file_and_nothing_else(tmp_path, stop):
    path = tmp_path / "a.json"
    path.write_text("old")
    with pytest.raises(stop), artifacts.atomic_path(path) as temporary:
        temporary.write_text("half")
        assert path.read_text() == "old"
        raise stop
    assert path.read_text() == "old"
    assert files(tmp_path) == ["a.json"]


def test_the_temporary_lies_beside_the_file_and_keeps_its_suffix(tmp_path):
    path = tmp_path / "model.onnx"
    with artifacts.atomic_path(path) as temporary:
        assert temporary.parent == path.parent
        assert temporary.suffix == ".onnx"
        assert not temporary.exists()
        temporary.write_bytes(b"x")
    assert files(tmp_path) == ["model.onnx"]


def test_a_folder_replaces_a_folder(tmp_path):
    path = tmp_path / "net_openvino_model"
    for content in ("first", "second"):
        with artifacts.atomic_path(path) as temporary:
            temporary.mkdir()
            (temporary / f"{content}.xml").write_text(content)
    assert files(tmp_path) == ["net_openvino_model", "net_openvino_model/second.xml"]


def test_a_folder_that_cannot_be_replaced_stays(tmp_path, monkeypatch):
    path = tmp_path / "engine"
    path.mkdir()
    (path / "old.bin").write_text("old")
    replace = os.replace

    def refuse(source, target):
        if ".part" in str(source):
            raise OSError(errno.EIO, "I/O error")
        replace(source, target)

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(OutputError), artifacts.atomic_path(path) as temporary:
        temporary.mkdir()
    assert files(tmp_path) == ["engine", "engine/old.bin"]


def test_an_interrupted_folder_leaves_the_old_one(tmp_path):
    path = tmp_path / "engine"
    path.mkdir()
    (path / "old.bin").write_text("old")
    with pytest.raises(KeyboardInterrupt), artifacts.atomic_path(path) as temporary:
        temporary.mkdir()
        (temporary / "new.bin").write_text("new")
        raise KeyboardInterrupt
    assert files(tmp_path) == ["engine", "engine/old.bin"]


@pytest.mark.parametrize(
    ("number", "message"),
    [
        (errno.ENOSPC, "the disk is full; free some space, then run the same command again"),
        (errno.EDQUOT, "the disk is full"),
        (errno.EACCES, "choose another folder with project=DIR"),
        (errno.EROFS, "choose another folder with project=DIR"),
        (errno.EIO, "check the path, then run again"),
    ],
)
@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_disk_that_refuses_is_told_and_leaves_the_old_file(tmp_path, monkeypatch, number, message, step):
    path = tmp_path / "a.json"
    path.write_text("old")

    def refuse(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, step, refuse)
    with pytest.raises(OutputError) as caught:
        artifacts.atomic_write(path, "new")
    assert message in str(caught.value)
    assert f"cannot write '{path}'" in str(caught.value)
    monkeypatch.undo()
    assert path.read_text() == "old"
    assert files(tmp_path) == ["a.json"]


def test_a_folder_below_a_file_cannot_be_written_to(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=r"cannot write '.*file/run/a\.json'"):
        artifacts.atomic_write(tmp_path / "file" / "run" / "a.json", "x")
    assert files(tmp_path) == ["file"]


@pytest.mark.skipif(hasattr(os, "geteuid") and os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission_cannot_be_written_to(tmp_path):
    folder = tmp_path / "locked"
    folder.mkdir(mode=0o500)
    with pytest.raises(OutputError, match="choose another folder with project=DIR"):
        artifacts.atomic_write(folder / "a.json", "x")


def test_a_block_that_writes_nothing_is_an_error(tmp_path):
    with pytest.raises(OutputError), artifacts.atomic_path(tmp_path / "a.json"):
        pass
    assert files(tmp_path) == []


@settings(max_examples=30, deadline=None)
@given(st.binary(max_size=99))
def test_the_hash_of_a_file_is_sha256(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("hash") / "a"
    path.write_bytes(content)
    assert artifacts.sha256_path(path) == hashlib.sha256(content).hexdigest()
    assert artifacts.size_bytes(path) == len(content)


def test_the_hash_of_a_folder_depends_on_names_and_contents_not_on_order(tmp_path):
    def folder(name, **contents):
        for file, content in contents.items():
            path = tmp_path / name / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content)
        return artifacts.sha256_path(tmp_path / name)

    first = folder("a", x="1", y="2")
    assert folder("b", y="2", x="1") == first
    assert folder("c", x="1", z="2") != first
    assert folder("d", x="1", y="3") != first
    assert artifacts.size_bytes(tmp_path / "a") == 2
