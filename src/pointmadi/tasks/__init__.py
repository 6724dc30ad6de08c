"""What an encoder is for: a batch in, a dict of losses out, and answers."""

from pointmadi.models.encoder import PointEncoder
from pointmadi.tasks.classification import Classifier, ClassifierConfig
from pointmadi.tasks.segmentation import Segmenter, SegmenterConfig

__all__ = ["Classifier", "ClassifierConfig", "Segmenter", "SegmenterConfig", "Task", "TaskConfig", "build_task"]

TaskConfig = ClassifierConfig | SegmenterConfig
Task = Classifier | Segmenter


def build_task(encoder: PointEncoder, num_classes: int, config: TaskConfig) -> Task:
    """Build the task that `config` belongs to, around an encoder."""
    match config:
        case ClassifierConfig():
            return Classifier(encoder, num_classes, config)
        case SegmenterConfig():
            return Segmenter(encoder, num_classes, config)
