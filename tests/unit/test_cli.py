# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""The command line: what reaches the functions behind it, and what a mistake is answered with."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest

import yolo_compress
from yolo_compress import recipe
from yolo_compress.cli import main
from yolo_compress.errors import GateNotMet, OutputError


class Calls:
    """Records what the functions behind the command line are called with."""

    def __init__(self):
        self.made = []
        self.effect = None

    def function(self, name):
        def call(*args, **kwargs):
            self.made.append((name, args, kwargs))
            if self.effect is not None:
                raise self.effect
            return f"{name} is done"

        return call


@pytest.fixture
def api(monkeypatch):
    calls = Calls()
    names = ("train", "prune", "calib", "quantize", "cache", "build", "bench", "run", "sweep", "report")
    fake = SimpleNamespace(**{name: calls.function(name) for name in names})
    monkeypatch.setitem(sys.modules, "yolo_compress.api", fake)
    monkeypatch.setattr(yolo_compress, "api", fake, raising=False)
    return calls


@pytest.fixture
def yolo(monkeypatch):
    from yolo_compress.host import cli as host

    calls = Calls()
    monkeypatch.setattr(host, "run_yolo", calls.function("yolo"))
    return calls


def run(*args):
    return main([part for arg in args for part in arg.split()])


@pytest.mark.parametrize(
    ("line", "call"),
    [
        (
            "prune model=a.pt data=d.yaml imgsz=320 ratio=0.3 importance=l2 keep=model.0,model.22 project=out name=p",
            (
                "prune",
                ("a.pt",),
                {
                    "data": "d.yaml",
                    "imgsz": 320,
                    "ratio": 0.3,
                    "importance": "l2",
                    "keep": "model.0,model.22",
                    "project": "out",
                    "name": "p",
                },
            ),
        ),
        (
            "calib data=d.yaml n=64 labels=false model=a.pt weights=classes=2,clutter=0 balance=0 skip_unreadable",
            (
                "calib",
                ("d.yaml",),
                {
                    "n": 64,
                    "labels": False,
                    "model": "a.pt",
                    "weights": ["classes=2", "clutter=0"],
                    "balance": 0.0,
                    "skip_unreadable": True,
                },
            ),
        ),
        (
            "quantize model=a.pt data=d.yaml calibration=calib_data/d-64.json",
            ("quantize", ("a.pt",), {"data": "d.yaml", "calibration": "calib_data/d-64.json"}),
        ),
        (
            "quantize model=a.pt data=d.yaml range=minmax target=onnxruntime",
            ("quantize", ("a.pt",), {"data": "d.yaml", "range": "minmax", "target": "onnxruntime"}),
        ),
        (
            "quantize model=a.onnx cache=c.cache keep=model.0",
            ("quantize", ("a.onnx",), {"cache": "c.cache", "keep": "model.0"}),
        ),
        (
            "cache model=a.onnx trt_version=100300 algorithm=MinMaxCalibration",
            ("cache", ("a.onnx",), {"trt_version": "100300", "algorithm": "MinMaxCalibration"}),
        ),
        ("cache model=a.onnx trt_version=10.3.0", ("cache", ("a.onnx",), {"trt_version": "10.3.0"})),
        (
            "build model=a.pt engine=openvino precision=int8 data=d.yaml images=8",
            ("build", ("a.pt",), {"engine": "openvino", "precision": "int8", "data": "d.yaml", "images": 8}),
        ),
        (
            "bench model=a.pt,b.onnx,c_openvino_model data=d.yaml device=0 native=native:fp32,native:int8 threads=2",
            (
                "bench",
                (["a.pt", "b.onnx", "c_openvino_model"],),
                {"data": "d.yaml", "device": "0", "native": ["native:fp32", "native:int8"], "threads": 2},
            ),
        ),
        (
            "bench model=a.pt data=d.yaml robustness=true corruptions=noise,blur severities=1,3 robustness_images=9",
            (
                "bench",
                (["a.pt"],),
                {
                    "data": "d.yaml",
                    "robustness": True,
                    "corruptions": "noise,blur",
                    "severities": (1, 3),
                    "robustness_images": 9,
                },
            ),
        ),
        (
            "bench model=[a.pt, b.onnx] data = d.yaml",
            ("bench", (["a.pt", "b.onnx"],), {"data": "d.yaml"}),
        ),
        (
            "run recipe=edge-cpu model=a.pt data=d.yaml imgsz=320 epochs=3 prune=0.4 fast_cpu lr0=1e-3",
            (
                "run",
                (),
                {
                    "recipe": "edge-cpu",
                    "model": "a.pt",
                    "data": "d.yaml",
                    "imgsz": 320,
                    "epochs": 3,
                    "prune": 0.4,
                    "fast_cpu": True,
                    "lr0": 0.001,
                },
            ),
        ),
        ("run resume=runs/compress/edge-cpu", ("run", (), {"resume": "runs/compress/edge-cpu"})),
        (
            "sweep recipe=edge-cpu model=a.pt data=d.yaml prune=0.2,0.4,0.6 qat=none,int8 teacher=a.pt,b.pt epochs=3",
            (
                "sweep",
                (),
                {
                    "recipe": "edge-cpu",
                    "model": "a.pt",
                    "data": "d.yaml",
                    "prune": (0.2, 0.4, 0.6),
                    "qat": "none,int8",
                    "teacher": "a.pt,b.pt",
                    "epochs": 3,
                },
            ),
        ),
        (
            "sweep recipe=r.yaml engines=openvino:int8,onnxruntime:int8; freeze=[0,1] prune=0.2;0.4 lr0=1e-5..1e-3:log",
            (
                "sweep",
                (),
                {
                    "recipe": "r.yaml",
                    "engines": "openvino:int8,onnxruntime:int8;",
                    "freeze": [[0, 1]],
                    "prune": "0.2;0.4",
                    "lr0": "1e-5..1e-3:log",
                },
            ),
        ),
        (
            "sweep resume=runs/s ray=auto workers=2 retry_failed=true",
            ("sweep", (), {"resume": "runs/s", "ray": "auto", "workers": 2, "retry_failed": True}),
        ),
        ("report run=runs/compress/edge-cpu", ("report", (), {"run": "runs/compress/edge-cpu"})),
        ("report bench=bench.json", ("report", (), {"bench": "bench.json"})),
        (
            "train model=a.pt data=d.yaml epochs=5 prune=0.3 teacher=s.pt distill=cwd=1.0,response=0.5",
            (
                "train",
                ("a.pt",),
                {
                    "recipe": None,
                    "data": "d.yaml",
                    "epochs": 5,
                    "prune": 0.3,
                    "teacher": "s.pt",
                    "distill": "cwd=1.0,response=0.5",
                },
            ),
        ),
        (
            "detect train --model=a.pt prune_flops=0.3 cos_lr",
            ("train", ("a.pt",), {"recipe": None, "prune_flops": 0.3, "cos_lr": True}),
        ),
        (
            "train model=a.pt qat=int8 quantize_target=tensorrt",
            ("train", ("a.pt",), {"recipe": None, "qat": "int8", "quantize_target": "tensorrt"}),
        ),
        ("prune=0.5 mode=train task=detect model=a.pt", ("train", ("a.pt",), {"recipe": None, "prune": 0.5})),
    ],
)
def test_a_command_reaches_its_function(api, yolo, line, call):
    assert run(line) == 0
    assert api.made == [call]
    assert yolo.made == []


def test_a_result_is_printed_once(api, capsys):
    assert run("prune model=a.pt data=d.yaml ratio=0.3") == 0
    assert capsys.readouterr().out == "prune is done\n"


def test_train_loads_the_recipe_that_it_is_given(api):
    assert run("train model=a.pt recipe=prune-distill epochs=2") == 0
    ((_, _, given),) = api.made
    assert given == {"recipe": recipe.load("prune-distill"), "epochs": 2}


@pytest.mark.parametrize(
    "line",
    [
        "train model=yolov8n.yaml data=coco8.yaml epochs=1 seed=0",
        "train",
        "detect train model = a.pt",
        "predict model=a.pt source=x.jpg",
        "export model=a.pt format=onnx half",
        "settings runs_dir=prune",
        "model=a.pt mode=val",
        "version",
    ],
)
def test_what_names_none_of_our_keys_goes_to_yolo_unchanged(api, yolo, line):
    assert run(line) == 0
    assert yolo.made == [("yolo", (line.split(),), {})]
    assert api.made == []


def test_the_environment_is_left_alone_for_yolo_and_forbids_installing_for_us(api, yolo, monkeypatch):
    import os

    monkeypatch.delenv("YOLO_AUTOINSTALL")
    run("train model=a.pt")
    assert "YOLO_AUTOINSTALL" not in os.environ
    run("train model=a.pt prune=0.3")
    assert os.environ["YOLO_AUTOINSTALL"] == "false"
    monkeypatch.setenv("YOLO_AUTOINSTALL", "true")
    run("train model=a.pt prune=0.3")
    assert os.environ["YOLO_AUTOINSTALL"] == "true"


def test_training_without_flags_keeps_a_pruned_model_and_the_rest_is_left_alone(yolo, monkeypatch):
    enabled = []
    monkeypatch.setattr("yolo_compress.cli.enable", lambda: enabled.append(True))
    assert run("predict model=last.pt") == 0
    assert not enabled
    assert run("train model=pruned.pt epochs=3") == 0
    assert run("train resume model=last.pt") == 0
    assert len(enabled) == 2
    assert [args for _, args, _ in yolo.made][1:] == [
        (["train", "model=pruned.pt", "epochs=3"],),
        (["train", "resume", "model=last.pt"],),
    ]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("prune modl=a.pt", "'modl' is not a valid argument. Similar arguments are i.e. ['model']."),
        (
            "train model=a.pt prune=0.3 prune_ration=0.3",
            "'prune_ration' is not a valid argument. Similar arguments are i.e.",
        ),
        (
            "train model=a.pt prune=0.3 epoch=3",
            "'epoch' is not a valid argument. Similar arguments are i.e. ['epochs=100",
        ),
        ("run recipe=edge-cpu mode=a.pt", "'mode' is not a valid argument. Similar arguments are i.e. ['model'"),
        ("bench model=a.pt data=d.yaml candidates=x", "'candidates' is not a valid argument."),
        ("build model=a.pt target=openvino", "'target' is not a valid argument."),
        ("quantize model=a.pt data=d.yaml imgsz", "'imgsz' has no value; write imgsz=..."),
        (
            "quantize model=a.pt data=d.yaml imgs",
            "'imgs' is not a valid argument. Similar arguments are i.e. ['imgsz=640'",
        ),
        ("quantize model=a.pt data=", "'data=' has no usable value"),
        ("prune model=a.pt", "prune needs data=; see all of its keys with: yolo-compress prune help"),
        ("cache model=a.onnx", "cache needs trt_version=; see all of its keys with: yolo-compress cache help"),
        ("bench", "bench needs data=; see all of its keys with: yolo-compress bench help"),
        ("prune model=None data=d.yaml ratio=0.3", "prune needs model="),
        ("train prune=0.3", "train needs model="),
        ("bench model=a.pt data=d.yaml imgsz=big", "imgsz=big is not a whole number; write, for example, imgsz=640"),
        ("bench model=a.pt data=d.yaml imgsz=True", "imgsz=True is not a whole number"),
        (
            "bench model=a.pt data=d.yaml imgsz=100",
            "imgsz=100 cannot be used, a detector needs a multiple of 32; write imgsz=96",
        ),
        (
            "bench model=a.pt data=d.yaml imgsz=0",
            "imgsz=0 cannot be used, a detector needs a multiple of 32; write imgsz=32",
        ),
        ("calib data=d.yaml labels=1", "labels=1 is neither true nor false; write labels=true or labels=false"),
        ("calib data=d.yaml balance=half", "balance=half is not a number; write, for example, balance=0.5"),
        ("calib data=d.yaml number=8", "'number' is not a valid argument."),
        ("calib n=8", "calib needs data=; see all of its keys with: yolo-compress calib help"),
        ("demo seed=-1", "seed=-1 is not a whole number; write, for example, seed=0"),
        ("run resume=runs/x epochs=3", "resume= takes everything from the run that it continues; remove epochs"),
        ("run resume=runs/x imgsz=320", "resume= takes everything from the run that it continues; remove imgsz"),
        (
            "sweep resume=runs/x prune=0.2,0.3",
            "resume= takes everything from the sweep that it continues; remove prune",
        ),
        ("sweep recipe=edge-cpu workers=two", "workers=two is not a whole number; write, for example, workers=1"),
        ("sweep recipe=edge-cpu imgsz=320,640", "imgsz=(320, 640) is not a whole number"),
        ("sweep prune_ration=0.3,0.4", "'prune_ration' is not a valid argument."),
        ("run resume", "'resume' has no value; write resume=..."),
        (
            "train model=a.pt quantize_target=tensorrt prune=0.3",
            "'quantize_target' says how a model is quantized, and this training does not; add qat=int8, or",
        ),
        (
            "train model=a.pt bench_rounds=9",
            "'bench_rounds' is for a stage that training does not have (bench); give it to `yolo-compress run`",
        ),
        (
            "train model=a.pt recipe=ptq-int8",
            "recipe 'ptq-int8' has no prune, distill, grow, qat or train section, so training has no use for it",
        ),
        ("train model=a.pt recipe=edge-gpu", "recipe 'edge-gpu' is not known; did you mean edge-cpu?"),
        ("segment train model=a.pt prune=0.3", "'segment' is not a valid argument."),
        ("train task=segment model=a.pt prune=0.3", "compression trains detectors only; remove task= and mode="),
        ("list engine", "'engine' is not a kind that can be listed; did you mean engines?"),
        ("list everything", "'everything' is not a kind that can be listed; choose from engines, importances,"),
        ("list engines losses", "list takes one kind, not engines losses"),
        ("doctor model=a.pt", "doctor takes no keys; remove model=a.pt"),
    ],
)
def test_a_mistake_is_one_message_and_exit_code_2(api, capsys, line, message):
    assert run(line) == 2
    out, err = capsys.readouterr()
    assert err.startswith(f"yolo-compress: {message}")
    assert err.count("\n") == 1
    assert out == ""
    assert api.made == []


def test_a_misspelt_mode_is_answered_with_the_closest_one(yolo, capsys):
    yolo.effect = SyntaxError("'quantise' is not a valid YOLO argument. \n")
    assert run("quantise model=a.pt") == 2
    assert capsys.readouterr().err == "yolo-compress: 'quantise' is not a mode; did you mean: yolo-compress quantize?\n"


def test_what_yolo_says_of_its_own_arguments_is_not_changed(yolo):
    yolo.effect = SyntaxError("'epoch' is not a valid YOLO argument. \n")
    with pytest.raises(SyntaxError, match="epoch"):
        run("train epoch=3")


@pytest.mark.parametrize(("error", "code"), [(OutputError("full"), 1), (GateNotMet("too much"), 3)])
def test_an_error_has_its_exit_code_and_no_traceback(api, capsys, error, code):
    api.effect = error
    assert run("report run=x") == code
    assert capsys.readouterr().err == f"yolo-compress: {error}\n"


def test_debug_shows_where_an_error_comes_from(api, capsys, monkeypatch):
    api.effect = OutputError("full")
    monkeypatch.setenv("YOLO_COMPRESS_DEBUG", "1")
    assert run("report run=x") == 1
    err = capsys.readouterr().err
    assert "Traceback" in err
    assert err.endswith("yolo-compress: full\n")
    monkeypatch.setenv("YOLO_COMPRESS_DEBUG", "0")
    assert run("report run=x") == 1
    assert "Traceback" not in capsys.readouterr().err


def test_an_error_that_nobody_meant_keeps_its_traceback(api):
    api.effect = ZeroDivisionError()
    with pytest.raises(ZeroDivisionError):
        run("report run=x")


@pytest.mark.parametrize(
    ("line", "hint"),
    [
        ("run recipe=edge-cpu model=a.pt data=d.yaml", "continue with: yolo-compress run resume=RUN_DIR"),
        ("run resume=runs/x", "continue with: yolo-compress run resume=runs/x\n"),
        ("train model=a.pt prune=0.3", "with resume=True and model= the run's weights/last.pt"),
        ("bench model=a.pt data=d.yaml", "nothing half-written is left behind; run the same command again"),
    ],
)
def test_ctrl_c_says_how_to_go_on(api, capsys, line, hint):
    api.effect = KeyboardInterrupt()
    assert run(line) == 130
    assert hint in capsys.readouterr().err


def test_ctrl_c_passes_on_what_was_interrupted_knows(api, capsys):
    api.effect = KeyboardInterrupt("continue with: yolo-compress run resume=runs/compress/edge-cpu2")
    assert run("run recipe=edge-cpu") == 130
    assert "stopped; continue with: yolo-compress run resume=runs/compress/edge-cpu2" in capsys.readouterr().err


def test_demo_gets_its_folder_and_seed(monkeypatch, capsys):
    made = []
    monkeypatch.setattr(
        "yolo_compress.demo.run_demo", lambda project, *, seed: made.append((project, seed)) or "report: x"
    )
    assert run("demo") == 0
    assert run("demo project=here seed=3") == 0
    assert made == [("runs/demo", 0), ("here", 3)]
    assert capsys.readouterr().out == "report: x\nreport: x\n"


def test_a_closed_pipe_is_no_error(monkeypatch, tmp_path):
    def closed(*_, **__):
        raise BrokenPipeError

    with (tmp_path / "out").open("w") as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        monkeypatch.setattr("builtins.print", closed)
        assert main(["help"]) == 1
