# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""`yolo-compress MODE key=value`, a superset of `yolo`: the only reader of sys.argv and of the environment."""

from __future__ import annotations

import difflib
import os
import sys
import traceback
from collections.abc import Sequence

from yolo_compress import enable
from yolo_compress.cli import flags, text
from yolo_compress.cli.arguments import run_mode
from yolo_compress.cli.modes import MODES
from yolo_compress.errors import CompressError, UsageError

HELP = {"help", "--help", "-h"}
INTERRUPTED = 130  # 128 + SIGINT, as shells count it


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 0 done, 1 failed, 2 wrong use, 3 a gate was not met.

    With YOLO_COMPRESS_DEBUG=1 in the environment, an error shows where it came from.
    """
    args = list(sys.argv[1:] if argv is None else argv)
    try:
        _dispatch(args)
        sys.stdout.flush()
    except CompressError as error:
        if os.environ.get("YOLO_COMPRESS_DEBUG", "0") not in {"", "0"}:
            traceback.print_exc()
        print(f"yolo-compress: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt as error:
        print(f"\nyolo-compress: stopped; {_how_to_resume(args, error)}", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # the reader, such as `head`, has seen enough; Python would complain once more at its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return 0


def _dispatch(args: list[str]) -> None:
    if not args or args[0] in HELP:
        print(text.overview())
    elif args[0] in MODES and any(arg in HELP for arg in args[1:]):
        print(text.mode_help(MODES[args[0]]))
    elif flags.is_training(args) and not flags.names_our_keys(args):
        _run_yolo(args, keep_pruned=True)
    elif flags.is_training(args) or args[0] in MODES:
        # Ultralytics reads it when it is imported, and would otherwise run pip for a package that an export lacks.
        os.environ.setdefault("YOLO_AUTOINSTALL", "false")
        mode = MODES["train" if flags.is_training(args) else args[0]]
        if (result := run_mode(mode, args)) is not None:
            print(result)
    else:
        _run_yolo(args)


def _run_yolo(args: list[str], *, keep_pruned: bool = False) -> None:
    from yolo_compress.host.cli import run_yolo  # imports Ultralytics, which takes seconds

    if keep_pruned:  # the model, or the run to be resumed, may be one of ours, which only its checkpoint says
        enable()
    try:
        run_yolo(args)
    except SyntaxError as error:  # what `yolo` raises for a word that it does not know
        close = difflib.get_close_matches(args[0], list(MODES), n=1, cutoff=0.7)
        if not close or f"'{args[0]}' is not a valid" not in str(error):
            raise
        raise UsageError(f"'{args[0]}' is not a mode; did you mean: yolo-compress {close[0]}?") from error


def _how_to_resume(args: list[str], error: KeyboardInterrupt) -> str:
    if str(error):  # what was interrupted knows its folder
        return str(error)
    if args[:1] in (["run"], ["sweep"]):
        folder = f"resume={args[0].upper()}_DIR, the folder named above"
        resume = next((arg for arg in args if arg.startswith("resume=")), folder)
        return f"continue with: yolo-compress {args[0]} {resume}"
    if flags.is_training(args):
        return "continue with the same command, with resume=True and model= the run's weights/last.pt"
    return "nothing half-written is left behind; run the same command again"
