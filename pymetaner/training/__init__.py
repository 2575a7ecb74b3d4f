"""Training: the base model. Each way of training is an objective for the one loop in `trainer`."""

from pymetaner.training.trainer import TrainingReport, TrainSettings, train

__all__ = ["TrainSettings", "TrainingReport", "train"]
