"""Hugging Face: the image folder through `datasets`, the timm network in transformers' wrapper, and the Trainer."""

from task import (
    LEARNING_RATE,
    NAMES,
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
import tempfile

import torch
from datasets import load_dataset
from transformers import (
    TimmWrapperConfig,
    TimmWrapperForImageClassification,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

args = read_arguments()
dataset = load_dataset("imagefolder", data_dir=str(args.data))
labels = dataset["train"].features["label"].names
transform = view(args.arch)


def preprocess(batch):
    batch["pixel_values"] = [transform(image.convert("RGB")) for image in batch["image"]]
    return batch


def collate(examples):
    pixel_values = torch.stack([example["pixel_values"] for example in examples])
    return {"pixel_values": pixel_values, "labels": torch.tensor([example["label"] for example in examples])}


def compute_metrics(eval_pred):
    predictions = eval_pred.predictions.argmax(axis=1)
    return {"accuracy": float((predictions == eval_pred.label_ids).mean())}


class Timer(TrainerCallback):
    def __init__(self):
        self.clock = Clock()

    def on_train_begin(self, *_, **__):
        self.clock.begin()

    def on_evaluate(self, *_, **__):
        self.clock.epoch()


config = TimmWrapperConfig(architecture=NAMES[args.arch], id2label=dict(enumerate(labels)))
model = TimmWrapperForImageClassification(config)
model.timm_model = load_network(args.arch, args.weights, len(labels))  # the same, with the weights of this file
model.requires_grad_(False)
for module in trained_modules(model.timm_model, args.arch, args.train):
    module.requires_grad_(True)

timer = Timer()
training_args = TrainingArguments(
    output_dir=tempfile.gettempdir(),
    num_train_epochs=args.epochs,
    learning_rate=LEARNING_RATE,
    lr_scheduler_type="constant",
    per_device_train_batch_size=args.batch_size,
    per_device_eval_batch_size=args.batch_size,
    dataloader_num_workers=WORKERS,
    remove_unused_columns=False,
    eval_strategy="epoch",
    logging_strategy="epoch",
    save_strategy="no",
    use_cpu=True,
    report_to="none",
    disable_tqdm=True,
)
trainer = Trainer(
    model=model,
    args=training_args,
    data_collator=collate,
    train_dataset=dataset["train"].with_transform(preprocess),
    eval_dataset=dataset["validation"].with_transform(preprocess),
    compute_metrics=compute_metrics,
    callbacks=[timer],
)
trainer.train()
accuracy = [entry["eval_accuracy"] for entry in trainer.state.log_history if "eval_accuracy" in entry][-1]
answer(accuracy, timer.clock, count_trained(model))
