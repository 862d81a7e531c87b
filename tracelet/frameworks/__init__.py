"""The libraries whose calls are recorded, and what a framework of another package is made of."""

from tracelet.frameworks.base import Framework
from tracelet.frameworks.parameters import record_parameters
from tracelet.frameworks.places import Place
from tracelet.frameworks.table import SETTINGS, install_all, uninstall_all
from tracelet.guard import guard
from tracelet.patching import Switch, Wrapper, after

__all__ = [
    "SETTINGS",
    "Framework",
    "Place",
    "Switch",
    "Wrapper",
    "after",
    "guard",
    "install_all",
    "record_parameters",
    "uninstall_all",
]
