"""Lightning: a LightningModule with `backbone` and `head`, the backbone frozen by the BackboneFinetuning callback."""

from task import (
    LEARNING_RATE,
    WORKERS,
    Clock,
    answer,
    count_trained,
    load_network,
    read_arguments,
    trained_modules,
    view,
)

# isort: split
import lightning as L  # noqa: N812
import torch
from lightning.pytorch.callbacks import BackboneFinetuning, Callback
from torch import nn
from torch.utils.data import DataLoader
from torchmetrics.functional import accuracy
from torchvision.datasets import ImageFolder


class Classifier(L.LightningModule):
    def __init__(self, backbone: nn.Module, head: nn.Module, classes: int):
        super().__init__()
        self.backbone, self.head, self.classes = backbone, head, classes

    def training_step(self, batch, _):
        images, labels = batch
        loss = nn.functional.cross_entropy(self.head(self.backbone(images)), labels)
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch, _):
        images, labels = batch
        logits = self.head(self.backbone(images))
        self.log("val_loss", nn.functional.cross_entropy(logits, labels))
        self.log("val_acc", accuracy(logits, labels, task="multiclass", num_classes=self.classes))

    def configure_optimizers(self):
        return torch.optim.Adam(filter(lambda p: p.requires_grad, self.parameters()), lr=LEARNING_RATE)


class Timer(Callback):
    def __init__(self):
        self.clock = Clock()

    def on_train_start(self, *_):
        self.clock.begin()

    def on_train_epoch_end(self, *_):
        self.clock.epoch()  # Lightning validates before this hook


def backbone_and_head(network: nn.Module, trained: list[nn.Module]) -> tuple[nn.Module, nn.Module]:
    """timm's networks are chains of their children; the cut is where the first trained module begins."""
    layers = [m for c in network.children() for m in (c if isinstance(c, nn.Sequential) else [c])]
    if trained[0] not in layers:
        layers = list(network.children())
    first = layers.index(trained[0])
    return nn.Sequential(*layers[:first]), nn.Sequential(*layers[first:])


args = read_arguments()
train_set, val_set = (ImageFolder(args.data / split, view(args.arch)) for split in ("train", "val"))
train_loader = DataLoader(train_set, batch_size=args.batch_size, shuffle=True, num_workers=WORKERS)
val_loader = DataLoader(val_set, batch_size=args.batch_size, num_workers=WORKERS)

network = load_network(args.arch, args.weights, len(train_set.classes))
model = Classifier(*backbone_and_head(network, trained_modules(network, args.arch, args.train)), len(train_set.classes))
timer = Timer()
trainer = L.Trainer(
    accelerator="cpu",
    max_epochs=args.epochs,
    callbacks=[BackboneFinetuning(unfreeze_backbone_at_epoch=args.epochs), timer],  # never within these epochs
    num_sanity_val_steps=0,
    enable_checkpointing=False,
    enable_progress_bar=False,
    logger=False,
)
trainer.fit(model, train_loader, val_loader)
answer(float(trainer.callback_metrics["val_acc"]), timer.clock, count_trained(model))
