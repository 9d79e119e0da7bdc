# Copyright (C) 2026 yolo_compress contributors. SPDX-License-Identifier: AGPL-3.0-or-later
"""The mode that leaves classes out: a checkpoint and a data set that go together, and go on."""

from __future__ import annotations

import pytest

from yolo_compress import api
from yolo_compress.__main__ import main
from yolo_compress.errors import DataError, UsageError
from yolo_compress.host import checkpoint
from yolo_compress.host.data import labels_for, read_data


def test_model_and_data_agree_where_they_count_otherwise(make_checkpoint, tiny_data, tmp_path):
    before = labels_for(read_data(tiny_data).train)
    tiny_data.write_text(tiny_data.read_text().replace("{0: disc, 1: box, 2: bar}", "{0: bar, 1: box, 2: disc}"))
    made = api.classes(make_checkpoint(), data=tiny_data, keep=["0", "bar"], project=tmp_path, name="some")
    assert made.names == ("disc", "bar")
    model = checkpoint.load_model(tmp_path / "some" / "yolov8n.pt")
    assert checkpoint.names(model) == made.names == read_data(made.data.path).names
    after = labels_for(read_data(made.data.path).train)
    assert [[{2: 0, 0: 1}[int(row[0])] for row in rows if row[0] != 1] for rows in before] == [
        [int(row[0]) for row in rows] for rows in after
    ]


def test_the_command_says_what_it_wrote_and_the_next_mode_takes_it(make_checkpoint, tiny_data, tmp_path, capsys):
    given = [f"model={make_checkpoint()}", f"data={tiny_data}", "keep=box", f"project={tmp_path}"]
    assert main(["classes", *given]) == 0
    out = capsys.readouterr().out
    folder = tmp_path / "yolov8n_classes"
    assert "classes: box" in out
    assert f"wrote {folder / 'yolov8n.pt'}: " in out
    assert f"wrote {folder / 'data' / 'data.yaml'}: " in out
    assert " of 24 objects, on " in out
    where = [f"model={folder / 'yolov8n.pt'}", f"data={folder / 'data' / 'data.yaml'}", f"project={tmp_path}"]
    assert main(["prune", *where, "imgsz=64", "flops=0.2", "images=8"]) == 0
    pruned = checkpoint.load_model(tmp_path / "yolov8n_pruned.pt")
    assert checkpoint.names(pruned) == ("box",)
    assert checkpoint.facts(pruned)["classes"] == {"before": 3, "kept": ["box"]}


def test_stock_validation_takes_the_data_that_goes_with_it(make_checkpoint, tiny_data, tmp_path):
    made = api.classes(make_checkpoint(), data=tiny_data, keep="bar,disc", project=tmp_path)
    assert checkpoint.load_model(made.checkpoint.path).args["data"] == str(made.data.path.resolve())
    again = api.classes(made.checkpoint.path, data=made.data.path, keep=0, project=tmp_path, name="again")
    assert again.names == ("bar",)


def test_a_result_never_replaces_what_it_is_made_from(make_checkpoint, tiny_data, tmp_path):
    made = api.classes(make_checkpoint(), data=tiny_data, keep="bar,disc", project=tmp_path)
    before = made.checkpoint.path.read_bytes()
    for given in ({"model": made.checkpoint.path}, {"data": made.data.path, "name": "yolov8n_classes"}):
        with pytest.raises(UsageError, match=r"the result would replace .* give another name="):
            api.classes(**given, keep="bar", project=tmp_path)
    assert made.checkpoint.path.read_bytes() == before
    assert read_data(made.data.path).names == ("bar", "disc")


def test_a_name_on_the_command_line_may_end_in_a_bracket(tiny_data, tmp_path, capsys):
    tiny_data.write_text(tiny_data.read_text().replace("2: bar", "2: Bat (Animal)"))
    for number, keep in enumerate(("box,Bat (Animal)", "[box,Bat (Animal)]", "('box', 'Bat (Animal)')")):
        assert main(["classes", f"data={tiny_data}", f"keep={keep}", f"project={tmp_path}", f"name={number}"]) == 0
        assert "classes: box, Bat (Animal)" in capsys.readouterr().out


def test_one_of_the_two_is_enough(make_checkpoint, tiny_data, tmp_path):
    model = api.classes(make_checkpoint(), keep=["bar"], project=tmp_path)
    assert (model.data, model.checkpoint.names) == (None, ("bar",))
    data = api.classes(data=tiny_data, keep="bar", project=tmp_path)
    assert data.checkpoint is None
    assert data.data.path == tmp_path / "data_classes" / "data" / "data.yaml"


def test_neither_is_an_error():
    with pytest.raises(UsageError, match=r"give model=best.pt, data=FILE.yaml, or both"):
        api.classes(keep=["bar"])


def test_nothing_is_written_where_one_of_the_two_lacks_a_class(make_checkpoint, tiny_data, tmp_path):
    tiny_data.write_text(tiny_data.read_text().replace("2: bar", "2: rod"))
    with pytest.raises(UsageError, match="has no class 'bar'; choose from disc, box, rod"):
        api.classes(make_checkpoint(), data=tiny_data, keep=["bar"], project=tmp_path / "out")
    with pytest.raises(DataError, match="do not exist"):
        api.classes(tmp_path / "no.pt", data=tiny_data, keep=["box"], project=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_other_modes_say_how_to_get_there(make_checkpoint, tiny_data, tmp_path):
    tiny_data.write_text(tiny_data.read_text().replace("{0: disc, 1: box, 2: bar}", "{0: box}"))
    with pytest.raises(UsageError, match=r"yolo-compress classes model=.*yolov8n.pt keep=box$"):
        api.prune(make_checkpoint(), data=tiny_data, ratio=0.2, project=tmp_path)
