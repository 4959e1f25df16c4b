# %% [markdown]
# # Export and run without PyTorch
#
# This tutorial exports a checkpoint to an ONNX file, and runs the file in a program that needs neither PyTorch nor
# `glmix`.

# %%
# !glmix fit --config classification/scenes/single --data.scenes.size 48 --data.train_count 1500 --data.val_count 200 \
#     --trainer.max_epochs 5 --model.schedule.warmup_epochs 1 --trainer.default_root_dir out/start \
#     --logger csv

# %% [markdown]
# ## Export
#
# The command compares the outputs of the file with those of the model at several image sizes, and keeps the file only
# if they agree. `--preprocess` includes the normalisation in the file. `--runner` also writes the module
# `onnx_model.py`, which runs the file.

# %%
# !glmix export --checkpoint out/start/checkpoints/best.ckpt --preprocess --runner -o model.onnx
# !ls -s --block-size=1K model.onnx onnx_model.py

# %% [markdown]
# ## Run
#
# This program imports neither PyTorch nor `glmix`. The file contains the class names.

# %%
# !glmix scenes photos --layout imagefolder --size 48 --count-train 60 --count-val 12

# %%
# %%writefile run.py
import sys

from onnx_model import OnnxModel

model = OnnxModel("model.onnx")
for file in sys.argv[1:]:
    probabilities = model(file)["probabilities"]
    name = model.about["class_names"][probabilities.argmax()]
    print(f"{file}: {name} ({probabilities.max():.1%})")
print("torch" in sys.modules, "glmix" in sys.modules)

# %%
# !python run.py photos/val/*/*.png

# %% [markdown]
# ## Speed
#
# `glmix bench glnet_4g --forms eager optimized fused+onnxruntime` compares the speed of a model in PyTorch and in
# onnxruntime on your machine. [Speed and memory](../speed.md) has measurements.
#
# [Deployment](../deploy.md) describes other formats, segmentation networks, detectors, and int8 quantisation.
