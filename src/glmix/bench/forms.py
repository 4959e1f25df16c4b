"""How a model is run, in words joined by `+`: `eager`, `fused+bf16`, `int8+onnxruntime`."""

from dataclasses import dataclass

from ..errors import InputError

__all__ = ["DEFAULT_FORMS", "Form", "WORDS"]

WORDS = {
    "eager": "as the model is",
    "plain": "a GLNet written the plain way: NCHW, nn.MultiheadAttention, nothing fused (glmix.bench.plain)",
    "fused": "norms, scales and identities folded into their neighbours (glmix.deploy.fuse); a GLNet alone",
    "optimized": "glmix.deploy.optimize_for_inference: fused where it is a GLNet, channels-last",
    "channels_last": "weights and images in channels-last memory",
    "keep_memory": "freed memory is kept for the next tensors (glmix.memory); optimized does so by itself",
    "bf16": "computed in bfloat16; in training by autocast",
    "int8": "quantised, by generated images; a GLNet in onnxruntime or openvino alone",
    "compiled": "torch.compile, with weights frozen where it is no training",
    "onnxruntime": "exported and run there, on the CPU",
    "openvino": "exported and run there, on the CPU",
}
DEFAULT_FORMS = ("eager", "optimized", "optimized+bf16")

NETWORKS = ("eager", "plain", "fused", "optimized")
RUNTIMES = ("compiled", "onnxruntime", "openvino")
FOR_TRAINING = ("eager", "plain", "channels_last", "keep_memory", "bf16", "compiled")


@dataclass(frozen=True)
class Form:
    """One way to run a model.

    Args:
        network: eager, plain, fused or optimized.
        runtime: compiled, onnxruntime, openvino; '' for PyTorch as it is.
        words: all that were given.
    """

    text: str
    network: str
    runtime: str
    words: frozenset[str]

    @classmethod
    def parse(cls, text: str, *, training: bool = False) -> "Form":
        """Read a form, or say which words there are, or which of those do not go together."""
        words = text.split("+")
        unknown = [word for word in words if word not in WORDS]
        if unknown:
            raise InputError(f"No form {unknown[0]!r} in {text!r}: the words are {', '.join(WORDS)}, joined by +.")

        def refuse(why: str) -> None:
            raise InputError(f"The form {text!r} means nothing: {why}.")

        if len(set(words)) < len(words):
            refuse("a word stands in it twice")
        for group in (NETWORKS, RUNTIMES):
            if len(set(words) & set(group)) > 1:
                refuse(f"it can have one of {', '.join(group)}")
        network = next((word for word in words if word in NETWORKS), "eager")
        runtime = next((word for word in words if word in RUNTIMES), "")
        exported = runtime in ("onnxruntime", "openvino")
        if training and not set(words) <= set(FOR_TRAINING):
            refuse(f"in training there are {', '.join(FOR_TRAINING)}")
        if "int8" in words and not exported:
            refuse("int8 is there with onnxruntime and openvino")
        if "int8" in words and network == "plain":
            refuse("int8 is made of the model as it is, or fused")
        if "bf16" in words and runtime == "onnxruntime":
            refuse("onnxruntime computes in the file's float32; bf16 is there in PyTorch and with openvino")
        if "channels_last" in words and (exported or network in ("plain", "optimized")):
            refuse("channels_last goes with eager or fused, compiled or not")
        if "keep_memory" in words and (exported or network == "optimized"):
            refuse("keep_memory goes with PyTorch, where optimized does it by itself")
        if network == "optimized" and exported:
            refuse("what is exported is the model, fused or plain; optimized is for PyTorch")
        return cls(text, network, runtime, frozenset(words))

    @property
    def is_exported(self) -> bool:
        return self.runtime in ("onnxruntime", "openvino")

    @property
    def needs_glnet(self) -> bool:
        """Whether there is no such form of other models."""
        return self.network in ("plain", "fused") or "int8" in self.words

    @property
    def precision(self) -> str:
        """In what its products are computed."""
        return "int8" if "int8" in self.words else "bfloat16" if "bf16" in self.words else "float32"

    def __str__(self) -> str:
        return self.text
