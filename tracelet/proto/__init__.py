"""The wire contract: generated messages (`v1`) and their translation to and from records (`codec`)."""
