"""Benchmarks: multiply-accumulates, and measurements of several models in one run."""

from .macs import count_by_kind, count_macs
from .measure import Plan, measure
from .plain import plain_form
from .plot import draw
from .report import format_report

__all__ = ["Plan", "count_by_kind", "count_macs", "draw", "format_report", "measure", "plain_form"]
