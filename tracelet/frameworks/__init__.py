"""The libraries whose calls are recorded."""

from tracelet.frameworks.table import install_all, uninstall_all

__all__ = ["install_all", "uninstall_all"]
