"""Runnable jobs: a short .py and its example .yaml each."""
