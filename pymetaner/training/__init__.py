"""Training: base and meta. Each way of training is an objective for the one `loop`; `wu2020` is a preset."""

from pymetaner.training.run import run_of
from pymetaner.training.settings import MetaSettings, TrainSettings
from pymetaner.training.trainer import TrainingReport, train

__all__ = ["MetaSettings", "TrainSettings", "TrainingReport", "run_of", "train"]
