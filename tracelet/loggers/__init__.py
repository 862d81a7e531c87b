"""Loggers that a script names itself, where its library has loggers and it would rather not be listened to."""
