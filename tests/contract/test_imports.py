# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""Imports point one way, one package touches Ultralytics, and what is heavy is imported where it is used."""

from __future__ import annotations

import ast
import configparser
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "yolo_compress"
FILES = sorted(PACKAGE.rglob("*.py"))
LEVELS = (
    ("errors",),
    ("recipe", "artifacts"),
    ("host",),
    ("calibrate",),
    ("engines",),
    ("bench",),
    ("distill", "prune", "quantize"),
    ("timing",),
    ("train",),
    ("report",),
    ("context",),
    ("calibrating", "measuring", "quantizing"),
    ("run_record", "stages"),
    ("building", "pipeline", "sensitivity"),
    ("classes",),
    ("sweep",),
    ("api",),
    ("demo", "doctor"),
    ("cli",),
    ("__main__",),
)
LEVEL = {part: number for number, parts in enumerate(LEVELS) for part in parts}
HEAVY = ("torch", "ultralytics", "openvino", "onnx", "onnxruntime", "nncf", "tensorrt", "cv2", "matplotlib")
OPTIONAL = {"jinja2", "matplotlib", "nncf", "onnx", "onnxruntime", "onnxslim", "openvino"}
OPTIONAL |= {"optuna", "ray"}
OPTIONAL |= {"cuda", "jtop", "pycuda", "pynvml", "pycocotools", "tensorrt", "tensorrt_rtx"}
EXCEPTIONS = {
    "bench/machine.py": {"os.environ"},  # records a setting that changes what was measured
    "timing.py": {"os.environ"},  # where the user keeps caches
    "sweep/local.py": {"os.environ"},  # starts trials as child processes that find this package
    "sweep/on_ray.py": {"os.environ"},  # sets what Ray and its workers are to leave alone
    "bench/fresh.py": {"os.environ"},  # what a measuring process inherits
    "bench/memory.py": {"sys.argv"},  # runs as that process
    "bench/streams.py": {"sys.argv"},
}


def part_of(path: Path) -> str:
    first = path.relative_to(PACKAGE).parts[0]
    return first.removesuffix(".py")


def imported(tree: ast.AST) -> list[tuple[int, str]]:
    """Return line and dotted name of everything imported, `from a import b` as a.b."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno} imports relatively; write the whole name"
            found += [(node.lineno, f"{node.module}.{alias.name}") for alias in node.names]
    return found


def at_import_time(tree: ast.Module) -> ast.Module:
    """Return a module without its function bodies and without what only type checkers see."""

    class Strip(ast.NodeTransformer):
        def visit_FunctionDef(self, node):
            return None

        visit_AsyncFunctionDef = visit_FunctionDef

        def visit_If(self, node):
            return None if "TYPE_CHECKING" in ast.unparse(node.test) else self.generic_visit(node)

    return Strip().visit(tree)


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def test_every_part_has_its_level():
    parts = {part_of(path) for path in FILES} - {"__init__"}
    assert parts <= set(LEVEL), "name the level of a new module in LEVELS, and in CONTRIBUTING.md"
    assert set(LEVEL) - parts <= {"calibrate"}, "a level that no module has any more"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_imports_point_one_way(path):
    part = part_of(path)
    if part == "__init__":
        return  # names what users import, each at its first use
    for line, name in imported(parse(path)):
        words = name.split(".")
        if words[0] != "yolo_compress" or words[1] not in LEVEL:
            continue
        assert words[1] == part or LEVEL[words[1]] < LEVEL[part], f"{path}:{line}: {part} may not import {words[1]}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_only_the_host_touches_ultralytics(path):
    if part_of(path) == "host":
        return
    found = [(line, name) for line, name in imported(parse(path)) if name.split(".")[0] == "ultralytics"]
    allowed = {"ultralytics.YOLO"} if part_of(path) == "demo" else set()
    assert [entry for entry in found if entry[1] not in allowed] == [], f"{path}: import it from yolo_compress.host"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_optional_packages_are_imported_where_they_are_used(path):
    found = [name for _, name in imported(at_import_time(parse(path))) if name.split(".")[0] in OPTIONAL]
    assert found == [], f"{path}: import it inside the function, through errors.require"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_only_the_command_line_reads_arguments_and_decides_by_the_environment(path):
    if part_of(path) == "cli":
        return
    source = ast.unparse(parse(path))
    found = {name for name in ("sys.argv", "os.environ", "getenv") if name in source}
    assert found <= EXCEPTIONS.get(path.relative_to(PACKAGE).as_posix(), set())


def run_python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize(
    "what", ["yolo_compress", "recipe", "artifacts", "errors", "cli", "cli.listing", "bench.machine"]
)
def test_light_modules_import_nothing_heavy(what):
    name = what if what == "yolo_compress" else f"yolo_compress.{what}"
    code = f"import sys, {name}; print([m for m in {HEAVY!r} if m in sys.modules])"
    assert run_python(code) == "[]"


@pytest.mark.parametrize("args", [["help"], ["run", "help"], ["list", "recipes"], ["list", "schema"]])
def test_help_and_lists_start_without_anything_heavy(args):
    code = (
        "import sys; from yolo_compress.cli import main; "
        f"assert main({args!r}) == 0; print([m for m in {HEAVY!r} if m in sys.modules])"
    )
    assert run_python(code).splitlines()[-1] == "[]"


def test_setup_lists_every_package():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    listed = set(setup["options"]["packages"].split())
    folders = {path.parent.relative_to(ROOT).as_posix().replace("/", ".") for path in PACKAGE.rglob("__init__.py")}
    assert listed == folders | {"yolo_compress.configs"}
    assert setup["options"]["package_dir"].split("=")[1].strip() == "configs"


def test_setup_lists_every_data_file():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    patterns = setup["options.package_data"]
    for path in [*PACKAGE.rglob("*"), *(ROOT / "configs").iterdir()]:
        if path.is_file() and path.suffix not in {".py", ".pyc"}:
            package = (
                path.parent.relative_to(ROOT).as_posix().replace("/", ".").replace("configs", "yolo_compress.configs")
            )
            assert path.match(patterns.get(package, "no pattern")), f"{path} would be missing from an installed package"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_every_file_has_its_licence_line_and_a_docstring(path):
    assert path.read_text(encoding="utf-8").startswith("# Copyright (C) 2026 yolo_compress contributors. SPDX-License")
    assert ast.get_docstring(parse(path))
