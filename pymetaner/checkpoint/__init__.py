"""Model folders: finding, loading and saving them.

A folder holds what `AutoModelForTokenClassification` needs (config, safetensors weights, tokenizer) and, if pymetaner
wrote it, ``pymetaner.json`` (the settings), ``source.safetensors`` (vectors of what it learned from, if that is known)
and ``memory.sqlite`` (the memory, if it is not empty).
"""

from pymetaner.checkpoint.loading import default_settings, find, label_names, load, new
from pymetaner.checkpoint.saving import save

__all__ = ["default_settings", "find", "label_names", "load", "new", "save"]
