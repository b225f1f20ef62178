"""ROC curves of any number of pixels, from histograms of their scores that are filled batch by batch."""

from dataclasses import dataclass

import torch

from hfseg.losses import upsample

NUM_BINS = 2**14
FINEST = 1e-3  # log-odds: scores this near to the middle get bins of equal width, others bins that grow with distance
LIMIT = 17.0  # asinh(1.2e4 / FINEST): what is further away shares the last bin


@dataclass
class RocCurve:
    """One class against the rest.

    Attributes:
        false_positive_rate: from 0 to 1, at thresholds from high to low.
        true_positive_rate: at the same thresholds.
        auc: area below, None where the truth has no pixel of the class or no other.
    """

    false_positive_rate: list[float]
    true_positive_rate: list[float]
    auc: float | None


class ScoreHistogram:
    """Counts pixels by score, for each class apart into those of the class and the others.

    The score is the log-odds of the softmax, which has the same order as the probability but keeps apart what lies
    close to 0 and 1. Bins are narrow around each class's median score of the first batch and widen with the distance
    from it (equal in asinh), so that a network that tells classes apart by little is measured as finely as one that
    is sure of itself. `counts`, (C, 2, bins) int64 with the others first, stays on the device of the logits: memory
    does not grow with the number of pixels. The area under a curve takes the pixels of one bin as ties.

    Args:
        num_labels: number of classes C.
        num_bins: of one class.
    """

    def __init__(self, num_labels: int, num_bins: int = NUM_BINS, device: torch.device | str | None = None) -> None:
        self.num_labels, self.num_bins = num_labels, num_bins
        self.counts = torch.zeros(num_labels, 2, num_bins, dtype=torch.int64, device=device)
        self.middles: torch.Tensor | None = None  # (C,) log-odds

    @torch.no_grad()
    def update(self, logits: torch.Tensor, labels: torch.Tensor) -> None:
        """Adds a batch.

        Args:
            logits: (B, C, h, w) float; brought to the labels' size.
            labels: (B, H, W) integer; a pixel counts where 0 <= label < C.
        """
        logits = upsample(logits.float(), labels.shape[-2:])
        self.counts = self.counts.to(logits.device)
        labels = labels.long()
        counted = (labels >= 0) & (labels < self.num_labels)
        logits, labels = logits.movedim(1, -1)[counted], labels[counted]  # (N, C), (N,)
        if not len(labels):
            return
        if self.middles is None:
            self.middles = torch.stack([log_odds(logits, c).median() for c in range(self.num_labels)])
        for class_id in range(self.num_labels):
            distance = (log_odds(logits, class_id) - self.middles[class_id]) / FINEST
            bins = ((distance.asinh() / LIMIT + 1) / 2 * self.num_bins).long().clamp(0, self.num_bins - 1)
            cells = bins + self.num_bins * (labels == class_id)
            self.counts[class_id] += torch.bincount(cells, minlength=2 * self.num_bins).view(2, self.num_bins)

    def compute(self, num_points: int = 200) -> list[RocCurve]:
        """One curve per class, thinned to about `num_points`; the area comes from all bins."""
        return [self._curve(counts.double().cpu().flip(-1), num_points) for counts in self.counts]

    def _curve(self, counts: torch.Tensor, num_points: int) -> RocCurve:
        totals = counts.sum(1)
        if (totals == 0).any():
            return RocCurve([], [], None)
        rates = torch.cat([torch.zeros(2, 1, dtype=torch.float64), counts.cumsum(1)], 1) / totals[:, None]
        false_rate, true_rate = rates
        auc = torch.trapezoid(true_rate, false_rate).item()
        # Points at even steps along the curve: few where it is straight in neither rate.
        length = (false_rate + true_rate) / 2
        wanted = torch.linspace(0, 1, num_points, dtype=torch.float64)
        picks = torch.unique(torch.searchsorted(length, wanted).clamp(max=len(length) - 1))
        return RocCurve(false_rate[picks].tolist(), true_rate[picks].tolist(), auc)


def log_odds(logits: torch.Tensor, class_id: int) -> torch.Tensor:
    """(N, C) logits to the (N,) logarithm of p / (1 - p) of one class's softmax p."""
    others = torch.cat([logits[:, :class_id], logits[:, class_id + 1 :]], 1)
    return logits[:, class_id] - others.logsumexp(1)
