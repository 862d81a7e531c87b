"""The subcommands of `tracelet`, one file each."""
