from dataclasses import dataclass
import torch
from datasets import Image
from torchvision.transforms.v2 import InterpolationMode, functional as F
from transformers import SegformerImageProcessor
from hfseg.images import check_pair, describe, read_image, read_mask


def build_processor(image_size, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)):
    return SegformerImageProcessor(
        size={"height": image_size[0], "width": image_size[1]},
        image_mean=list(mean),
        image_std=list(std),
        do_reduce_labels=False,
    )


def normalize(pixel_values, processor):
    return processor.rescale_and_normalize(
        pixel_values,
        processor.do_rescale,
        processor.rescale_factor,
        processor.do_normalize,
        processor.image_mean,
        processor.image_std,
    )


@dataclass
class Augmentation:
    scale_jitter: object = None
    crop_size: object = None
    crop_max_class_share: float = 0.75
    horizontal_flip: float = 0.0
    photometric_distortion: bool = False


class SegTransform:
    def __init__(self, labels, processor, *, train=False, augmentation=None, seed=0, resolution="input"):
        self.labels, self.resolution = labels, resolution
        self.size = (processor.size["height"], processor.size["width"])

    def set_epoch(self, epoch):
        pass

    def __call__(self, batch):
        out = {"pixel_values": [], "labels": []}
        for image, mask in zip(batch["image"], batch["mask"]):
            i, m = read_image(image), read_mask(mask)
            check_pair(i, m, mask)
            m = torch.from_numpy(self.labels.encode(m, describe(mask)))
            i = F.resize(torch.from_numpy(i).permute(2, 0, 1), self.size, InterpolationMode.BILINEAR, antialias=True)
            if self.resolution == "input":
                m = F.resize(m[None], self.size, InterpolationMode.NEAREST_EXACT)[0]
            out["pixel_values"].append(i)
            out["labels"].append(m)
        return out


def prepare(dataset, transform):
    dataset = (
        dataset.select_columns(["image", "mask"])
        .cast_column("image", Image(decode=False))
        .cast_column("mask", Image(decode=False))
    )
    dataset.set_transform(transform)
    return dataset


def collate(samples):
    labels = [s["labels"] for s in samples]
    return {
        "pixel_values": torch.stack([s["pixel_values"] for s in samples]),
        "labels": torch.stack(labels) if len({l.shape for l in labels}) == 1 else labels,
    }


def class_pixels(dataset, num_labels):
    return sum(torch.bincount(s["labels"].flatten().long(), minlength=256)[:num_labels] for s in dataset)
