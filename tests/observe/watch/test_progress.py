import json
import math

import pytest

from headgate.errors import ArtifactError
from headgate.observe.watch.progress import MAX_POINTS, Progress


def line(step, *, loss=2.0, counts=((3, 1), (2, 2))):
    values = {"step": step, "loss": loss, "num_tokens": 8, "duration_s": 0.5, "expert_counts": counts}
    return json.dumps(values) + "\n"


@pytest.fixture
def run(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "metrics.jsonl").touch()
    return tmp_path / "run"


def append(run, *lines):
    with (run / "metrics.jsonl").open("a", encoding="utf-8") as file:
        file.write("".join(lines))


def test_nothing_yet(run):
    progress = Progress(run)
    assert not progress.read()
    state = progress.state()
    assert (state["name"], state["step"], state["loss"], state["points"], state["layers"]) == ("run", 0, None, [], [])


def test_lines_are_read_as_they_come(run):
    (run / "config.json").write_text('{"training": {"steps": 40}}')
    progress = Progress(run)
    append(run, line(1, loss=4.0), line(2, loss=2.0)[:10])
    assert progress.read()
    assert progress.state()["points"] == [[1, 4.0, 1.5]]
    append(run, line(2, loss=2.0)[10:])
    progress.read()
    state = progress.state()
    assert (state["step"], state["num_steps"], state["loss"], state["tokens_per_s"]) == (2, 40, 3.0, 16.0)
    assert [layer["load"] for layer in state["layers"]] == [[1.5, 0.5], [1.0, 1.0]]
    assert [layer["status"] for layer in state["layers"]] == ["healthy", "healthy"]
    assert not progress.read()


def test_loads_are_of_the_last_steps(run):
    append(run, *(line(step, counts=((9, 0), (0, 0))) for step in range(1, 6)))
    append(run, *(line(step, counts=((1, 1), (0, 0))) for step in range(6, 26)))
    progress = Progress(run)
    progress.read()
    layers = progress.state()["layers"]
    assert layers[0]["load"] == [1.0, 1.0]
    assert (layers[1]["load"], layers[1]["status"]) == ([0.0, 0.0], "unknown")


def test_memory_is_bounded(run):
    append(run, *(line(step) for step in range(1, 2501)))
    progress = Progress(run)
    progress.read()
    points = progress.state()["points"]
    assert len(points) <= MAX_POINTS
    assert [point[0] for point in points] == list(range(1, 2501, 4))


def test_a_run_that_went_back_is_read_again(run):
    append(run, *(line(step) for step in range(1, 6)))
    progress = Progress(run)
    progress.read()
    (run / "metrics.jsonl").write_text(line(1) + line(2))
    progress.read()
    assert progress.state()["step"] == 2
    assert len(progress.state()["points"]) == 2


def test_what_is_no_metrics_is_counted_and_left_out(run):
    append(run, "\n", "no json\n", "[]\n", '{"step": 1}\n', line(3), '{"step": 1e999}\n')
    progress = Progress(run)
    progress.read()
    assert (progress.state()["num_unreadable"], progress.state()["step"]) == (5, 3)


def test_a_loss_that_is_no_number_is_left_out(run):
    append(run, line(1, loss=math.nan), line(2, loss=1.0))
    progress = Progress(run)
    progress.read()
    assert progress.state()["points"] == [[1, None, 1.5], [2, 1.0, 1.5]]
    assert progress.state()["loss"] == 1.0
    json.dumps(progress.state(), allow_nan=False)


def test_a_dense_model_has_no_layers(run):
    append(run, line(1, counts=()))
    progress = Progress(run)
    progress.read()
    assert (progress.state()["layers"], progress.state()["points"]) == ([], [[1, 2.0, None]])


@pytest.mark.parametrize("content", ["", "{", "[]", '{"training": {"steps": "many"}}'])
def test_a_config_that_says_nothing(run, content):
    (run / "config.json").write_text(content)
    assert Progress(run).state()["num_steps"] is None


def test_no_run(tmp_path):
    with pytest.raises(ArtifactError, match=r"holds no metrics\.jsonl; name the folder of a training run"):
        Progress(tmp_path)
