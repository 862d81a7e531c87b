"""What the run was: parameters, code, packages, machine; how the machine fares; what the script prints."""

from tracelet.provenance.beginning import SETTINGS, begin

__all__ = ["SETTINGS", "begin"]
