import json

import numpy as np
import pytest
from typer.testing import CliRunner

from headgate.cli import app as cli
from headgate.cli.import_trace import Engine
from headgate.errors import ArtifactError
from headgate.observe.reader import load_trace


def invoke(*arguments):
    result = CliRunner().invoke(cli.app, [str(argument) for argument in arguments])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


@pytest.fixture
def files(tmp_path):
    ids = np.argsort(np.random.default_rng(0).random((5, 3, 8)), axis=-1)[..., :2]
    np.save(tmp_path / "a.npy", ids)
    config = {"num_hidden_layers": 4, "num_experts_per_tok": 2, "n_routed_experts": 8, "first_k_dense_replace": 1}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "a.csv").write_text("layer,expert\n1,0\n")
    return tmp_path


def test_a_config_or_options_say_what_the_file_does_not(files):
    out = files / "a.safetensors"
    result = invoke("import", "vllm", files / "a.npy", "--config", files / "config.json", "-o", out)
    assert (result.exit_code, result.stdout) == (0, "")
    assert result.stderr.replace("\n", "").endswith("5 tokens, 3 layers.")
    assert load_trace(out).layer_index.tolist() == [1, 2, 3]
    options = ("--experts", "8", "--layers", "0,2-3", "--force", "--json")
    result = invoke("import", "vllm", files / "a.npy", *options, "-o", out)
    assert json.loads(result.stdout) == {"out": str(out), "num_tokens": 5, "layers": [0, 2, 3]}


def test_counts_say_so(files):
    result = invoke("import", "llama.cpp", files / "a.csv", "--experts", "4", "-o", files / "b.safetensors")
    assert "counts, no tokens, 1 layer." in result.stderr


def test_nothing_is_overwritten_unasked(files):
    with pytest.raises(
        ArtifactError, match=r"a.csv is there already; choose another --out, or overwrite it by --force"
    ):
        invoke("import", "vllm", files / "a.npy", "-o", files / "a.csv")


@pytest.mark.parametrize("engine", Engine)
def test_every_engine_is_reached(files, engine):
    with pytest.raises((ArtifactError, ValueError)):
        invoke("import", engine, files / "absent.json", "-o", files / "b.safetensors", "--layers", "1")


@pytest.mark.parametrize("layers", ["x", "1-", "-", "1,,2", "1-100000000", "3-1", ""])
def test_layers_that_are_none_are_a_usage_error(files, layers):
    result = invoke("import", "vllm", files / "a.npy", "--layers", layers, "-o", files / "b.safetensors")
    assert (result.exit_code, result.stdout) == (2, "")


def test_one_file_where_one_is_wanted(files):
    result = invoke("import", "llama.cpp", files / "a.csv", files / "a.csv", "-o", files / "b.safetensors")
    assert result.exit_code == 2
