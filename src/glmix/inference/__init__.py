"""Inference on many images: predictions and embeddings, with decoding in worker processes and resumable results."""

from .embeddings import Embeddings, Slots, load_embeddings
from .opening import open_source
from .outputs import Embedding, Output, Predictions, SlotEmbedding, label_names
from .pipeline import Summary, run, run_to_folder, share_of_process
from .probes import LinearProbe, few_shot_probes, knn_classify, linear_probe
from .ray_engine import RayEngine
from .results import ResultFolder, model_fingerprint
from .search import build_index, near_duplicates, nearest, nearest_parts
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
    "SlotEmbedding",
    "Slots",
    "Source",
    "Summary",
    "Tar",
    "build_index",
    "few_shot_probes",
    "find_images",
    "fingerprint",
    "knn_classify",
    "label_names",
    "linear_probe",
    "load_embeddings",
    "model_fingerprint",
    "near_duplicates",
    "nearest",
    "nearest_parts",
    "open_source",
    "run",
    "run_to_folder",
    "share_of_process",
]
