# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""The documents say what the code says, and nothing in the project points outside of it."""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path

import pytest

from benchmarks import tables
from yolo_compress import recipe
from yolo_compress.cli.modes import MODES

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
FOLDERS = ("yolo_compress", "benchmarks", "configs", "docs", "tests", "calib_data")
TEXT = [
    path
    for folder in FOLDERS
    for path in sorted((ROOT / folder).rglob("*"))
    if path.suffix in {".py", ".md", ".yaml", ".html", ".txt"}
]
TEXT += [
    ROOT / name for name in ("README.md", "CONTRIBUTING.md", "Makefile", "setup.cfg", "pyproject.toml", ".gitignore")
]
LICENSE_SHA256 = "0d96a4ff68ad6d4b6f1f30f713b18d5184912ba8dd389f86aa7710db079abcb0"  # as the FSF publishes it


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def test_every_mode_has_its_section_with_its_help():
    text = (ROOT / "docs/cli.md").read_text(encoding="utf-8")
    headings = " ".join(re.findall(r"^## (.+)$", text, re.MULTILINE))
    for name in MODES:
        assert re.search(rf"\b{name}\b", headings)
        assert f"<!-- begin: help {name} -->" in text


def test_every_section_and_shipped_recipe_is_documented():
    text = (ROOT / "docs/recipes.md").read_text(encoding="utf-8")
    for name in recipe.sections():
        assert f"## {name}\n" in text
        assert f"<!-- begin: section {name} -->" in text
    for name in recipe.shipped():
        assert f"[{name}](../configs/{name}.yaml)" in text


@pytest.mark.parametrize("path", [ROOT / name for name in tables.FILES], ids=relative)
def test_generated_blocks_are_what_would_be_generated(path):
    text = path.read_text(encoding="utf-8")
    assert len(tables.BLOCK.findall(text)) == text.count("<!-- begin: ")
    assert tables.render(text) == text, "run: make tables"


def test_the_table_of_the_readme_is_what_was_measured():
    if not tables.SPINE_RUN.is_file():
        pytest.skip("benchmarks/results/spine_run.json does not exist yet")
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    (body,) = [found["body"] for found in tables.BLOCK.finditer(text) if found["name"] == "results"]
    assert body.count("\n| ") >= 3
    assert "Made by `" in body


def test_the_readme_has_no_number_of_its_own():
    """Accuracies, ratios and milliseconds come from result files, through the generated block."""
    text = tables.BLOCK.sub("", (ROOT / "README.md").read_text(encoding="utf-8"))
    assert re.findall(r"\d+(?:\.\d+)?\s?(?:ms\b|%|x\b|mAP|points)", text) == []


@pytest.mark.parametrize("path", DOCUMENTS, ids=relative)
def test_links_lead_somewhere(path):
    for target in re.findall(r"\]\((?!https?://|#)([^)#]+)", path.read_text(encoding="utf-8")):
        assert (path.parent / target).exists(), f"{relative(path)} links to {target}"


@pytest.mark.parametrize("path", DOCUMENTS, ids=relative)
def test_commands_in_the_documents_use_modes_and_keys_that_exist(path):
    known = set(recipe.flags()) | {"recipe"}
    for block in re.findall(r"^```\n(.*?)^```", path.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL):
        for line in re.findall(r"^yolo-compress .*$", block, re.MULTILINE):
            mode, *words = line.partition("#")[0].split(" > ")[0].split()[1:]
            assert mode in MODES, line
            keys = {key.name for key in MODES[mode].keys} | set(MODES[mode].options)
            if mode in ("train", "run", "sweep"):
                keys |= known | {"data", "epochs", "resume", "device"}
            assert {word.partition("=")[0] for word in words if "=" in word} <= keys, line


@pytest.mark.parametrize("path", DOCUMENTS, ids=relative)
def test_documents_promise_nothing(path):
    found = re.findall(r"\b(TODO|FIXME|TBD|WIP|lorem|coming soon)\b", path.read_text(encoding="utf-8"), re.IGNORECASE)
    assert found == []


@pytest.mark.parametrize("path", TEXT, ids=relative)
def test_text_is_plain_and_names_no_place_of_one_machine(path):
    text = path.read_text(encoding="utf-8")
    assert re.findall("[\u2600-\u27bf\U0001f000-\U0001faff]", text) == [], "no emoji"
    assert re.findall(r"(?<![\w.$}])/(?:home|root|Users|mnt|work|tmp)/\w+", text) == [], "a path of one machine"
    assert "../" + "shared" not in text


def test_the_licence_is_the_whole_agpl():
    assert hashlib.sha256((ROOT / "LICENSE").read_bytes()).hexdigest() == LICENSE_SHA256


def test_contributing_is_short():
    assert len((ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").splitlines()) < 50


def test_the_check_before_a_change_lands_can_be_run():
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
    assert "make lint test" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")
