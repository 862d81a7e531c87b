"""The libraries whose calls are recorded."""

from tracelet.frameworks.table import SETTINGS, install_all, uninstall_all

__all__ = ["SETTINGS", "install_all", "uninstall_all"]
