"""The folder of a run: what is in it, who may write there, and how a run is found again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self, TextIO

from headgate.demo.checkpoint import require_same_config
from headgate.demo.config import DemoConfig
from headgate.demo.train import StepReport
from headgate.errors import ArtifactError
from headgate.files import explain_os_errors, replace_file

CONFIG, TOKENIZER, CORPUS, METRICS = "config.json", "tokenizer.json", "corpus.safetensors", "metrics.jsonl"
TRACE, SAMPLE, SUMMARY, CHECKPOINTS = "routing.safetensors", "sample.safetensors", "summary.json", "checkpoints"
PAGE = "page.html"


def start_run(out: Path, config: DemoConfig, *, name: str = CONFIG) -> None:
    """Make a folder for a new run and write its config there, as the file `name`.

    Raises:
        ArtifactError: the folder holds a run, or anything else, or can't be written.
    """
    if (out / name).exists():
        raise ArtifactError(f"{out} already holds a run; go on with it by --resume, or choose another --out")
    with explain_os_errors("use", out):
        taken = [path.name for path in out.iterdir() if not path.name.startswith(".")] if out.exists() else []
    if taken:
        raise ArtifactError(f"{out} holds other files ({taken[0]}, for one); choose a new or empty folder as --out")
    with explain_os_errors("make folder", out):
        out.mkdir(parents=True, exist_ok=True)
    write_json(out / name, config.to_dict())


def reopen_run(out: Path, options: Mapping[str, Any], *, name: str = CONFIG) -> DemoConfig:
    """Find the config of a run that is to go on.

    Args:
        out: the run's folder.
        options: config fields that the user gave again.
        name: the file that holds the config.

    Raises:
        ArtifactError: there is no run, it can't be read, or the options are not its own.
    """
    path = out / name
    if not path.is_file():
        raise ArtifactError(
            f"{out} holds no run to resume; leave out --resume to start one, or name its folder by --out"
        )
    saved = read_json(path)
    config = DemoConfig.from_dict(saved)
    require_same_config(path, saved, config.with_options(options).to_dict())
    return config


def write_json(path: Path, value: Any) -> None:
    """Write a value as JSON, in one step.

    Raises:
        ArtifactError: the file can't be written.
    """
    replace_file(path, (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode())


def read_json(path: Path) -> dict[str, Any]:
    """Read what `write_json` wrote.

    Raises:
        ArtifactError: the file can't be read, or isn't a JSON object.
    """
    with explain_os_errors("read", path):
        text = path.read_text(encoding="utf-8")
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise ArtifactError(f"{path} is damaged ({error}); choose another --out") from error
    if not isinstance(value, dict):
        raise ArtifactError(f"{path} is damaged (no JSON object); choose another --out")
    return value


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricsTotals:
    """Sums over the steps of a run.

    Attributes:
        num_tokens: trained on.
        duration_s: of the steps.
    """

    num_tokens: int
    duration_s: float


class MetricsLog:
    """`metrics.jsonl`: one line per step."""

    def __init__(self, path: Path, *, num_steps: int) -> None:
        """Open the file, and cut off what was written after step `num_steps`.

        Raises:
            ArtifactError: the file can't be written.
        """
        self._path = path
        kept = [line for line in self._lines() if json.loads(line)["step"] <= num_steps]
        replace_file(path, "".join(kept).encode())
        with explain_os_errors("write", path):
            self._file: TextIO = path.open("a", encoding="utf-8")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with explain_os_errors("write", self._path):
            self._file.close()

    def append(self, report: StepReport) -> None:
        """Add a step.

        Raises:
            ArtifactError: the file can't be written.
        """
        with explain_os_errors("write", self._path):
            self._file.write(json.dumps(asdict(report)) + "\n")
            self._file.flush()

    def totals(self) -> MetricsTotals:
        """Add up all steps."""
        steps = [json.loads(line) for line in self._lines()]
        return MetricsTotals(
            num_tokens=sum(step["num_tokens"] for step in steps), duration_s=sum(step["duration_s"] for step in steps)
        )

    def _lines(self) -> list[str]:
        """Read the complete lines; a kill may have left a part of one."""
        if not self._path.exists():
            return []
        with explain_os_errors("read", self._path):
            lines = self._path.read_text(encoding="utf-8").splitlines(keepends=True)
        return [line for line in lines if line.endswith("\n")]
