"""The report of an output: one HTML file that needs nothing else."""

from pipeline.report.gather import gather
from pipeline.report.render import render

__all__ = ["gather", "render"]
