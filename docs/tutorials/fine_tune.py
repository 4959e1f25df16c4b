# %% [markdown]
# # Fine-tune on your own photographs
#
# This tutorial trains and evaluates a classifier on images in one folder per class. The "photographs" are generated
# images, so that the notebook needs no download; replace the folder by yours.

# %%
# !glmix scenes photos --layout imagefolder --size 48 --count-train 400 --count-val 200
# !ls photos photos/train

# %% [markdown]
# ## Initial weights
#
# Fine-tuning starts from weights that were trained on other images, such as the authors' ImageNet weights. This
# notebook trains initial weights on images with other textures. If you have the authors' weights, leave out this step,
# and use `--model.checkpoint glnet_4g.pth` below.

# %%
# !glmix fit --config classification/scenes/single --data.scenes.size 48 --data.train_count 1500 --data.val_count 200 \
#     --data.scenes.textures '[dots,zigzag]' --trainer.max_epochs 6 \
#     --model.schedule.warmup_epochs 1 --trainer.default_root_dir out/start --logger csv

# %% [markdown]
# ## Train
#
# The recipe `classification/finetune/folder` trains all layers, with a learning rate that decreases from the head to
# the stem (layer decay). `glmix configs classification/finetune/folder` prints the recipe; every key is also an option.

# %%
# !glmix fit --config classification/finetune/folder --data.source.root photos \
#     --model.checkpoint out/start/checkpoints/best.ckpt --model.model test_glnet \
#     --model.model_args.depths '[1,1,1,1]' --data.transforms.size 48 --data.num_workers 0 \
#     --trainer.max_epochs 5 --model.schedule.warmup_epochs 1 --model.optimizer.lr 4e-3 \
#     --trainer.default_root_dir out/photos --logger csv

# %% [markdown]
# The same command resumes an interrupted run, and does nothing if the run has finished.
#
# ## Evaluate
#
# `validate` prints the scores of the best weights and writes a report with the confusion matrix and the most confident
# mistakes.

# %%
# !glmix validate --config classification/finetune/folder --data.source.root photos \
#     --model.model test_glnet --model.model_args.depths '[1,1,1,1]' --data.transforms.size 48 \
#     --data.num_workers 0 --trainer.default_root_dir out/photos --logger csv

# %% [markdown]
# ## Predict

# %%
# !glmix predict photos/val/03_cross_checks --checkpoint out/photos/checkpoints/best.ckpt --topk 2 | head -8

# %% [markdown]
# In Python, `glmix.load` returns the network with its class names:

# %%
from pathlib import Path

import torch
from PIL import Image

import glmix
from glmix.data.classification.views import model_input

loaded = glmix.load("out/photos/checkpoints/best.ckpt")
image = Image.open(sorted(Path("photos/val/00_disc_stripes").iterdir())[0])
with torch.inference_mode():
    probabilities = loaded.network(model_input(image, loaded.network)[None]).softmax(1)[0]
for share, name in sorted(zip(probabilities.tolist(), loaded.info["class_names"], strict=True), reverse=True)[:3]:
    print(f"{share:6.1%}  {name}")

# %% [markdown]
# Next: [Fine-tuning](../fine-tuning.md) compares frozen layers, LoRA and other methods. [Training data](../data.md)
# describes lists, several labels per image and rare classes.
