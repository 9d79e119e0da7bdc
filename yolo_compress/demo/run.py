# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""The demonstration from nothing to a report: draw, train a teacher and a student, run the `edge-cpu` recipe."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from yolo_compress import recipe as recipes
from yolo_compress.artifacts import atomic_path, atomic_write, sha256_path
from yolo_compress.demo.dataset import IMGSZ, MANIFEST, write_demo_set
from yolo_compress.demo.models import STUDENT, TEACHER, TRAINING, DemoModel
from yolo_compress.errors import CompressError, ResumeMismatch
from yolo_compress.recipe import Recipe

if TYPE_CHECKING:
    from yolo_compress.pipeline import RunResult

TEACHER_MAP50_95 = 0.5  # below this nothing that compression costs could be seen
RUN = "run"
Progress = Callable[[str], None]


@dataclass(frozen=True)
class DemoResult:
    """A finished demonstration; accuracies are shares of 1, on the drawn validation pictures."""

    report_html: Path | None
    run_dir: Path
    teacher_map50_95: float
    student_map50_95: float
    seconds: float

    def __str__(self) -> str:
        """Return the lines that a user wants to see last."""
        return (
            f"demo: teacher mAP50-95 {100 * self.teacher_map50_95:.1f}, student {100 * self.student_map50_95:.1f}, "
            f"{self.seconds:.0f} s in all\nreport: {self.report_html}"
        )


def run_demo(project: str | Path, *, seed: int = 0, progress: Progress = print) -> DemoResult:
    """Draw the set, train teacher and student, compress the student and write the report; nothing is downloaded.

    What an earlier call finished in the same folder, with the same seed and settings, is used again.

    Args:
        project: Folder for everything that is made.
        seed: Seed of the drawing and of training.
        progress: Takes a line now and then.

    Raises:
        CompressError: The teacher learned too little to show anything.
        OutputError: The folder cannot be written to.
    """
    began = time.perf_counter()
    folder = Path(project).resolve()
    progress(f"demo: drawing pictures in {folder / 'data'}")
    data = write_demo_set(folder / "data", seed=seed)
    teacher, teacher_map = train_model(TEACHER, data, folder, seed=seed, progress=progress)
    if not teacher_map >= TEACHER_MAP50_95:  # also refuses nan
        raise CompressError(
            f"the teacher reached mAP50-95 {teacher_map:.3f} with seed={seed}, and {TEACHER_MAP50_95} is needed to see "
            f"what compression costs; try another seed, and report this with the log in '{folder / TEACHER.name}'"
        )
    student, student_map = train_model(STUDENT, data, folder, seed=seed, progress=progress)
    result = _compress(demo_recipe(teacher), student, data, folder, progress)
    return DemoResult(result.report_html, result.run_dir, teacher_map, student_map, time.perf_counter() - began)


def demo_recipe(teacher: Path) -> Recipe:
    """Return the shipped `edge-cpu` recipe with the demonstration's teacher and a short recovery."""
    base = recipes.load("edge-cpu")
    flags = {"teacher": str(teacher), "prune_images": 128, "quantize_images": 64}
    recipe = recipes.from_flags(flags, base)
    assert recipe.train is not None
    settings = {**TRAINING, "epochs": 8, "lr0": 0.001, "warmup_epochs": 0.5}
    return recipe.model_copy(update={"train": recipe.train.model_copy(update={"settings": settings})})


def train_model(model: DemoModel, data: Path, folder: Path, *, seed: int, progress: Progress) -> tuple[Path, float]:
    """Train a detector from random weights, or find it trained; return its checkpoint and its mAP50-95.

    Raises:
        OutputError: The folder cannot be written to.
    """
    from yolo_compress.host.ultralytics import version

    checkpoint, record = folder / f"{model.name}.pt", folder / f"{model.name}.json"
    names = _class_names()
    inputs = {
        "architecture": model.architecture(len(names)),
        "training": {**TRAINING, "epochs": model.epochs, "imgsz": IMGSZ, "seed": seed},
        "data": sha256_path(data.parent / MANIFEST),
        "ultralytics": version,
    }
    known = _read(record)
    if known.get("inputs") == inputs and checkpoint.is_file() and sha256_path(checkpoint) == known.get("sha256"):
        progress(f"demo: {model.name} is trained already: {checkpoint}")
        return checkpoint, known["map50_95"]
    progress(f"demo: training the {model.name} from random weights, {model.epochs} epochs")
    began = time.perf_counter()
    weights = _train(model, inputs, data, folder)
    with atomic_path(checkpoint) as temporary:
        shutil.copyfile(weights, temporary)
    value = _accuracy(checkpoint, data)
    found = {"inputs": inputs, "sha256": sha256_path(checkpoint), "map50_95": value}
    atomic_write(record, json.dumps(found, indent=1) + "\n")
    progress(f"demo: {model.name} mAP50-95 {100 * value:.1f} after {time.perf_counter() - began:.0f} s")
    return checkpoint, value


def _train(model: DemoModel, inputs: dict[str, Any], data: Path, folder: Path) -> Path:
    from yolo_compress.host.trainer import CompressTrainer
    from yolo_compress.host.ultralytics import YOLO
    from yolo_compress.train import TrainPlan

    architecture = folder / f"{model.name}.yaml"
    atomic_write(architecture, inputs["architecture"])
    place = {"data": str(data), "project": str(folder), "name": model.name, "exist_ok": True, "device": "cpu"}
    plan = TrainPlan(recipes.from_flags({"fast_cpu": True}))
    YOLO(str(architecture)).train(trainer=CompressTrainer.bound(plan), **inputs["training"], **place)
    return folder / model.name / "weights" / "last.pt"


def _accuracy(checkpoint: Path, data: Path) -> float:
    """Measure mAP50-95 as the report does; validation in training adds a border to square pictures and finds less."""
    from yolo_compress.bench.accuracy import detect, evaluate
    from yolo_compress.engines import engine_for
    from yolo_compress.host.data import read_data

    spec = read_data(data)
    session = engine_for(checkpoint).load(checkpoint, device="cpu")
    try:
        truth, found = detect([session], spec.val, imgsz=IMGSZ)
    finally:
        session.close()
    return evaluate(truth, found[0], classes=len(spec.names)).map50_95


def _compress(recipe: Recipe, student: Path, data: Path, folder: Path, progress: Progress) -> RunResult:
    """Run the recipe, or go on with an earlier run of it on the same files; one on other files is replaced."""
    from yolo_compress import pipeline, run_record

    earlier = folder / RUN
    record = _read(earlier / run_record.RECORD)
    if record.get("recipe") == recipe.model_dump(mode="json"):
        try:
            return pipeline.resume(earlier, progress=progress)
        except ResumeMismatch as mismatch:
            progress(f"demo: {mismatch}")
    if record:
        progress(f"demo: replacing the earlier run in {earlier}")
        shutil.rmtree(earlier)
    return pipeline.run(recipe, model=student, data=data, imgsz=IMGSZ, project=folder, name=RUN, progress=progress)


def _read(record: Path) -> dict[str, Any]:
    try:
        found = json.loads(record.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # not there, or cut off: what it describes is made again
        return {}
    return found if isinstance(found, dict) else {}


def _class_names() -> tuple[str, ...]:
    from yolo_compress.demo.parts import PARTS

    return tuple(PARTS)
