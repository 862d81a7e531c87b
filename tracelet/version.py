"""The version, as the package was installed; kept here so that nothing has to ask the installation for it."""

__version__ = "0.1.0"
