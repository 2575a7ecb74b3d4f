"""The state of a training run on disk: one safetensors file, replaced in one move."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from pymetaner.errors import ModelFileError, SettingError
from pymetaner.files import CHECKPOINT, REPORT, STAGE, unfinished, write_atomically
from pymetaner.model import MetaNER

__all__ = ["TrainingState", "finished_run"]


def differing_settings(done: dict[str, Any], wanted: dict[str, Any]) -> list[str]:
    """The names of what differs; what an earlier release did not note down cannot be compared."""

    def differs(before: Any, now: Any) -> bool:
        if isinstance(before, dict) and isinstance(now, dict):
            return bool(differing_settings(before, now))
        return bool(before != now)

    return sorted(name for name, value in wanted.items() if name in done and differs(done[name], value))


def finished_run(folder: Path, run: Callable[[], dict[str, Any]]) -> dict[str, Any] | None:
    """What a folder's report says if it holds this run, finished; None if it holds none.

    Args:
        folder: of the run.
        run: what it does; asked for only if there is a report to compare it with.

    Raises:
        SettingError: if it holds another one.
        ModelFileError: if its report is damaged.
    """
    report = folder / REPORT
    if not report.exists() or (folder / CHECKPOINT).exists():
        return None
    wanted = run()
    try:
        content: dict[str, Any] = json.loads(report.read_text(encoding="utf-8"))
        differing = differing_settings(content["run"], wanted)
        if missing := {"best_step", "best_f1", "history", "seconds"} - content.keys():
            raise ValueError(f"it has no {', '.join(sorted(missing))}")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelFileError(f"{report} is damaged ({error}): give another folder, or overwrite this one") from None
    if differing:
        raise SettingError(
            f"{folder} holds a finished run with other {', '.join(differing)}: give another folder, or overwrite this "
            "one (overwrite=True, --overwrite)"
        )
    return content


class TrainingState:
    """Weights, optimiser moments, the best weights so far and the dev history of a run.

    Args:
        folder: where the checkpoint is kept.
        parameters: the trained parameters by name.
        optimizer: of the kind of Adam, over them.
        run: what the run does; a checkpoint of another run is refused.
    """

    def __init__(
        self, folder: Path, parameters: dict[str, nn.Parameter], optimizer: torch.optim.Optimizer, run: dict[str, Any]
    ) -> None:
        self.folder = folder
        self.path = folder / CHECKPOINT
        self.parameters = parameters
        self.optimizer = optimizer
        self.run = run
        self.best: dict[str, Tensor] = {}
        self.best_step = 0
        self.best_f1: float | None = None
        self.history: list[tuple[int, float]] = []

    def keep(self, step: int, f1: float | None) -> bool:
        """Note a look at the dev set (or, without one, the end of it); whether these are the best weights so far."""
        if f1 is not None:
            self.history.append((step, f1))
            if self.best_f1 is not None and f1 <= self.best_f1:
                return False
        self.best_f1, self.best_step = f1, step
        self.best = {name: p.detach().clone() for name, p in self.parameters.items()}
        return True

    def save(self, step: int) -> None:
        """Write the state after a step."""
        tensors: dict[str, Tensor] = {}
        for name, parameter in self.parameters.items():
            moments = self.optimizer.state[parameter]
            tensors[f"weight/{name}"] = parameter.detach()
            tensors[f"first/{name}"] = moments["exp_avg"]
            tensors[f"second/{name}"] = moments["exp_avg_sq"]
        tensors |= {f"best/{name}": tensor for name, tensor in self.best.items()}
        notes = {
            "run": self.run, "step": step, "history": self.history, "best_f1": self.best_f1, "best_step": self.best_step
        }  # fmt: skip
        contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
        write_atomically(self.path, save(contiguous, metadata={"state": json.dumps(notes)}))

    def restore(self) -> int:
        """Take over the checkpoint, if there is one; the number of steps done.

        Raises:
            SettingError: if it is of a run with other settings or data.
            ModelFileError: if it is damaged.
        """
        if not self.path.exists():
            self._sweep()
            return 0
        try:
            with safe_open(str(self.path), framework="pt") as file:
                notes = json.loads(file.metadata()["state"])
                if differing := differing_settings(notes["run"], self.run):
                    raise SettingError(
                        f"{self.path} is the checkpoint of a run with other {', '.join(differing)}: "
                        "give another output folder, the same settings, or overwrite=True"
                    )
                step = int(notes["step"])
                self.history = [(int(at), float(f1)) for at, f1 in notes["history"]]
                self.best_f1, self.best_step = notes["best_f1"], int(notes["best_step"])
                with torch.no_grad():
                    for name, parameter in self.parameters.items():
                        parameter.copy_(file.get_tensor(f"weight/{name}"))
                        self.optimizer.state[parameter] = {
                            "step": torch.tensor(float(step), device=parameter.device),
                            "exp_avg": file.get_tensor(f"first/{name}").to(parameter.device),
                            "exp_avg_sq": file.get_tensor(f"second/{name}").to(parameter.device),
                        }
                        if self.best_step:
                            self.best[name] = file.get_tensor(f"best/{name}").to(parameter.device)
        except SettingError:
            raise
        except (OSError, SafetensorError, KeyError, TypeError, ValueError, RuntimeError, AttributeError) as error:
            raise ModelFileError(f"{self.path} is damaged ({error}): delete it to start anew") from error
        self._sweep()
        return step

    def _sweep(self) -> None:
        """Removes what a run that was killed while it saved has left."""
        for path in (self.path, self.path.with_name(REPORT)):
            for left in path.parent.glob(f"{unfinished(path)}*"):
                left.unlink(missing_ok=True)
        for left in self.path.parent.glob(f"{STAGE}*"):
            shutil.rmtree(left, ignore_errors=True)

    def load_best(self, model: MetaNER) -> None:
        """Put the best weights into the model."""
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                parameter.copy_(self.best[name])
        model.network.eval()

    def discard(self) -> None:
        """Remove the checkpoint: the run is finished, and everything of it saved."""
        self.path.unlink(missing_ok=True)
