"""An error as columns."""

from __future__ import annotations


def error_columns(error: Exception) -> dict[str, str]:
    """Turn an error into the error columns of a row; its class says the stage.

    Example:
        >>> error_columns(ValueError("no"))
        {'error_stage': 'unknown', 'error_type': 'ValueError', 'error_message': 'no'}
    """
    return {
        "error_stage": str(getattr(error, "stage", "unknown")),
        "error_type": type(error).__name__,
        "error_message": str(error),
    }
