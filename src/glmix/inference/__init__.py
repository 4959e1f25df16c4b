"""Inference on many images: predictions and embeddings, with decoding in worker processes and resumable results."""

from .embeddings import Embeddings, LinearProbe, knn_classify, linear_probe, load_embeddings, near_duplicates, nearest
from .opening import open_source
from .outputs import Embedding, Output, Predictions, label_names
from .pipeline import Summary, run, run_to_folder, share_of_process
from .ray_engine import RayEngine
from .results import ResultFolder, model_fingerprint
from .sources import Files, HuggingFace, Source, Tar, find_images, fingerprint

__all__ = [
    "Embedding",
    "Embeddings",
    "Files",
    "HuggingFace",
    "LinearProbe",
    "Output",
    "Predictions",
    "RayEngine",
    "ResultFolder",
    "Source",
    "Summary",
    "Tar",
    "find_images",
    "fingerprint",
    "knn_classify",
    "label_names",
    "linear_probe",
    "load_embeddings",
    "model_fingerprint",
    "near_duplicates",
    "nearest",
    "open_source",
    "run",
    "run_to_folder",
    "share_of_process",
]
