"""The practitioner's habit: features by timm, once and in fp32, then scikit-learn's logistic regression. Head only."""

from task import WORKERS, Clock, answer, load_network, read_arguments, view

# isort: split
import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder

args = read_arguments()
if args.train != "head":
    raise SystemExit("features are taken below the head; nothing else can be trained on them")
model = load_network(args.arch, args.weights, classes=0).eval()  # no classes: timm returns the pooled features


@torch.inference_mode()
def features(split):
    dataset = ImageFolder(args.data / split, view(args.arch))
    loader = DataLoader(dataset, batch_size=args.batch_size, num_workers=WORKERS)
    return np.concatenate([model(images).numpy() for images, _ in loader]), np.array(dataset.targets)


clock = Clock()
clock.begin()
train_features, train_labels = features("train")
val_features, val_labels = features("val")
classifier = LogisticRegression(max_iter=1000).fit(train_features, train_labels)
clock.epoch()
answer(classifier.score(val_features, val_labels), clock, classifier.coef_.size + classifier.intercept_.size)
