"""Training: base and meta. Each way of training is an objective for the one loop in `trainer`; `wu2020` is a preset."""

from pymetaner.training.settings import MetaSettings, TrainSettings
from pymetaner.training.trainer import TrainingReport, run_of, train

__all__ = ["MetaSettings", "TrainSettings", "TrainingReport", "run_of", "train"]
