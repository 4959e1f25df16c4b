"""Execution modes of a model, written as words joined by `+`: `eager`, `fused+bf16`, `int8+onnxruntime`."""

from dataclasses import dataclass

from ..errors import InputError

__all__ = ["DEFAULT_FORMS", "Form", "WORDS"]

WORDS = {
    "eager": "the unchanged model in PyTorch eager mode",
    "plain": "a reference implementation of GLNet: NCHW, nn.MultiheadAttention, no fusion (glmix.bench.plain)",
    "fused": "norms, scales and residual convolutions merged into adjacent layers (glmix.deploy.fuse); only for GLNets",
    "optimized": "glmix.optimize_for_inference: channels-last, and fused if the model is a GLNet; in training "
    "glmix.optimize_for_training: channels-last, faster layers on a CPU, and fused AdamW",
    "channels_last": "weights and images in channels-last memory",
    "keep_memory": "freed memory is kept for later tensors (glmix.memory); included in optimized",
    "bf16": "bfloat16; in training with autocast",
    "int8": "quantised with generated images; only for GLNets in onnxruntime or openvino",
    "compiled": "torch.compile; for inference with frozen weights",
    "cuda_graphs": "compiled with CUDA graphs, on a GPU",
    "onnxruntime": "exported and run in onnxruntime on the CPU",
    "openvino": "exported and run in OpenVINO on the CPU",
}
DEFAULT_FORMS = ("eager", "optimized", "optimized+bf16")

NETWORKS = ("eager", "plain", "fused", "optimized")
RUNTIMES = ("compiled", "onnxruntime", "openvino")
FOR_TRAINING = ("eager", "plain", "optimized", "channels_last", "keep_memory", "bf16", "compiled", "cuda_graphs")


@dataclass(frozen=True)
class Form:
    """An execution mode of a model.

    Args:
        text: the words joined by `+`, as given by the user.
        network: eager, plain, fused or optimized.
        runtime: compiled, onnxruntime or openvino; '' for PyTorch without compilation.
        words: the set of all words.
    """

    text: str
    network: str
    runtime: str
    words: frozenset[str]

    @classmethod
    def parse(cls, text: str, *, training: bool = False) -> "Form":
        """Parse a form.

        Args:
            text: words joined by `+`.
            training: whether the form is for training steps.

        Raises:
            InputError: a word is unknown, or the words cannot be combined.
        """
        words = text.split("+")
        unknown = [word for word in words if word not in WORDS]
        if unknown:
            raise InputError(f"Unknown word {unknown[0]!r} in the form {text!r}; the words are {', '.join(WORDS)}.")

        def reject(reason: str) -> None:
            raise InputError(f"The form {text!r} is invalid: {reason}.")

        if len(set(words)) < len(words):
            reject("it contains a word twice")
        for group in (NETWORKS, RUNTIMES):
            if len(set(words) & set(group)) > 1:
                reject(f"it can contain only one of {', '.join(group)}")
        network = next((word for word in words if word in NETWORKS), "eager")
        runtime = next((word for word in words if word in RUNTIMES), "")
        exported = runtime in ("onnxruntime", "openvino")
        if training and not set(words) <= set(FOR_TRAINING):
            reject(f"training supports only {', '.join(FOR_TRAINING)}")
        if "int8" in words and not exported:
            reject("int8 needs onnxruntime or openvino")
        if "int8" in words and network == "plain":
            reject("int8 can be combined with eager or fused, not with plain")
        if "bf16" in words and runtime == "onnxruntime":
            reject("onnxruntime computes in float32; bf16 needs PyTorch or openvino")
        if "channels_last" in words and (exported or network in ("plain", "optimized")):
            reject("channels_last can be combined only with eager or fused in PyTorch")
        if "keep_memory" in words and (exported or network == "optimized"):
            reject("keep_memory needs PyTorch, and optimized already includes it")
        if network == "optimized" and exported:
            reject("optimized needs PyTorch; an exported model can be eager, fused or plain")
        if "cuda_graphs" in words and runtime != "compiled":
            reject("cuda_graphs needs compiled")
        return cls(text, network, runtime, frozenset(words))

    @property
    def is_exported(self) -> bool:
        """Whether the model is exported to a file."""
        return self.runtime in ("onnxruntime", "openvino")

    @property
    def needs_glnet(self) -> bool:
        """Whether the form supports only GLNets."""
        return self.network in ("plain", "fused") or "int8" in self.words

    @property
    def precision(self) -> str:
        """The data type of matrix products and convolutions."""
        return "int8" if "int8" in self.words else "bfloat16" if "bf16" in self.words else "float32"

    def __str__(self) -> str:
        return self.text
