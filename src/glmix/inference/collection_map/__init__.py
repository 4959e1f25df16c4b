"""A map of a collection: its images as points in two dimensions, on one HTML page."""

from .page import MapSummary, write_map
from .projection import METHODS, project

__all__ = ["METHODS", "MapSummary", "project", "write_map"]
