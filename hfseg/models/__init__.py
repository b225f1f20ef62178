from transformers import SegformerConfig, SegformerForSemanticSegmentation
def normalization(name): return (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
def build(name, labels, *, weights="scratch", freeze="none", image_size=None, aux_loss=False):
    c = SegformerConfig(id2label=labels.id2label, label2id=labels.label2id, palette=[list(c) for c in labels.palette])
    return SegformerForSemanticSegmentation(c)
