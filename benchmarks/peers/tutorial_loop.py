"""The plain loop of PyTorch's "Transfer Learning for Computer Vision" tutorial."""

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
import torch
from torch import nn, optim
from torchvision import datasets

args = read_arguments()
image_datasets = {x: datasets.ImageFolder(args.data / x, view(args.arch)) for x in ["train", "val"]}
dataloaders = {
    x: torch.utils.data.DataLoader(
        image_datasets[x], batch_size=args.batch_size, shuffle=x == "train", num_workers=WORKERS
    )
    for x in ["train", "val"]
}

model = load_network(args.arch, args.weights, len(image_datasets["train"].classes))
for param in model.parameters():
    param.requires_grad = False
for module in trained_modules(model, args.arch, args.train):
    for param in module.parameters():
        param.requires_grad = True

criterion = nn.CrossEntropyLoss()
optimizer = optim.Adam([param for param in model.parameters() if param.requires_grad], lr=LEARNING_RATE)

clock = Clock()
clock.begin()
for _ in range(args.epochs):
    for phase in ["train", "val"]:
        model.train(phase == "train")
        running_corrects = 0
        for inputs, labels in dataloaders[phase]:
            optimizer.zero_grad()
            with torch.set_grad_enabled(phase == "train"):
                outputs = model(inputs)
                loss = criterion(outputs, labels)
                if phase == "train":
                    loss.backward()
                    optimizer.step()
            running_corrects += (outputs.argmax(1) == labels).sum().item()
        accuracy = running_corrects / len(image_datasets[phase])
    clock.epoch()
answer(accuracy, clock, count_trained(model))
