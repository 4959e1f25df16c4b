# %% [markdown]
# # Detect objects
#
# This tutorial trains RetinaNet with a small GLNet on generated images with boxes. Two minutes of training are not
# enough for a good detector. [Detection](../detection.md) has results of complete training runs, and describes Mask
# R-CNN and the format for your own data (COCO's JSON).

# %%
# !glmix fit --config detection/scenes/detection_retinanet --data.scenes.size 64 \
#     --data.scenes.shapes '[disc]' --data.train_count 600 --data.val_count 60 \
#     --model.detector.min_size 64 --model.detector.max_size 64 \
#     --model.model_args.widths '[16,32,64,96]' --model.schedule.warmup_steps 50 \
#     --model.optimizer.lr 2e-3 --trainer.max_epochs 4 --trainer.default_root_dir out/retinanet \
#     --logger csv

# %% [markdown]
# The score is the average precision (AP) of COCO: for each class, the area under the curve of precision over recall,
# for IoU thresholds from 0.5 to 0.95. `box_AP50` counts a detection as correct if its IoU is at least 0.5.
#
# ## Detect objects in an image
#
# After these few steps, the network finds boxes, but confuses the two classes, which differ in texture.

# %%
from PIL import Image

from glmix.data import SceneConfig, draw_scene
from glmix.tasks.detection.predictor import DetectionPredictor, overlay

detect = DetectionPredictor.from_checkpoint("out/retinanet/checkpoints/best.ckpt", score=0.3)
scene = draw_scene(SceneConfig(size=64, shapes=("disc",)), "test", 4)
image = Image.fromarray(scene.image)
found = detect(image)
for box, label, score in zip(found.boxes.tolist(), found.labels.tolist(), found.scores.tolist(), strict=True):
    print([round(value) for value in box], detect.class_names[label - 1], f"{score:.2f}")
print("ground truth", scene.boxes.tolist())

# %%
large = image.resize((320, 320))
overlay(large, detect(large), detect.class_names)

# %% [markdown]
# `glmix detect photos --checkpoint best.ckpt -o found` does this for files. With `--annotations FILE`, it computes the
# AP for the ground truth in a COCO JSON.
