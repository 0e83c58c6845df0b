"""The report of an output: one HTML file that needs nothing else."""

from phicorpus.report.gather import gather
from phicorpus.report.render import render

__all__ = ["gather", "render"]
